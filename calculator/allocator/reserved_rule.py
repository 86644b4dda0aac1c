"""What the caching allocator holds beyond the live tensors, by a rule; `replay` finds it by running the allocator.

Once a run has settled, the allocator holds about as many blocks of every size as are alive at once at most: best fit
hands a block back to the size that it was cut for, and gives it to another only where that saves a segment. Each block
counts with what a segment of its kind rounds it to. The largest block of all counts twice where layers leave as much
alive (activations until the loss, gradients until the optimizer's step): some of that settles in it while it is free.
docs/decisions/0004-reserved-memory.md holds the rule against replays.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from calculator.allocator.segments import (
    LARGE_SEGMENT,
    OWN_SEGMENT,
    SMALL_REQUEST,
    SMALL_SEGMENT,
    segment_bytes,
)
from calculator.common.dtype import ITEMSIZE
from calculator.common.sourced import Sourced
from calculator.engine.counts_by_size import peak_counts
from calculator.engine.lifetimes import by_size
from calculator.resident.per_parameter import sizes
from calculator.training_step import first_layer_bound

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from calculator.engine.recording import Recording
    from calculator.inputs.training import Training
    from calculator.resident.tensors import ResidentTensor
    from calculator.training_step.step import TrainingStep

#: How far the rule lies beside the replay: in half of 1,000 random plans it is above by more than this, and but for one
#: in a hundred at either end it is between these. Source: docs/decisions/0004-reserved-memory.md.
BESIDE_THE_REPLAY = "7.4 % above the replay in the median of 1,000 random plans, 1 % below to 52 % above in 98 of 100"

RULE = (
    "Reserved memory is by a rule: blocks for the most tensors of each size alive at once, and the largest block twice"
    f" where layers leave as much alive. It lies {BESIDE_THE_REPLAY}: ask for reserved: replay to replay the allocator."
)
REPLAY = (
    "Reserved memory is from a replay of PyTorch's caching allocator: loading, then steps of one batch shape until they"
    " take nothing more. Batches of changing lengths can need more."
)

SOURCE = "c10/cuda/CUDACachingAllocator.cpp of PyTorch"


def by_rule(step: TrainingStep, workspaces: Iterable[int]) -> int:
    """`torch.cuda.max_memory_reserved` by the rule, bytes."""
    resident, training = step.resident, step.resident.prepared.training
    added = [tensor for tensor in resident.tensors if not tensor.base]
    gradients = resident.gradients if training.gradient_accumulation_steps > 1 else ()
    stays = Counter(sizes((*added, *resident.optimizer_states, *gradients)))
    stays.update(workspaces)
    steps = _in_steps(step)
    loaded = sum(tensor.bytes for tensor in resident.tensors if tensor.base)
    loaded += _read_and_dropped(resident.tensors, training)
    largest = max(steps)
    left = _left_by_layers(step) + sum([tensor.bytes for tensor in resident.gradients])
    again = segment_bytes(largest) if left >= largest else 0
    return whole_segments(loaded) + _in_segments(stays) + _in_segments(steps) + again


def of_passes(state: Iterable[ResidentTensor], passes: Iterable[Recording], workspace: int) -> int:
    """The same for a served model: what stays, and the blocks of the pass that needs most, bytes."""
    loaded = whole_segments(sum(tensor.bytes for tensor in state if tensor.base))
    stays = Counter(sizes(tensor for tensor in state if not tensor.base))
    stays[workspace] += 1
    return loaded + _in_segments(stays) + max(_in_segments(peak_counts(each)) for each in passes)


def whole_segments(size: int) -> int:
    """Bytes in whole 2 MiB."""
    return -(-size // SMALL_SEGMENT) * SMALL_SEGMENT


def fragmentation(reserved: int, allocated: int) -> Sourced:
    """What is reserved beside the live tensors and workspaces."""
    return Sourced(name="caching allocator, fragmentation", bytes=reserved - allocated, source=SOURCE)


def _in_segments(counts: Mapping[int, int]) -> int:
    """Blocks of each size in segments of their own; small ones share theirs."""
    total = small = 0
    for size, count in counts.items():
        if size <= SMALL_REQUEST:
            small += size * count
        elif size < OWN_SEGMENT:
            total += -(-count // (LARGE_SEGMENT // size)) * LARGE_SEGMENT
        else:
            total += segment_bytes(size) * count
    return total + whole_segments(small)


def _read_and_dropped(state: tuple[ResidentTensor, ...], training: Training) -> int:
    """Weights that were read in half precision and are kept in float32: their first places stay with the allocator."""
    half = ITEMSIZE[training.dtype]
    return sum(
        tensor.parameters * half * tensor.count
        for tensor in state
        if tensor.base and tensor.parameters and tensor.dtype not in (training.dtype, "uint8")
    )


def _left_by_layers(step: TrainingStep) -> int:
    """What the layers leave alive for the backward pass."""
    curve, marks, first = step.recording.curve, step.marks, step.recording.first
    start, end = marks["layer 0 forward"], marks[f"layer {len(step.run.repetition.numbers)} forward"]
    if first is not None:
        start = first.start
    copied = sum(w.copies * g for w, g in zip(curve.windows, curve.growth, strict=True) if w.start < end)
    return curve.net_change(start, end) + copied


def _in_steps(step: TrainingStep) -> dict[int, int]:
    """Of each size, the most that are alive at once; every layer is run where one that is not could tell of more."""
    told = _most_in(step)
    if step.recording.first is None:
        return told
    most = {size: max(told[size], count) for size, count in first_layer_bound.counts(step.recording)}
    if not most or _in_segments(told | most) == _in_segments(told):
        return told
    return _most_in(step.whole)


def _most_in(step: TrainingStep) -> dict[int, int]:
    """Of each size, the most that are alive at once in a step and beside what the one before left for its forward."""
    carried, until = by_size(step.carried), step.marks["backward"]
    beside = [(0, size, count) for size, count in carried.items()]
    beside += [(until, size, -count) for size, count in carried.items()]
    return peak_counts(step.recording, step.resident.step_temporaries, beside)
