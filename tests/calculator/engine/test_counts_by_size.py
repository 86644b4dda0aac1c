"""The peak number of storages of each size, counted event by event and reused for other sizes."""

from collections import Counter

import pytest

from calculator.engine.counts_by_size import peak_counts
from calculator.engine.lifetimes import Lifetimes
from calculator.engine.memory_curve import Window
from calculator.engine.recording import Recording
from calculator.engine.tape import Tape

#: A layer's two windows: it leaves its second row alive, and its backward pass frees it.
EVENTS = [0, 1, 2, ~1, 3, ~3, ~2, ~0]
WINDOWS = (Window(before=1, start=1, end=4, copies=2), Window(before=6, start=6, end=7, copies=2))

#: The index of each row's size.
SIZE_OF = [0, 1, 2, 1]


def recorded(lifetimes):
    tape = Tape()
    tape.rows, tape.events = lifetimes.rows, lifetimes.events
    return Recording(tape, lifetimes, WINDOWS, shared_rows=1)


def rows(sizes):
    return [(f"row {row}", (1,), "int8", "activations", sizes[number]) for row, number in enumerate(SIZE_OF)]


def by_hand(sizes):
    """The peak number of each size; the layer's copies leave their rows alive too."""
    alive, most = Counter(), Counter()
    for position, event in enumerate(EVENTS):
        alive[sizes[2]] += {1: 2, 7: -2}.get(position, 0)
        row = event if event >= 0 else ~event
        alive[sizes[SIZE_OF[row]]] += 1 if event >= 0 else -1
        most |= alive
    return most


@pytest.fixture
def lifetimes():
    size_events = [SIZE_OF[event] if event >= 0 else ~SIZE_OF[~event] for event in EVENTS]
    return Lifetimes(EVENTS, rows([512, 1024, 2048]), size_events)


SIZES = [[512, 1024, 2048], [512, 512, 2048], [512, 1024, 1024], [512, 1024, 512], [512, 512, 512], [1024, 512, 4096]]


@pytest.mark.parametrize("sizes", SIZES)
def test_rows_of_one_size_are_counted_together_with_those_of_the_copies(sizes):
    assert peak_counts(recorded(Lifetimes(EVENTS, rows(sizes)))) == by_hand(sizes)


def test_cached_counts_of_other_sizes_equal_those_of_their_own_events(lifetimes):
    for sizes in [*SIZES, *reversed(SIZES)]:
        assert peak_counts(recorded(lifetimes.with_rows(rows(sizes), sizes))) == by_hand(sizes)
    patterns = {tuple(sizes.index(size) for size in sizes) for sizes in SIZES}
    assert len(lifetimes.count_cache) == len(patterns)


def test_extra_storages_count_only_while_they_are_alive(lifetimes):
    for extra, most in (([(0, 512, 3), (3, 512, -3)], 4), ([(0, 512, 3), (0, 512, -3)], 1)):
        recording = recorded(lifetimes.with_rows(lifetimes.rows, [512, 1024, 2048]))
        assert peak_counts(recording, (), extra)[512] == most
