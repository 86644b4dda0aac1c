"""The kinds of storages on a tape, and the bytes that its events add."""

from calculator.engine.copies import Copies
from calculator.engine.kinds import Storages, equal, firsts, numbered, storages_of
from calculator.engine.lifetimes import Lifetimes
from calculator.engine.live_tensors import StorageCounts
from calculator.engine.recording import Recording
from calculator.engine.tape import Tape


def tape():
    """Three rows: the first stays alive, the second is freed before the third is allocated, which is like the first."""
    tape = Tape()
    kept = [tape.new((256,), "float32", "first")]
    temporary = tape.new((512,), "float32", "second")
    del temporary
    kept.append(tape.new((256,), "float32", "first"))
    found = tape.copy()
    del kept
    return found


def recording():
    recorded = tape()
    storages = storages_of(recorded)
    return Recording(Copies(recorded, Lifetimes(recorded.events, len(recorded.rows)), storages.kinds), storages)


def test_rows_with_equal_name_shape_dtype_and_component_are_of_one_kind():
    storages = storages_of(tape())
    assert storages.kinds.kind_of_row == [0, 1, 0]
    assert [storages.allocation(kind)[0] for kind in (0, 1)] == ["first", "second"]
    assert storages.rows == tape().rows
    assert storages.sizes_of_rows == [1024, 2048, 1024]


def test_an_event_adds_allocated_bytes_and_subtracts_freed_bytes():
    assert [*recording().changes] == [1024, 2048, -2048, 1024]


def test_operations_are_named_by_the_row_of_the_last_event():
    assert [recording().operation(position) for position in (0, 2, 3, 4)] == ["first", "second", "second", "first"]


def test_storages_of_a_kind_are_counted_together():
    recorded = recording()
    alive = recorded.alive(recorded.curve.peak(0, 4), (), StorageCounts(recorded.storages, recorded.copies.left))
    assert recorded.copies.left == {0: 2}
    assert {kind[0]: count for kind, count in alive.kinds().items()} == {"first": 3, "second": 1}
    assert alive.by_component()["activations"] == 3 * 1024 + 2048


def test_equal_sizes_are_numbered_by_the_first_and_are_a_range_if_no_two_are_equal():
    kinds, make = storages_of(tape()).kinds, tape().rows.__getitem__
    assert Storages(kinds, [1024, 2048, 1024], make).equal_sizes == (0, 1, 0)
    assert Storages(kinds, [1024, 2048, 512], make).equal_sizes == range(3)


def test_equal_values_have_equal_numbers_in_the_order_of_the_first():
    assert equal([7, 3, 7, 5, 3]) == (0, 1, 0, 2, 1)
    assert firsts((0, 1, 0, 2, 1)) == [0, 1, 3]
    assert numbered([7, 3, 7, 5, 3]) == ([7, 3, 5], (0, 1, 0, 2, 1))
