"""The bound on the segments of a pass of `generate` by its bytes alone."""

import random

import pytest

from calculator.allocator.reserved_rule import _fits_by_bytes, in_segments
from calculator.common.deferred import Deferred
from calculator.engine.memory_curve import Moment
from calculator.training_step.step_pass import StepPass

MIB = 1 << 20


def pass_with(counts: dict[int, int]) -> StepPass:
    """Return a pass with as many storages of each size."""

    def bytes_below(limit: int | None) -> tuple[int, int]:
        found = {size: count for size, count in counts.items() if limit is None or size < limit}
        return len(found), sum(size * count for size, count in found.items())

    never: Deferred = Deferred(lambda: pytest.fail("the pass is not recorded"))
    return StepPass(Moment(0, 0, ()), "", never, Deferred(lambda: counts), bytes_below)


def test_storages_that_fit_by_their_bytes_fit_in_segments() -> None:
    draw, fitted = random.Random(3), 0
    for _ in range(2000):
        most = draw.choice((MIB, 6 * MIB, 30 * MIB))
        counts = {512 * draw.randint(1, most // 512): draw.randint(1, 40) for _ in range(draw.randint(1, 12))}
        segments = in_segments(counts)
        size = draw.randint(segments // 2, 2 * segments + 300 * MIB)
        if _fits_by_bytes(pass_with(counts), size):
            fitted += 1
            assert segments <= size
    assert fitted > 200


def test_large_storages_fit_in_a_fifth_more() -> None:
    step_pass = pass_with({100 * MIB: 20})
    assert _fits_by_bytes(step_pass, 2400 * MIB + 20 * MIB)
    assert not _fits_by_bytes(step_pass, 2400 * MIB)
