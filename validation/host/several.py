"""Cases of host memory of two processes: what is predicted of a node, and what the processes measure together."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from calculator.estimation.estimate import model_of, resident_state
from calculator.estimation.positions import within_positions
from calculator.run.request import parse_run
from calculator.run.run import whole_run
from calculator.run.zero_init_loading import LoadingUnderZeroInit
from validation.host.ranks import run_rank
from validation.sharding.checkpoints import run_in_processes

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCase:
    """A phase of a request in two processes.

    Attributes:
        folder: The model.
        on_device: The bytes of all these processes that would be on GPUs at the peak.
        readers: The processes that map the files, which are measured.
        maps: Whether the weights are views of the mapped file to the end.
    """

    name: str
    phase: str
    body: dict[str, Any]
    folder: Path
    on_device: int = 0
    readers: int = COUNT
    maps: bool = False

    @property
    def predicted(self) -> int:
        """The bytes of the phase in the answer, with those that would be on GPUs."""
        phases = whole_run(parse_run(self.body)).phases
        return next(phase.host_bytes for phase in phases if phase.name == self.phase) + self.on_device


def node_loading_cases(config: dict[str, Any], folder: Path) -> Iterator[NodeCase]:
    """Loading under DDP and FSDP2, in the checkpoint's dtype and in another one."""
    for sharding in ("ddp", "fsdp"):
        for dtype in ("bfloat16", "float32"):
            training = {"dtype": dtype, "sequence_length": 8, "autocast": "bfloat16"}
            yield NodeCase(
                name=f"load bfloat16 as {dtype} in {COUNT} processes, {sharding}",
                phase="load",
                body=_body(config, sharding, training),
                folder=folder,
                maps=sharding == "ddp" and dtype == "bfloat16",
            )


def zero_3_loading_cases(config: dict[str, Any], folder: Path) -> Iterator[NodeCase]:
    """Loading for ZeRO-3: under deepspeed.zero.Init, and whole, in the checkpoint's dtype and in another one.

    Under zero.Init, the first process is measured, with its partitions and a gathered module, which would be on a GPU.
    """
    for is_partitioned in (True, False):
        for dtype in ("bfloat16", "float32"):
            training = {"dtype": dtype, "sequence_length": 8, "deepspeed": {"zero3_init_flag": is_partitioned}}
            if dtype == "bfloat16" or not is_partitioned:
                training["autocast"] = "bfloat16"
            body = _body(config, "zero3", training)
            yield NodeCase(
                name=f"load bfloat16 as {dtype} in {COUNT} processes, zero3{', zero.Init' * is_partitioned}",
                phase="load",
                body=body,
                folder=folder,
                on_device=_while_reading(body) if is_partitioned else 0,
                readers=1 if is_partitioned else COUNT,
                maps=dtype == "bfloat16" and not is_partitioned,
            )


def _while_reading(body: dict[str, Any]) -> int:
    """Return the most bytes on a GPU while a model is filled under deepspeed.zero.Init."""
    estimate = parse_run(body).estimate
    model = model_of(estimate.model)
    state = resident_state(within_positions(estimate, model)).partitioned
    assert state is not None
    *_, (alive, _) = LoadingUnderZeroInit(state).moments()
    return sum(size for _, size in alive)


def node_evaluation_cases(config: dict[str, Any], folder: Path, tokens: int, batches: int) -> Iterator[NodeCase]:
    """Gathering the logits of all processes, at once and in groups of two batches.

    A GPU has the last batch, to which the loop refers while it moves a group to the host, and the group. `at once`,
    moving copies nothing on a CPU, so that the group is the copy on the host.
    """
    rows = 2
    for steps in (None, 2):
        run = {
            "eval_strategy": "steps",
            "compute_metrics": True,
            "per_device_eval_batch_size": rows,
            "eval_samples": rows * COUNT * batches,
            "eval_accumulation_steps": steps,
        }
        row = tokens * (2 * config["vocab_size"] + 8)
        yield NodeCase(
            name=f"evaluate in {COUNT} processes, logits {f'{steps} batches at a time' if steps else 'at once'}",
            phase="evaluation",
            body=_body(config, "ddp", {"dtype": "bfloat16", "sequence_length": tokens}, **run),
            folder=folder,
            on_device=COUNT * (1 + (steps or 0)) * COUNT * rows * row,
        )


def _body(config: dict[str, Any], sharding: str, training: dict[str, Any], **run: Any) -> dict[str, Any]:
    return {
        "model": {"config": config},
        "method": {"name": "full"},
        "training": training,
        "device": {"count": COUNT, "sharding": sharding},
        "reserved": "rule",
        "run": {"checkpoint_dtype": "bfloat16", "save_strategy": "no", **run},
    }


def measured_on_node(case: NodeCase, tiny: Path) -> int:
    """Return the bytes by which the processes grew together, with mapped files counted once.

    The proportional resident set divides what is mapped by the processes. Where the file is closed after the peak, its
    bytes are subtracted from the sum of the resident sets.
    """
    with TemporaryDirectory() as folder:
        given = (case.body, case.phase, str(case.folder), str(tiny), folder)
        run_in_processes(run_rank, COUNT, given, measures=True)
        grown = [json.loads(Path(folder, f"grown-{rank}").read_text(encoding="utf-8")) for rank in range(COUNT)]
    if case.maps:
        return sum(process["proportional"] for process in grown)
    mapped = sum(path.stat().st_size for path in case.folder.glob("*.safetensors")) if case.phase == "load" else 0
    return sum(process["bytes"] for process in grown[: case.readers]) - (case.readers - 1) * mapped
