"""The verdict in a sentence, its picture, and why the peak is where it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.presentation.format import size
from app.presentation.labels import COMPONENTS, PHASES, ComponentLabel, Part, parts
from calculator.devices import Verdict

if TYPE_CHECKING:
    from calculator.devices import Fit
    from calculator.estimate.answer import Estimate, Row

WORDS = {Verdict.FITS: "Fits", Verdict.TIGHT: "Tight", Verdict.DOES_NOT_FIT: "Does not fit"}

#: The width of the gauge's coordinates.
GAUGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A piece of the gauge, from `x` on, `width` wide."""

    component: ComponentLabel
    bytes: int
    x: float
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """The card as a bar: what fills it, and where it ends."""

    segments: tuple[Segment, ...]
    end: float
    filled: float


def device_name(fit: Fit) -> str:
    """The card in words: its name, or its size."""
    return fit.gpu.name if fit.gpu else f"a card of {size(fit.usable_bytes)}"


def sentence(plan: Estimate) -> str:
    """Whether it fits and by how much."""
    return of_fit(plan.memory.required_bytes, plan.fit)


def of_fit(required_bytes: int, fit: Fit | None) -> str:
    """The same of any requirement."""
    required = size(required_bytes)
    if fit is None:
        return f"Needs {required}. Choose a card to see whether it fits."
    held = f"Needs {required} of {size(fit.usable_bytes)} usable"
    margin = size(abs(fit.headroom_bytes))
    if fit.verdict is Verdict.FITS:
        return f"{held}: fits with {margin} to spare."
    if fit.verdict is Verdict.TIGHT:
        return f"{held}: the tensors fit, but the allocator's slack is {margin} too much. It may run."
    return f"{held}: does not fit, {margin} short."


def decomposition(plan: Estimate) -> str:
    """What the required memory sums, in a line."""
    memory = plan.memory
    slack = memory.peak_reserved_bytes - memory.peak_allocated_bytes
    context = memory.required_bytes - memory.peak_reserved_bytes
    return (
        f"{size(memory.peak_allocated_bytes)} of tensors at the peak"
        f" + {size(slack)} that the allocator and CUDA libraries hold beside them + {size(context)} of CUDA context."
    )


def why(plan: Estimate) -> str:
    """When the peak is, and what is largest then."""
    memory = plan.memory
    largest = sorted(memory.components, key=lambda component: -component.bytes)[:2]
    largest_parts = " and ".join(f"{COMPONENTS[c.name].label.lower()} ({size(c.bytes)})" for c in largest if c.bytes)
    return f"The peak is in the {PHASES[memory.peak_phase]}, at “{memory.peak_operation}”: mostly {largest_parts}."


def largest_transient(plan: Estimate) -> Row | None:
    """The largest storage at the peak that is there because of the step, not of the model's or optimizer's state."""
    stepping = ("activations", "logits_and_loss", "workspace")
    rows = [row for component in plan.memory.components if component.name in stepping for row in component.rows]
    return max(rows, key=lambda row: row.bytes, default=None)


def gauge(plan: Estimate) -> Gauge:
    """The card, or the need where it is larger, drawn to scale."""
    return drawn(parts(plan.memory), plan.fit)


def drawn(parts_drawn: tuple[Part, ...], fit: Fit | None) -> Gauge:
    """The same of the parts of any need."""
    required = sum(part.bytes for part in parts_drawn)
    whole = max(required, fit.usable_bytes if fit else 0) or 1
    end = fit.usable_bytes * GAUGE / whole if fit else GAUGE
    return Gauge(
        segments=_segments(parts_drawn, GAUGE / whole), end=round(end, 2), filled=round(required * GAUGE / whole, 2)
    )


def _segments(parts_drawn: tuple[Part, ...], scale: float) -> tuple[Segment, ...]:
    segments = []
    start = 0
    for part in parts_drawn:
        segments.append(
            Segment(
                component=part.component,
                bytes=part.bytes,
                x=round(start * scale, 2),
                width=round(part.bytes * scale, 2),
            )
        )
        start += part.bytes
    return tuple(segments)
