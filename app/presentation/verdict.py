"""The verdict as sentences and as a gauge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.presentation.format import size
from app.presentation.labels import COMPONENTS, PHASES, ComponentLabel, Part, parts
from calculator.devices import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.devices import Fit
    from calculator.estimation.answer import Estimate, Row

#: Labels of the verdicts.
VERDICTS = {Verdict.FITS: "Fits", Verdict.TIGHT: "Tight", Verdict.DOES_NOT_FIT: "Does not fit"}

#: The width of the gauge, in its own coordinates.
GAUGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A segment of the gauge that starts at `x`."""

    component: ComponentLabel
    bytes: int
    x: float
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """A bar of the GPU's memory: the segments that fill it, and where the GPU's memory ends."""

    segments: tuple[Segment, ...]
    end: float
    filled: float


def device_name(fit: Fit) -> str:
    """Return the name of the GPU, or its memory."""
    return fit.gpu.name if fit.gpu else f"a GPU of {size(fit.usable_bytes)}"


def sentence(plan: Estimate) -> str:
    """Say whether a run fits, and by how much."""
    return fit_sentence(plan.memory.required_bytes, plan.fit)


def fit_sentence(required_bytes: int, fit: Fit | None) -> str:
    """Say whether a requirement fits, and by how much."""
    required = size(required_bytes)
    if fit is None:
        return f"It needs {required}. Choose a GPU to see whether it fits."
    usable = _usable(fit)
    needs = f"It needs {required} of {usable}"
    if fit.outcome is not None:
        return _replay_sentence(required, fit)
    margin = size(abs(fit.headroom_bytes))
    if fit.verdict is Verdict.FITS:
        return f"It fits with {margin} to spare. {needs}."
    if fit.verdict is Verdict.TIGHT:
        return f"It may run: the tensors fit, but the allocator may need {margin} too much. {needs}."
    return f"It does not fit. It needs {required}, {margin} more than {usable}."


def _usable(fit: Fit) -> str:
    """Return the memory that a process can use, and what it is a part of if an inference engine keeps the rest."""
    usable = size(fit.usable_bytes)
    if fit.gpu is not None and fit.usable_bytes < fit.gpu.usable_bytes:
        return f"the {usable} that vLLM leaves of {size(fit.gpu.usable_bytes)}"
    return f"the {usable} that a process can use"


def _replay_sentence(required: str, fit: Fit) -> str:
    """Say whether the replayed run fits the GPU, and the least memory that it needs."""
    assert fit.minimum_bytes is not None
    assert fit.margin_bytes is not None
    least, usable, margin = size(fit.minimum_bytes), _usable(fit), size(abs(fit.margin_bytes))
    if fit.verdict is Verdict.DOES_NOT_FIT:
        short = f", {margin} more than {usable}" if fit.margin_bytes < 0 else ""
        return f"It does not fit: it runs out of memory. It needs at least {least}{short}."
    if fit.verdict is Verdict.TIGHT:
        return (
            f"It runs, but only because the allocator frees cached blocks. It needs at least {least}, {margin} less"
            f" than {usable}. On a GPU with room for its cached blocks it uses {required}."
        )
    return f"It fits with {margin} to spare. It needs at least {least} of {usable}. On this GPU it uses {required}."


def shards_weights(plan: Estimate) -> bool:
    """Return whether each of several GPUs has a part of the weights, and gathers the others."""
    return any(collective.name == "all_gather" for collective in plan.communication or ())


def communication_sentences(plan: Estimate) -> Iterator[str]:
    """Yield the bytes that each of several GPUs sends in a step, as sentences."""
    collectives = plan.communication or ()
    sent = " and ".join(
        f"{size(collective.sent_bytes)} in {collective.name} ({collective.substituted} bytes)"
        for collective in collectives
    )
    if sent:
        yield f"The figures are for each of {collectives[0].ranks:,} GPUs. In a step, each GPU sends {sent}."
    between = sum(collective.node_sent_bytes for collective in collectives)
    if between:
        yield f"With the ring algorithm, each node sends {size(between)} to another node in a step."
    memory = plan.memory
    if memory.host_bytes is not None and memory.host_bytes == memory.node_host_bytes:
        yield f"The process also keeps {size(memory.host_bytes)} in host memory."
    elif memory.host_bytes is not None and memory.node_host_bytes is not None:
        yield (
            f"Each GPU's process also keeps {size(memory.host_bytes)} in host memory, and those of a node"
            f" {size(memory.node_host_bytes)} together."
        )


def history_sentence(plan: Estimate) -> str | None:
    """Say how much the order of lengths adds, and when. None if all micro-batches are alike and the cache is kept."""
    history = plan.memory.history
    if history is None:
        return None
    most = size(plan.memory.peak_reserved_bytes)
    added = f"{size(abs(history.added_bytes))} {'more' if history.added_bytes >= 0 else 'less'}"
    if len(history.seeds) == 1:
        return (
            f"With its cache emptied, the run reserves {most} on a GPU that never fills: {added} than with the cache"
            " kept."
        )
    return (
        f"The worst of {len(history.seeds)} histories of drawn micro-batches reserves {most} in step"
        f" {history.peak_step}, on a GPU that never fills: {added} than if every micro-batch were the longest."
    )


def large_figure(fit: Fit) -> int:
    """Return the margin that the page shows large: to the smallest memory by replay, or to the rule's requirement."""
    return fit.headroom_bytes if fit.margin_bytes is None else fit.margin_bytes


def margin_on(card: Fit, plan: Estimate) -> int:
    """Return a plan's margin on another GPU, as `large_figure` does on its own.

    If the run was not replayed on the GPU, it needs as much as on its own, except for the workspaces.
    """
    least = plan.fit.minimum_bytes if plan.fit else None
    if least is None:
        return card.headroom_bytes
    if card.margin_bytes is not None:
        return card.margin_bytes
    workspaces = card.usable_bytes - card.headroom_bytes - plan.memory.required_bytes
    return card.usable_bytes - least - workspaces


def decomposition(plan: Estimate) -> str:
    """Return the required memory as a sum."""
    memory = plan.memory
    slack = memory.peak_reserved_bytes - memory.peak_allocated_bytes
    context = memory.required_bytes - memory.peak_reserved_bytes
    return (
        f"{size(memory.peak_allocated_bytes)} of tensors at the peak"
        f" + {size(slack)} reserved by the allocator and CUDA libraries + {size(context)} of CUDA context."
    )


def why(plan: Estimate) -> str:
    """Say when the peak is, and what the largest components are."""
    memory = plan.memory
    largest = sorted(memory.components, key=lambda component: -component.bytes)[:2]
    listed = " and ".join(f"{COMPONENTS[c.name].label.lower()} ({size(c.bytes)})" for c in largest if c.bytes)
    return f"The peak is in the {PHASES[memory.peak_phase]}, at “{memory.peak_operation}”: mostly {listed}."


def largest_transient(plan: Estimate) -> Row | None:
    """Return the largest tensors at the peak that belong to the step, not to the model or the optimizer."""
    stepping = ("activations", "logits_and_loss", "workspace")
    rows = [row for component in plan.memory.components if component.name in stepping for row in component.rows]
    return max(rows, key=lambda row: row.bytes, default=None)


def gauge(plan: Estimate) -> Gauge:
    """Return the gauge of an estimate, drawn to the larger of GPU and requirement."""
    return gauge_of(parts(plan.memory), plan.fit)


def gauge_of(parts: tuple[Part, ...], fit: Fit | None) -> Gauge:
    """Return the gauge of the parts of a requirement."""
    required = sum(part.bytes for part in parts)
    whole = max(required, fit.usable_bytes if fit else 0) or 1
    end = fit.usable_bytes * GAUGE / whole if fit else GAUGE
    return Gauge(segments=_segments(parts, GAUGE / whole), end=round(end, 2), filled=round(required * GAUGE / whole, 2))


def _segments(parts: tuple[Part, ...], scale: float) -> tuple[Segment, ...]:
    segments = []
    start = 0
    for part in parts:
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
