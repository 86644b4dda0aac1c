"""When each storage on a tape is born and freed."""

from calculator.engine.lifetimes import Lifetimes, by_size
from calculator.engine.tape import Tape


def lives(sized=()):
    """Three rows: the first stays, the second is freed before the third is made."""
    tape = Tape()
    kept = [tape.new((256,), "float32", "first")]
    passing = tape.new((512,), "float32", "second")
    del passing
    kept.append(tape.new((256,), "float32", "third"))
    found = Lifetimes([*tape.events], tape.rows, sized)
    del kept
    return found


def test_an_event_adds_what_is_born_and_takes_away_what_is_freed():
    assert lives().events[:4] == [0, 1, ~1, 2]
    assert lives().changes()[:4] == [1024, 2048, -2048, 1024]


def test_rows_are_found_by_when_they_are_born_and_freed():
    found = lives()
    assert found.ends == [4, 2, 4]
    assert list(found.born(1, 4)) == [1, 2]
    assert found.left(0, 4) == [0, 2]
    assert found.freed(range(3), 1, 3) == [1]


def test_what_is_alive_is_told_in_the_order_of_birth():
    assert [born[0] for born in lives().alive(2)] == ["first", "second"]
    assert [born[0] for born in lives().alive(4)] == ["first", "third"]


def test_other_rows_to_which_the_same_happened_live_as_long():
    found = lives(sized=[0, 1, ~1, 0])
    assert (found.left(0, 4), found.taken(0, 2, 3)) == ([0, 2], [1])
    sizes = {"a": 256, "b": 512, "c": 256}
    told = found.of([(name, (size // 4,), "float32", "activations", size) for name, size in sizes.items()], [256, 512])
    assert (told.ends, told.left(0, 4), told.taken(0, 2, 3)) == (found.ends, [0, 2], [1])
    assert [born[0] for born in told.alive(4)] == ["a", "c"]
    assert told.changes() == [256, 512, -512, 256]


def test_kinds_are_counted_by_size():
    found = lives()
    assert by_size(found.kinds(range(3))) == {1024: 2, 2048: 1}
