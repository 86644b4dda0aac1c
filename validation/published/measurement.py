"""A published figure, and what is known about its run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from validation.published.source import address

if TYPE_CHECKING:
    from collections.abc import Mapping

    from validation.published.source import Row, Source

#: The measured statistic: the most bytes allocated, bytes allocated at a point of the step, the most bytes reserved,
#: the reading of nvidia-smi, or a statistic that the source does not state.
Statistic = Literal["max_memory_allocated", "memory_allocated", "max_memory_reserved", "nvidia_smi", "unstated"]

#: The script that a prediction follows, where a request does not state it: PEFT's method comparison (`buckets`), which
#: later computes a loss before the first step, with adapters (`buckets_after_loss`) or without them
#: (`buckets_after_loss_of_base`); IBM's fast kernels in transformers' place, with or without Liger's fused head
#: (`fast_kernels`, `fast_kernels_and_fused_head`); a forward pass with the logits of every token (`logits`); a step
#: whose loss is the logits' mean (`mean_of_logits`), or a no-grad pass (`output_of_pass`), after which the model's
#: output is alive; a step that refers to the model's output until its backward pass is over (`output_in_backward`).
Protocol = Literal[
    "buckets",
    "buckets_after_loss",
    "buckets_after_loss_of_base",
    "fast_kernels",
    "fast_kernels_and_fused_head",
    "logits",
    "mean_of_logits",
    "output_in_backward",
    "output_of_pass",
]

#: The protocols of PEFT's method comparison.
BUCKETS: tuple[Protocol, ...] = ("buckets", "buckets_after_loss", "buckets_after_loss_of_base")

#: The point of the step at which `memory_allocated` was read.
Point = Literal["loaded", "forward", "backward", "after_step", "between_steps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as its source describes it, as an estimate request where one can express it.

    `request` is None if no request can express the run. `differs` lists what the request omits or has differently, so
    that its figure is not a fair prediction. `unknown` lists assumptions about what the source does not state.
    `workspaces_before` counts the cuBLAS workspaces that the process had when it loaded the model.
    """

    request: dict[str, Any] | None = None
    protocol: Protocol | None = None
    differs: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    workspaces_before: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One figure; `bytes` is None if the run ran out of memory. `method` and `setting` are the source's words.

    `remark` explains why the calculator's figure is off, as far as that is known.
    """

    id: str
    source: str
    model: str
    method: str
    setting: str
    gpu: str
    statistic: Statistic
    point: Point | None
    bytes: int | None
    address: str
    date: str | None
    versions: Mapping[str, str] = field(default_factory=dict)
    run: Run
    remark: str = ""

    @property
    def expressed(self) -> Literal["whole", "in part", "not"]:
        """Whether a request expresses the whole run, a part of it, or nothing."""
        if self.run.request is None:
            return "not"
        return "in part" if self.run.differs else "whole"


def measurement(
    source: Source,
    row: Row,
    statistic: Statistic,
    size: float | None,
    run: Run,
    *,
    setting: str = "",
    point: Point | None = None,
    remark: str = "",
) -> Measurement:
    """Return one figure of a source's row."""
    return Measurement(
        id=f"{source.name}/{row['id']}/{point or statistic}",
        source=source.name,
        model=row["model"],
        method=row["method"],
        setting=setting,
        gpu=row.get("gpu") or "not stated",
        statistic=statistic,
        point=point,
        bytes=None if size is None else round(size),
        address=address(row),
        date=row.get("date"),
        versions={name: version for name, version in row.get("versions", {}).items() if version},
        run=run,
        remark=remark,
    )
