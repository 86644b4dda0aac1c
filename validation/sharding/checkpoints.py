"""Save the checkpoint of a run on several processes on the CPU (gloo), and compare its files with the prediction.

python -m validation checkpoints REQUEST.json ...

The real Trainer takes one step under FSDP2 or DeepSpeed. Of DeepSpeed's files, which have its own state in them too,
the tensors are compared.

With --host, the growth of the resident sets is compared too. What a GPU would have is in them: under FSDP and
ZeRO-3, the first process also gathers tensors. Only of large models is the growth more than what Python allocates.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest import mock
from zipfile import ZipFile

import torch
import torch.distributed as dist
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from transformers import Trainer, TrainingArguments

from calculator.inputs.sharding import parse_sharding
from calculator.run.request import parse_run
from calculator.run.run import whole_run
from validation.cli.files import read_request
from validation.host.child import CLEAR_REFS, resident
from validation.reference.build import build_model
from validation.reference.trainers.meta_device import CAPABILITIES
from validation.sharding.launch import arguments as distributing
from validation.sharding.streams import Streams
from validation.sharding.zero_init import applies
from validation.tracing.silence import silence_libraries

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator

    from calculator.inputs.sharding import Sharding
    from calculator.run.answer import SavedFile, WholeRun

#: The largest error of host memory that passes.
MOST_HOST = 0.03

#: glibc returns freed memory of this size and above to the system, so that what is freed before is not used again.
RETURNS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_MMAP_MAX_": "10000000"}

#: The tokens of the only row of the data set.
TOKENS = 8


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--host", action="store_true", help="compare the host memory of saving, of large models")
    parser.add_argument("requests", nargs="+", help="files of run requests with device.count and device.sharding")


def run(args: argparse.Namespace) -> int:
    """Train, save, compare and print; returns 1 if a file's bytes differ."""
    silence_libraries()
    torch.set_num_threads(1)
    differ = False
    for name in args.requests:
        body = read_request(name)
        answer = whole_run(parse_run(body))
        predicted = answer.files
        with TemporaryDirectory() as folder:
            _train(body, folder, measures=args.host)
            if args.host:
                expected, grown = on_host(answer, body["device"]), _grown(folder, body["device"])
                differ = differ or abs(expected / grown - 1) > MOST_HOST
                print(f"{name}: host: predicted {expected:,}, measured {grown:,}, error {expected / grown - 1:+.2%}")
            for file, written in compared(predicted, Path(folder, "run", "checkpoint-1")):
                differ = differ or file.bytes != written
                print(f"{name}: {file.name}: predicted {file.bytes:,}, written {written:,}")
    return int(differ)


def on_host(answer: WholeRun, device: dict[str, Any]) -> int:
    """Return the bytes that saving adds, on a CPU, to the processes that write: the first one under FSDP and ZeRO-3."""
    saved = next(phase for phase in answer.phases if phase.name == "checkpoint")
    gathers = device["sharding"] in ("fsdp", "zero3")
    return saved.host_bytes + (saved.gpu_bytes - saved.resident_bytes if gathers else 0)


def _grown(folder: str, device: dict[str, Any]) -> int:
    """Return the bytes by which these processes grew at most."""
    ranks = range(device["count"] if device["sharding"] in ("zero1", "zero2") else 1)
    return sum(int(Path(folder, f"grown-{rank}").read_text(encoding="utf-8")) for rank in ranks)


def _measured(save: Callable[..., None], file: Path) -> Callable[..., None]:
    """Save a checkpoint, and write the most bytes by which the process grew to a file."""

    def run(*args: Any, **kwargs: Any) -> None:
        gc.collect()
        dist.barrier()
        CLEAR_REFS.write_text("5", encoding="utf-8")
        before = resident()["VmRSS"]
        save(*args, **kwargs)
        file.write_text(str(resident()["VmHWM"] - before), encoding="utf-8")

    return run


def compared(predicted: Iterable[SavedFile], folder: Path) -> list[tuple[SavedFile, int]]:
    """Return each predicted file, or files with a pattern in their name, with the bytes that were written."""
    written = [(str(path.relative_to(folder)), path) for path in folder.rglob("*") if path.is_file()]
    return [(file, sum(_bytes(path) for name, path in written if fnmatch(name, file.name))) for file in predicted]


def _bytes(path: Path) -> int:
    """Return the size of a file; of DeepSpeed's, that of its tensors."""
    if path.suffix != ".pt":
        return path.stat().st_size
    with ZipFile(path) as archive:
        return sum(info.file_size for info in archive.infolist() if "/data/" in info.filename)


def _train(body: dict[str, Any], folder: str, *, measures: bool = False) -> None:
    """Train for a step in as many processes as there are GPUs, and save."""
    run_in_processes(_run_rank, body["device"]["count"], (body, folder), measures=measures)


def run_in_processes(run: Callable[..., None], count: int, given: tuple[Any, ...], *, measures: bool) -> None:
    """Run a function in several processes, each with its rank as the last argument.

    Raises:
        RuntimeError: if one fails.
    """
    os.environ |= RETURNS_MEMORY if measures else {}
    context: Any = multiprocessing.get_context("spawn" if measures else "fork")
    processes = [context.Process(target=run, args=(*given, rank)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError("a process failed; its message is above")


@contextmanager
def rank_of(sharding: Sharding, rank: int, folder: str) -> Iterator[None]:
    """Make this process one of several on the CPU (gloo), as accelerate finds one with a GPU, inside the context."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(sharding.count),
        "LOCAL_WORLD_SIZE": str(sharding.count),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "29500",
        "ACCELERATE_TORCH_DEVICE": "cpu",
    }
    dist.init_process_group(
        "gloo", rank=rank, world_size=sharding.count, store=dist.FileStore(f"{folder}/store", sharding.count)
    )
    with ExitStack() as stack:
        backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)  # noqa: E731
        stack.enter_context(mock.patch.object(PartialState, "_prepare_backend", backend))
        for name, answer in CAPABILITIES.items():
            stack.enter_context(mock.patch(name, answer))
        yield
    dist.barrier()
    dist.destroy_process_group()


def _run_rank(body: dict[str, Any], folder: str, rank: int) -> None:
    silence_libraries()
    torch.set_num_threads(1)
    parsed, device = parse_run(body), body["device"]
    sharding = parse_sharding({name: body[name] for name in body if name != "run"}, device["sharding"], device["count"])
    # A run without a trainer is one of the Trainer, before which transformers knows of ZeRO-3.
    sharding = replace(sharding, zero3_init_flag=parsed.estimate.training.zero3_init_flag)
    given = distributing(parsed.estimate.training, sharding)
    if "fsdp_config" in given:
        given["fsdp_config"] |= {"state_dict_type": parsed.run.state_dict_type}
    with rank_of(sharding, rank, folder), ExitStack() as stack:
        if sharding.stage:
            from validation.sharding import accelerator  # noqa: PLC0415  (DeepSpeed is optional)

            accelerator.forget_groups()
            stack.enter_context(accelerator.posing_as_cuda("cpu", Streams(), "gloo"))
        training = parsed.estimate.training
        # transformers builds a model under deepspeed.zero.Init if the settings exist before.
        is_whole = not applies(parsed.estimate, sharding)
        model = build_model(parsed.estimate, torch.device("cpu")).model if is_whole else None
        settings = TrainingArguments(
            output_dir=f"{folder}/run",
            optim=training.optimizer,
            bf16=training.autocast == "bfloat16",
            save_only_model=parsed.run.save_only_model,
            max_steps=1,
            per_device_train_batch_size=1,
            report_to=[],
            disable_tqdm=True,
            **given,
        )
        model = model or build_model(parsed.estimate, torch.device("cpu")).model
        row = {name: torch.ones(TOKENS, dtype=torch.long) for name in ("input_ids", "labels")}
        trainer = Trainer(model=model, args=settings, train_dataset=[row] * sharding.count)
        measured = _measured(trainer._save_checkpoint, Path(folder, f"grown-{rank}"))
        stack.enter_context(mock.patch.object(trainer, "_save_checkpoint", measured))
        trainer.train()
