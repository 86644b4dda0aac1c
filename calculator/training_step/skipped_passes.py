"""No-grad passes that are not interpreted, because the trained pass after them has the higher peak.

Such a pass runs the trained model on the batch that the trained pass later runs on. Or it runs the same model without
its adapters, or a second model like it. A graph and adapters only add tensors and references to tensors. So at each
operation, the pass has at most as many live storages of any size as the trained pass, which also keeps the inputs of
its layers. This holds for storages that the pass itself allocates. Other code may have more live storages before the
pass than when the trained pass begins. This excess is added to the live bytes of the trained pass, as an upper bound.

The head computes at most what the head of the trained pass computes, so only its outputs are allocated. If the bound
reaches a peak, or could change the segments of the rule, all passes are interpreted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine.skipped_passes import DIFFERS, SKIPPED, TRAINED
from calculator.layers.sharding_hooks import NO_HOOKS
from calculator.methods.compared import is_like_second

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calculator.engine.copies import Copies
    from calculator.engine.memory_curve import MemoryCurve
    from calculator.engine.recording import Recording
    from calculator.layers.context import Context
    from calculator.methods.prepared_model import PreparedModel
    from calculator.trainers.loop import Compared

#: The methods whose modules add an update to the output of the frozen module.
_SUMS = ("lora", "qlora")


def may_be_skipped(context: Context, prepared: PreparedModel, compared: Compared | None) -> bool:
    """Return whether a pass before the trained pass may be skipped, if the bound turns out to be low enough.

    `context` is that of the trained pass. `compared` is the reference that runs, or None for the trained model.
    """
    if context.skipped is None or context.skipped.is_over or context.hooks is not NO_HOOKS or context.older:
        return False
    model, method = context.model, context.method
    if context.training.has_images or model.encoder_layers or model.adds_router_loss or model.runs_several_times:
        return False
    if method.virtual_tokens or method.couples_layers or method.runs_no_grad_first:
        return False
    if prepared.offloads_activations or prepared.offloads_inputs:
        return False
    if context.training.autocast is not None and context.dtype != "float32":
        return False  # the last norm may return another dtype than the embeddings
    if compared == "without adapters":
        specs = prepared.module_specs.values()
        return prepared.method.name in _SUMS and not any(spec.copied or spec.trained for spec in specs)
    # A second model has no kernels of Liger.
    return compared is None or (
        compared == "model" and is_like_second(prepared) and not context.training.use_liger_kernel
    )


def has_any(recording: Recording) -> bool:
    """Return whether a recording has skipped passes."""
    return any(label.endswith(SKIPPED) for label in recording.copies.marks)


def is_determined(recording: Recording) -> bool:
    """Return whether the skipped passes of a recording before the trained pass decide no peak."""
    marks = recording.copies.marks
    if TRAINED not in marks or not _excess(recording.copies):
        return True
    curve, backward, sizes = recording.curve, marks["backward"], recording.storages.sizes
    # While a later layer runs under no_grad, its input and the first layer's input are alive.
    most = _peak_bound(curve, marks["forward"], marks[TRAINED], backward) + max(curve.growth[:1], default=0)
    excess = max([sum([sizes[size] * count for size, count in counts]) for counts in _excess(recording.copies)])
    return DIFFERS not in marks and most + excess < curve.peak(marks["forward"], backward).bytes


def _peak_bound(curve: MemoryCurve, forward: int, start: int, end: int) -> int:
    """Return the peak bytes between two positions without the copies of the forward pass, or an upper bound.

    The forward pass starts at `forward` and ends at the second position.
    """
    growth = [growth for window, growth in zip(curve.windows, curve.growth, strict=True) if window.start < end]
    if min(growth, default=-1) < 0 or any(at < end for at, _ in curve.drops):
        return max(curve.without_copies(start, end))
    window, copied = curve.windows[0], curve.windows[0].copies * curve.growth[0]
    # The peak of the forward pass is read elsewhere too.
    peak = curve.peak(forward, end)
    is_later = peak.event > window.start
    later = max(peak.bytes, curve.before(window.start)) if is_later else curve.peak_bytes(window.start, end)
    return max(curve.peak_bytes(start, window.start), later - copied)


def bounds(recording: Recording, counts: Mapping[int, int]) -> dict[int, int]:
    """Return upper bounds on the number of live storages, by size, in the skipped passes before the trained pass.

    Only sizes with more live storages before a skipped pass than before the trained pass have a bound. `counts` has the
    peak number of storages of each size in bytes.
    """
    bound_by_size: dict[int, int] = {}
    if TRAINED in recording.copies.marks:
        sizes = recording.storages.sizes
        for excess in _excess(recording.copies):
            more: dict[int, int] = {}
            for number, count in excess:
                if count > 0:
                    more[sizes[number]] = more.get(sizes[number], 0) + count
            for size, count in more.items():
                bound_by_size[size] = max(bound_by_size.get(size, 0), counts.get(size, 0) + count)
    return bound_by_size


def _excess(copies: Copies) -> list[list[tuple[int, int]]]:
    """Return how many more storages of each size are alive before each pass than before the trained pass.

    Sizes are numbers. The list is the same for runs with the same events and equal kinds.
    """
    if copies.skipped is None:
        marks, events = copies.marks, copies.kinds.size_events
        copies.skipped = []
        trained = marks[TRAINED]
        for at in [position for label, position in marks.items() if label.endswith(SKIPPED) and position < trained]:
            freed: dict[int, int] = {}
            for event in events[at:trained]:
                if event < 0:
                    freed[~event] = freed.get(~event, 0) + 1
                else:
                    freed[event] = freed.get(event, 0) - 1
            copies.skipped.append([(size, count) for size, count in freed.items() if count])
    return copies.skipped
