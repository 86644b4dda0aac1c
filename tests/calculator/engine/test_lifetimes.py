"""When each storage on a tape is allocated and freed."""

from calculator.engine.lifetimes import Lifetimes, by_size
from calculator.engine.tape import Tape


def lifetimes(size_events=()):
    """Three rows: the first stays alive, the second is freed before the third is allocated."""
    tape = Tape()
    kept = [tape.new((256,), "float32", "first")]
    temporary = tape.new((512,), "float32", "second")
    del temporary
    kept.append(tape.new((256,), "float32", "third"))
    found = Lifetimes([*tape.events], tape.rows, size_events)
    del kept
    return found


def test_an_event_adds_allocated_bytes_and_subtracts_freed_bytes():
    assert lifetimes().events[:4] == [0, 1, ~1, 2]
    assert lifetimes().changes()[:4] == [1024, 2048, -2048, 1024]


def test_rows_are_found_by_when_they_are_allocated_and_freed():
    found = lifetimes()
    assert found.ends == [4, 2, 4]
    assert list(found.allocated(1, 4)) == [1, 2]
    assert found.surviving(0, 4) == [0, 2]
    assert found.freed(range(3), 1, 3) == [1]


def test_live_rows_are_in_the_order_of_allocation():
    assert [name for name, *_ in lifetimes().alive(2)] == ["first", "second"]
    assert [name for name, *_ in lifetimes().alive(4)] == ["first", "third"]


def test_other_rows_with_the_same_events_have_the_same_lifetimes():
    found = lifetimes(size_events=[0, 1, ~1, 0])
    assert (found.surviving(0, 4), found.freed_earlier_rows(0, 2, 3)) == ([0, 2], [1])
    sizes = {"a": 256, "b": 512, "c": 256}
    rows = [(name, (size // 4,), "float32", "activations", size) for name, size in sizes.items()]
    other = found.with_rows(rows, [256, 512])
    assert (other.ends, other.surviving(0, 4), other.freed_earlier_rows(0, 2, 3)) == (found.ends, [0, 2], [1])
    assert [name for name, *_ in other.alive(4)] == ["a", "c"]
    assert other.changes() == [256, 512, -512, 256]


def test_kinds_are_counted_by_size():
    found = lifetimes()
    assert by_size(found.kinds(range(3))) == {1024: 2, 2048: 1}
