"""A published figure and what is known of the run behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from validation.published.source import address

if TYPE_CHECKING:
    from collections.abc import Mapping

    from validation.published.source import Row, Source

#: What was read: the most that was allocated, what was allocated at a point of the step, the most that was reserved,
#: what nvidia-smi showed, or a figure whose statistic its source does not tell.
Statistic = Literal["max_memory_allocated", "memory_allocated", "max_memory_reserved", "nvidia_smi", "unstated"]

#: Which script is followed: the HF Trainer before transformers 5, before and from 4.46 on (`trainer`), PEFT's method
#: comparison (`buckets`), or phases without a loss (`phases`).
Protocol = Literal["trainer", "trainer_from_4_46", "buckets", "mean_of_logits"]

#: The point of the step that `memory_allocated` was read at.
Point = Literal["loaded", "forward", "backward", "between_steps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a source says of a run, as a request of the contract as far as that goes.

    `request` is None where no request can say it. `differs` names what the request leaves out or has otherwise, so that
    its figure is no fair prediction; `unknown` what had to be taken for known; `adjustments` what the measured stack
    holds beside the reference step's, by the names of `adjustments`.
    """

    request: dict[str, Any] | None = None
    protocol: Protocol | None = None
    adjustments: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One figure: `bytes` is None where the run went out of memory. `method` and `setting` are the source's words.

    `remark` says what is known of why the calculator's figure is off.
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
        """Whether a request says all of the run, some of it, or nothing."""
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
    """A figure of a row."""
    return Measurement(
        id=f"{source.name}/{row['id']}/{point or statistic}",
        source=source.name,
        model=row["model"],
        method=row["method"],
        setting=setting,
        gpu=row.get("gpu") or "not told",
        statistic=statistic,
        point=point,
        bytes=None if size is None else round(size),
        address=address(row),
        date=row.get("date"),
        versions={name: version for name, version in row.get("versions", {}).items() if version},
        run=run,
        remark=remark,
    )
