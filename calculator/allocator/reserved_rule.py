"""A rule for reserved memory. `replay` runs the caching allocator instead.

In a run's steady state, the allocator has about as many blocks of each size as are alive at once at most. Best fit
returns a block to the size that it was cut for, and gives it to another size only if that saves a segment. Each block
counts with its share of a segment of its kind. The largest block counts twice if layers leave at least as much alive
(activations until the loss, gradients until the optimizer's step), because some of these are placed in it while it is
free.

docs/decisions/0004-reserved-memory.md compares the rule with replays.
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
from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE
from calculator.common.sourced import Sourced
from calculator.common.total import total_bytes
from calculator.engine.counts_by_size import peak_counts
from calculator.resident.per_parameter import sizes
from calculator.sharding.fsdp.units import units_of
from calculator.training_step import first_layer_bound, reference_counts, skipped_passes
from calculator.training_step.reference_counts import maximum

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from calculator.engine.copies import CountChange
    from calculator.engine.recording import Recording
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.resident.tensor import ResidentTensor
    from calculator.training_step.resident_state import ResidentState
    from calculator.training_step.rollout_bound import RolloutBound
    from calculator.training_step.step import TrainingStep
    from calculator.training_step.step_pass import StepPass
    from calculator.training_step.zero.peaks import FlatPeaks
    from calculator.training_step.zero3.peaks import PartitionedPeaks

SOURCE = "c10/cuda/CUDACachingAllocator.cpp of PyTorch"


def estimate_reserved(step: TrainingStep, workspaces: Iterable[int]) -> int:
    """Return the rule's estimate of `torch.cuda.max_memory_reserved`, in bytes."""
    workspaces = tuple(workspaces)
    if step.flat is not None:
        return _flat_zero_bytes(step, step.flat, workspaces)
    if step.partitioned is not None:
        return _zero3_bytes(step, step.partitioned, workspaces)
    resident = step.resident
    accumulated = resident.prepared.training.gradient_accumulation_steps > 1 and step.earlier is None
    steps = _in_steps(step)
    largest = max(steps)
    left = _left_by_layers(step) + total_bytes(resident.kept_gradients)
    again = segment_bytes(largest) if left >= largest else 0
    of_step = _kept_bytes(resident, workspaces, gradients=accumulated) + in_segments(steps) + again
    if resident.prepared.device.sharding == "fsdp" and resident.prepared.method.facts.quantizes_base:
        of_step = max(of_step, _loaded_4bit_bytes(resident))
    if replaced := sizes(resident.while_fetching):
        of_step = max(of_step, between_steps(resident, workspaces) + in_segments(replaced))
    if accumulated and (broadcast := resident.broadcast):
        of_step = max(of_step, between_steps(resident, workspaces) + in_segments(sizes(broadcast)))
    return max(of_step, generation_bytes(step, workspaces, of_step)) if step.generates else of_step


def _kept_bytes(resident: ResidentState, workspaces: tuple[int, ...], *, gradients: bool) -> int:
    """Return the bytes of the segments for loaded tensors and for tensors that stay on the device.

    All but the tensors of the loop are the same for every batch and length.
    """
    if not resident.loop_tensors:
        others, small = _without_loop(resident, workspaces, gradients=gradients)
        return others + whole_segments(small)
    key = ("kept", workspaces, gradients)
    found: dict[Hashable, int] = resident.known_of_run
    if key not in found:
        loop_tensors = sizes(resident.loop_tensors)
        if max(loop_tensors) > SMALL_REQUEST:
            kept = Counter(loop_tensors)
            kept.update(_sizes_of_kept(resident, workspaces, gradients=gradients))
            found[key] = whole_segments(resident.loaded_bytes) + in_segments(kept)
        else:
            others, small = _without_loop(resident, workspaces, gradients=gradients)
            small += sum([size * count for size, count in loop_tensors.items()])
            found[key] = others + whole_segments(small)
    return found[key]


def _without_loop(resident: ResidentState, workspaces: tuple[int, ...], *, gradients: bool) -> tuple[int, int]:
    """Return the bytes of `_kept_bytes` without the loop's tensors: those of large segments, and of small blocks."""
    key = ("kept without the loop", workspaces, gradients)
    found: dict[Hashable, tuple[int, int]] = resident.known
    if key not in found:
        total, small = _large_and_small(_sizes_of_kept(resident, workspaces, gradients=gradients))
        found[key] = whole_segments(resident.loaded_bytes) + total, small
    return found[key]


def _sizes_of_kept(resident: ResidentState, workspaces: tuple[int, ...], *, gradients: bool) -> dict[int, int]:
    """Return the number of tensors by size that stay on the device in addition to the base and those of the loop."""
    kept = {**resident.sizes_of_kept(gradients=gradients)}
    for size in filter(None, workspaces):
        kept[size] = kept.get(size, 0) + 1
    return kept


def _loaded_4bit_bytes(resident: ResidentState) -> int:
    """Return the rule's estimate for a 4-bit model, which is whole on the GPU until FSDP2 has sharded all of it.

    The blocks that it leaves cached belong to the first stream. So no output of an all-gather can use them.
    """
    loaded = sum(tensor.bytes for tensor in (*resident.whole, *resident.tensors) if tensor.parameters)
    outputs = [unit.all_gather_output for unit, _ in units_of(resident.prepared)]
    gathered = sum(segment_bytes(elements(shape) * ITEMSIZE[dtype]) for shape, dtype in outputs)
    return whole_segments(loaded) + gathered


def generation_bytes(step: TrainingStep, workspaces: Iterable[int], least: int = 0) -> int:
    """Return the rule's estimate while a trainer generates, in bytes.

    It counts the tensors that the run keeps, and the blocks of the passes or of the gather before them. An estimate of
    at most `least` may be too low, because the caller takes the maximum of both.
    """
    kept = _kept_in_generation(step, workspaces)
    passes, bound = in_segments(sizes(step.before_generation)), step.generation_bound
    if bound is not None and _is_within(bound, least - kept):
        return kept + passes
    derived = step.derived_generation
    if derived is not None and derived.sizes <= _room(derived.allocated, least - kept):
        return kept + passes
    waiting = [*step.generation]
    while waiting:
        step_pass = waiting.pop()
        room = max(passes, least - kept)
        if _fits_by_bytes(step_pass, room):
            continue
        if step_pass.smaller is not None:
            waiting.append(step_pass.smaller())
        if step_pass.bound is None or in_segments(step_pass.bound()) > room:
            passes = max(passes, in_segments(peak_counts(step_pass.recording)))
    return kept + passes


def _is_within(bound: RolloutBound, size: int) -> bool:
    """Return whether the blocks of all passes of `generate` are certain to fit in some bytes of segments."""
    if bound.total is not None and bound.total.sizes <= _room(bound.total.allocated, size):
        return True
    room = _room(bound.quick.allocated, size)
    if bound.quick.sizes <= room or (room > 0 and bound.sizes_above(SMALL_REQUEST) <= room):
        return True
    return all(_most_in_segments(need.blocks) <= size for need in bound.lower)


def _room(allocated: int, size: int) -> int:
    """Return how many different sizes blocks may have so that they certainly fit in segments.

    `allocated` are the bytes of the blocks, and `size` those of the segments. See `_fits_by_bytes` for the proof.
    """
    return (size - 3 * allocated // 2) // LARGE_SEGMENT - 1


def _most_in_segments(blocks: Iterable[tuple[int, int]]) -> int:
    """Return an upper bound on the bytes of the segments for blocks, given as sizes and numbers of blocks.

    See `_fits_by_bytes` for the proof. The bound for a block of 12.5 MiB is not below that for a smaller block.
    """
    total = small = 0
    for size, count in blocks:
        if size <= SMALL_REQUEST:
            small += size * count
        elif 4 * size < 5 * OWN_SEGMENT:
            total += 3 * size * count // 2 + LARGE_SEGMENT
        else:
            total += 6 * size * count // 5 + LARGE_SEGMENT
    return total + whole_segments(small)


def _fits_by_bytes(step_pass: StepPass, size: int) -> bool:
    """Return whether the blocks of a pass, and of a smaller one, are certain to fit in some bytes of segments.

    A large segment of blocks of one size below 10 MiB has at least two of them, and less room than for one more: two
    thirds of it are used, except in the last segment of a size. A larger block leaves less than a sixth of its segment.
    """
    if step_pass.bytes_of_bound is None:
        return False
    count, total = step_pass.bytes_of_bound(None)
    if 3 * total // 2 + (count + 1) * LARGE_SEGMENT <= size:
        return True
    count, smaller = step_pass.bytes_of_bound(OWN_SEGMENT)
    return 3 * smaller // 2 + 6 * (total - smaller) // 5 + (count + 1) * LARGE_SEGMENT <= size


def _kept_in_generation(step: TrainingStep, workspaces: Iterable[int]) -> int:
    partitioned = step.partitioned
    if partitioned is None:
        return between_steps(step.resident, workspaces)
    kept = _kept_by_rank(partitioned.resident_tensors, workspaces)
    kept.update(partitioned.sizes_in_generation)
    return whole_segments(_buffer_bytes(step.resident)) + in_segments(kept)


def between_steps(resident: ResidentState, workspaces: Iterable[int]) -> int:
    """Return the rule's estimate for what a run keeps from step to step, without cached blocks, in bytes."""
    if resident.flat is None:
        return _kept_bytes(resident, tuple(workspaces), gradients=False)
    kept = _kept_by_rank((*resident.flat.divided, *resident.loop_tensors), workspaces)
    return whole_segments(_frozen_bytes(resident)) + in_segments(kept)


def _flat_zero_bytes(step: TrainingStep, flat: FlatPeaks, workspaces: Iterable[int]) -> int:
    """Return the rule's estimate for the rank with the highest peak under ZeRO, in bytes.

    It counts what the rank keeps, and the blocks of its reductions and of its update.
    """
    kept = _kept_by_rank(flat.resident_tensors, workspaces)
    kept.update(Counter(sizes(flat.in_backward)) | Counter(sizes(flat.peak_rank.step)))
    loaded = sum(tensor.bytes for tensor in step.resident.tensors)
    flattened = whole_segments(loaded) + in_segments(sizes(flat.flat_weights))
    of_step = whole_segments(_frozen_bytes(step.resident)) + in_segments(kept) + in_segments(_peak_counts(step))
    of_step = max(flattened, of_step)
    return max(of_step, generation_bytes(step, workspaces, of_step) if step.generates else 0)


def _frozen_bytes(resident: ResidentState) -> int:
    return sum(tensor.bytes for tensor in resident.tensors if tensor.base and not tensor.trained)


def _kept_by_rank(tensors: Iterable[ResidentTensors], workspaces: Iterable[int]) -> Counter[int]:
    """Return the blocks that a rank keeps from step to step, by size.

    They include the workspaces but not the frozen weights.
    """
    kept = Counter(sizes(tensors))
    kept.update(filter(None, workspaces))
    return kept


def _zero3_bytes(step: TrainingStep, partitioned: PartitionedPeaks, workspaces: Iterable[int]) -> int:
    """Return the rule's estimate under ZeRO-3, in bytes.

    It counts what a rank keeps, the most that it gathers and reduces, and the blocks of its update.
    """
    kept = _kept_by_rank(partitioned.resident_tensors, workspaces)
    kept.update(sizes(partitioned.blocks))
    of_step = whole_segments(_buffer_bytes(step.resident)) + in_segments(kept) + in_segments(_peak_counts(step))
    return max(of_step, generation_bytes(step, workspaces, of_step) if step.generates else 0)


def _buffer_bytes(resident: ResidentState) -> int:
    return sum(tensor.bytes for tensor in resident.tensors if not tensor.parameters)


def inference_bytes(state: Iterable[ResidentTensor], passes: Iterable[Recording], workspace: int) -> int:
    """Return the rule's estimate for inference, in bytes.

    It counts the resident tensors and the blocks of the pass that needs the most.
    """
    loaded = whole_segments(sum(tensor.bytes for tensor in state if tensor.base))
    kept = Counter(sizes(tensor for tensor in state if not tensor.base))
    kept.update(filter(None, [workspace]))
    return loaded + in_segments(kept) + max(in_segments(peak_counts(recording)) for recording in passes)


def whole_segments(size: int) -> int:
    """Round bytes up to whole 2 MiB."""
    return -(-size // SMALL_SEGMENT) * SMALL_SEGMENT


def fragmentation(reserved: int, allocated: int) -> Sourced:
    """Return reserved memory without live tensors and workspaces."""
    return Sourced(name="caching allocator, fragmentation", bytes=reserved - allocated, source=SOURCE)


def in_segments(counts: Mapping[int, int]) -> int:
    """Return the bytes of the segments for blocks of each size.

    Different sizes do not share segments, except the small ones.
    """
    total, small = _large_and_small(counts)
    return total + whole_segments(small)


def _large_and_small(counts: Mapping[int, int]) -> tuple[int, int]:
    """Return the bytes of the segments for large blocks of each size, and the bytes of the small blocks."""
    total = small = 0
    for size, count in counts.items():
        if size <= SMALL_REQUEST:
            small += size * count
        elif size < OWN_SEGMENT:
            total += -(-count // (LARGE_SEGMENT // size)) * LARGE_SEGMENT
        else:
            total += segment_bytes(size) * count
    return total, small


def _left_by_layers(step: TrainingStep) -> int:
    """Return the bytes that the layers leave alive for the backward pass."""
    curve, marks, first = step.recording.curve, step.marks, step.recording.first
    start, end = marks["layer 0 forward"], marks[f"layer {len(step.run.repetition.numbers)} forward"]
    if first is not None:
        start = first.start
    copied = sum([w.copies * g for w, g in zip(curve.windows, curve.growth, strict=True) if w.start < end])
    return curve.net_change(start, end) + copied


def _in_steps(step: TrainingStep) -> dict[int, int]:
    """Return the peak number of blocks of each size in a step.

    If a skipped first layer, or passes that are not interpreted, could need more segments, the step is
    interpreted with them. If a first layer with too many live tensors could need fewer, its own events are used.
    """
    counts = _peak_counts(step)
    skips_passes = step.run.skipped is not None or step.first is not None
    references = reference_counts.bounds(step, counts) if skips_passes else {}
    found = _determined(step, counts, references)
    if found is None and references:
        exact = reference_counts.counts(step)
        found = _determined(step, maximum(counts, exact), {}, exact)
    return _peak_counts(step.with_every_pass) if found is None else found


def _determined(
    step: TrainingStep, counts: dict[int, int], references: Mapping[int, int], exact: Mapping[int, int] | None = None
) -> dict[int, int] | None:
    """Return the counts if what is not interpreted needs no more segments, or None if it could.

    `references` are bounds on the counts in passes without adapters, or `exact` has these counts.
    """
    copies, bounds = step.run.copies, _bounds(step, counts)
    if references:
        bounds = maximum(bounds, references)
    if copies.bounds_first:
        least = maximum(_peak_counts(step, first_layer_bound.smallest_counts(copies)), exact or {})
        higher = {size: count for size, count in (counts | bounds).items() if count != least.get(size)}
        return None if _needs_more(least, higher) else counts
    if step.recording.first is not None:
        sizes, equal = step.run.storages.sizes, step.run.storages.equal_sizes
        for number, count in first_layer_bound.counts(copies, equal):
            if size := sizes[number]:
                bounds[size] = max(counts[size], bounds.get(size, 0), count)
    return None if bounds and _needs_more(counts, bounds) else counts


def _needs_more(counts: Mapping[int, int], bounds: Mapping[int, int]) -> bool:
    """Return whether blocks need more segments with higher counts of some sizes."""
    small = more = 0
    for size, count in bounds.items():
        before = counts.get(size, 0)
        if size <= SMALL_REQUEST:
            more += size * (count - before)
        elif in_segments({size: count}) != in_segments({size: before}):
            return True
    if more:
        small = sum([size * count for size, count in counts.items() if size <= SMALL_REQUEST])
    return whole_segments(small + more) != whole_segments(small)


def _bounds(step: TrainingStep, counts: dict[int, int]) -> dict[int, int]:
    """Return bounds on the counts of some sizes in passes that are not interpreted."""
    found = {} if step.run.skipped is None else skipped_passes.bounds(step.recording, counts)
    return found if step.first is None else maximum(found, skipped_passes.bounds(step.first.recording, counts))


def _peak_counts(step: TrainingStep, changes: Iterable[CountChange] = ()) -> dict[int, int]:
    """Return the peak number of blocks of each size.

    What the previous step left alive counts until the forward pass ends. `changes` come on top.
    """
    carried, until = step.run.copies.kinds.by_size(step.carried.counts), step.marks["backward"]
    extra = [*changes]
    for size, count in carried.items():
        extra += [(0, size, count), (until, size, -count)]
    temporaries = {} if step.flat or step.partitioned else step.resident.sizes_of_temporaries
    counts = peak_counts(step.recording, temporaries, extra)
    if step.first is None:
        return counts
    return maximum(counts, peak_counts(step.first.recording))
