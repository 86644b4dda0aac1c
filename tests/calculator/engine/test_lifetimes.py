"""When each storage on a tape is allocated and freed."""

from calculator.engine.lifetimes import Lifetimes

#: The first of three rows stays alive, the second is freed before the third is allocated.
EVENTS = [0, 1, ~1, 2]


def test_rows_are_found_by_when_they_are_allocated_and_freed():
    found = Lifetimes(EVENTS, 3)
    assert found.ends == [4, 2, 4]
    assert list(found.allocated(1, 4)) == [1, 2]
    assert found.surviving(0, 4) == [0, 2]
    assert found.freed(range(3), 1, 3) == [1]
    assert found.freed_earlier_rows(0, 2, 3) == [1]


def test_live_rows_are_in_the_order_of_allocation():
    found = Lifetimes(EVENTS, 3)
    assert [found.alive(position) for position in range(5)] == [[], [0], [0, 1], [0], [0, 2]]
