"""The number of storages of each size in passes that `skipped_references` leaves out.

Bounds on them come from the trained pass. If these could change the segments of the rule, a pass is interpreted by
itself, and what is alive before it is added.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import compress, pairwise
from operator import invert
from typing import TYPE_CHECKING

from calculator.engine.counts_by_size import peak_counts
from calculator.engine.frame_snapshots import without_frame_snapshots
from calculator.engine.skipped_passes import SKIPPED, TRAINED
from calculator.trainers import trainer_of
from calculator.training_step.causal_lm import forward_pass
from calculator.training_step.model_passes import ModelPasses
from calculator.training_step.run import no_grad_run
from calculator.training_step.training_context import training_context

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from calculator.methods.prepared_model import PreparedModel
    from calculator.training_step.run import Run
    from calculator.training_step.step import TrainingStep


def bounds(step: TrainingStep, counts: Mapping[int, int]) -> dict[int, int]:
    """Return upper bounds on the number of storages of some sizes in such passes of a step.

    `counts` has the peak number of storages of each size in bytes. Sizes with lower bounds are left out.
    """
    bound_by_size: dict[int, int] = {}
    for run, places, carried in _runs(step):
        bound_by_size = maximum(bound_by_size, _bounds(run, places, counts, carried))
    return bound_by_size


def counts(step: TrainingStep) -> dict[int, int]:
    """Return the peak number of storages of each size in such passes of a step."""
    prepared, count_by_size = step.resident.prepared, dict[int, int]()
    for run, places, carried in _runs(step):
        own = _own_counts(prepared if run is step.run else prepared.first_micro_batch)
        alive = Counter(_alive(run, places, carried))
        count_by_size = maximum(count_by_size, Counter(own) + alive)
    return count_by_size


def maximum(counts: Mapping[int, int], others: Mapping[int, int]) -> dict[int, int]:
    """Return the larger of two counts of each size."""
    return {size: max(counts.get(size, 0), others.get(size, 0)) for size in {*counts, *others}}


def _runs(step: TrainingStep) -> Iterator[tuple[Run, list[int], Mapping[int, int]]]:
    """Yield the micro-batches that skip passes, and where.

    Each has the storages of every size in bytes that the previous step left alive.
    """
    if places := _places(step.run):
        sizes, carried = step.run.storages.sizes, step.run.copies.kinds.by_size(step.carried.counts)
        yield step.run, places, _by_bytes(sizes, carried)
    if step.first is not None and (places := _places(step.first.run)):
        yield step.first.run, places, {}


def _places(run: Run) -> list[int]:
    """Return the positions at which passes after the trained one are left out."""
    if run.added is None:
        return []
    marks = run.copies.marks
    return [at for label, at in marks.items() if label.endswith(SKIPPED) and at >= marks[TRAINED]]


def _bounds(run: Run, places: Sequence[int], counts: Mapping[int, int], carried: Mapping[int, int]) -> dict[int, int]:
    sizes, copied = run.storages.sizes, run.copies.sizes[0]
    alive, start = _alive(run, places, carried), run.copies.marks[TRAINED]
    for size, count in copied.items():
        # The input of the first layer, which stays alive while a later one runs.
        alive[sizes[size]] = alive.get(sizes[size], 0) + max(0, count)
    base = _allocated_by_base(run, start, places[0])
    higher = {size for size, count in base.items() if alive.get(sizes[size], 0) + count > counts.get(sizes[size], 0)}
    base |= _most_of_base(run, start, places[0], higher) if higher else {}
    for size, count in base.items():
        alive[sizes[size]] = alive.get(sizes[size], 0) + count
    return {size: count for size, count in alive.items() if count > counts.get(size, 0)}


def _alive(run: Run, places: Sequence[int], carried: Mapping[int, int]) -> dict[int, int]:
    """Return the largest number of storages of each size in bytes that are alive before one of the passes."""
    copies, sizes = run.copies, run.storages.sizes
    alive = copies.kinds.by_size(copies.count_kinds(copies.lifetimes.alive(places[0])))
    for window, gained in zip(copies.windows, copies.sizes, strict=True):
        for size, count in gained.items() if window.end <= places[0] else ():
            alive[size] = alive.get(size, 0) + count * window.copies
    for at, count, kind in copies.dropped:
        if at <= places[0]:
            alive[copies.kinds.size_of[kind]] -= count
    largest = {**alive}
    for start, end in pairwise(places):
        for event in copies.kinds.size_events[start:end]:
            size = max(event, ~event)
            alive[size] = alive.get(size, 0) + (1 if event >= 0 else -1)
        largest = maximum(largest, alive)
    count_by_bytes = _by_bytes(sizes, largest)
    for size, count in carried.items():
        count_by_bytes[size] = count_by_bytes.get(size, 0) + count
    return count_by_bytes


def _by_bytes(sizes: Sequence[int], counts: Mapping[int, int]) -> dict[int, int]:
    """Return the counts of sizes in bytes, from those of their numbers. Several numbers may have equal bytes."""
    count_by_bytes: dict[int, int] = {}
    for size, count in counts.items():
        count_by_bytes[sizes[size]] = count_by_bytes.get(sizes[size], 0) + count
    return count_by_bytes


def _allocated_by_base(run: Run, start: int, end: int) -> dict[int, int]:
    """Return the number of storages of each size that the base model allocates between two positions."""
    size_of, kind_of_row = run.copies.kinds.size_of, run.copies.kinds.kind_of_row
    rows = run.copies.lifetimes.allocated(start, end)
    allocated = Counter(map(size_of.__getitem__, kind_of_row[rows.start : rows.stop]))
    adapter_counts = Counter(map(size_of.__getitem__, map(kind_of_row.__getitem__, _adapter_rows(run))))
    return {size: allocated[size] - adapter_counts[size] for size in {**allocated, **adapter_counts}}


def _adapter_rows(run: Run) -> list[int]:
    """Return the rows that adapters allocate in the trained pass."""
    return [row for first, stop, output, _ in run.added or () for row in range(first, stop) if row != output]


def _most_of_base(run: Run, start: int, end: int, sizes: set[int]) -> dict[int, int]:
    """Return the peak number of live storages of the base model between two positions, for some sizes."""
    copies, added = run.copies, {*_adapter_rows(run)}
    events, size_events = copies.lifetimes.events[start:end], copies.kinds.size_events[start:end]
    left_out, counted = added.union(map(invert, added)), sizes.union(map(invert, sizes))
    alive: dict[int, int] = {}
    largest: dict[int, int] = {}
    pairs = zip(events, size_events, strict=True)
    for event, size in compress(pairs, map(counted.__contains__, size_events)):
        if event in left_out:
            continue
        if size < 0:
            alive[~size] -= 1
        else:
            alive[size] = count = alive.get(size, 0) + 1
            if count > largest.get(size, 0):
                largest[size] = count
    return largest


@without_frame_snapshots
def _own_counts(prepared: PreparedModel) -> dict[int, int]:
    """Return the peak number of storages of each size that a pass without adapters allocates itself."""
    context = training_context(prepared)
    trainer = trainer_of(context.training)
    batch = trainer.batch(context)
    passes = ModelPasses(context, partial(forward_pass, trainer=trainer, ids=batch[0]))
    outputs = passes.no_grad("", reference=True)
    counted = peak_counts(no_grad_run(context).recorded())
    del outputs
    return counted
