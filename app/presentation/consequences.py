"""Sentences about a run that fills its GPU or does not fit it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.presentation.format import number, size
from app.presentation.labels import PHASES
from calculator.allocator.out_of_memory import format_size
from calculator.devices import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.devices import Fit
    from calculator.devices.outcome import OutOfMemory

EXPANDABLE = "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"

#: Where PyTorch counts retries.
COUNTER = "num_alloc_retries of torch.cuda.memory_stats()"

#: What every retry costs.
WAITS = "Each time, the GPU must finish its work first, and the driver frees and allocates memory"

#: Advice where micro-batches differ, and the run is not replayed with other settings.
DRAWN = (
    "With expandable_segments:True in the allocator settings (device.alloc_conf), segments grow for a longer"
    " micro-batch, and no new ones are added. Emptying the cache (torch_empty_cache_steps) helps too."
)


def consequences(fit: Fit) -> Iterator[str]:
    """Yield the sentences; none if the run fits or the verdict is by the rule."""
    if fit.outcome is None or fit.verdict is Verdict.FITS:
        return
    if fit.out_of_memory is not None:
        yield _out_of_memory_sentence(fit.out_of_memory)
    else:
        yield from _tight(fit)
    yield from _expandable(fit)


def with_message(fit: Fit) -> Iterator[str]:
    """Yield the same for a terminal, with PyTorch's message after the sentence on the request that fails."""
    for n, line in enumerate(consequences(fit)):
        yield line
        if n == 0 and fit.out_of_memory is not None:
            yield fit.out_of_memory.message


def _out_of_memory_sentence(event: OutOfMemory) -> str:
    if event.phase == "load":
        where = "while the model is loaded"
    elif event.phase in ("prefill", "decode"):
        where = "in the prefill" if event.phase == "prefill" else f"in the decoding step of token {event.step:,}"
    else:
        where = f"in step {event.step}, in the {PHASES[event.phase]}"
    return f"It runs out of memory {where}, at a request of {format_size(event.requested_bytes)} for “{event.tensor}”."


def _tight(fit: Fit) -> Iterator[str]:
    rate, before = fit.retries_per_step or 0, fit.retries or 0
    if fit.outcome is not None and fit.outcome.has_history:
        yield (
            f"In the worst history the allocator frees its cached blocks and tries again {_times(before)}, at most"
            f" {_times(rate)} in a step, when no cached block is large enough for a longer micro-batch. {WAITS}."
        )
        return
    if fit.outcome is not None and fit.outcome.generates:
        yield (
            f"The allocator frees its cached blocks and tries again {_times(before)}, at most {_times(rate)} in a pass."
            f" {WAITS}."
        )
        yield "With another process on the GPU, or a longer answer, it can run out of memory."
        return
    if rate:
        yield (
            f"The allocator frees its cached blocks and tries again {_times(rate)} in every step ({COUNTER}). {WAITS},"
            " so steps take longer."
        )
    else:
        yield (
            f"The allocator frees its cached blocks and tries again {_times(before)} in the first steps ({COUNTER}),"
            " and not again: later steps lose no time."
        )
    yield "With another process on the GPU, a longer batch, or an evaluation in between, it can run out of memory."


def _expandable(fit: Fit) -> Iterator[str]:
    if fit.outcome is not None and not fit.outcome.tensors_fit:
        # The minimum with expandable segments is not read: to find it takes up to two seconds for a model of 70B.
        yield "No setting of the allocator helps: the live tensors alone need more memory than the GPU has."
        return
    changed = fit.with_expandable_segments
    if changed is None:
        if fit.outcome is not None and fit.outcome.has_history:
            yield DRAWN
        return
    least = f"at least {size(changed.minimum_bytes)}"
    if changed.verdict is Verdict.FITS:
        yield f"With {EXPANDABLE} it fits without a retry, and needs {least}."
    elif changed.verdict is Verdict.TIGHT:
        often = "a pass at most" if fit.outcome is not None and fit.outcome.generates else "every step"
        retries = f"tries again {_times(changed.retries_per_step)} in {often}" if changed.retries_per_step else "runs"
        yield f"With {EXPANDABLE} it {retries}, and needs {least}."
    else:
        yield f"{EXPANDABLE} does not help: it would need {least}."


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{number(count)} times")
