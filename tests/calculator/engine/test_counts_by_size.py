"""The peak number of storages of each size, counted event by event and reused for other sizes."""

from collections import Counter

import pytest

from calculator.engine.copies import Copies
from calculator.engine.counts_by_size import peak_counts
from calculator.engine.kinds import Storages, storages_of
from calculator.engine.lifetimes import Lifetimes
from calculator.engine.memory_curve import Window
from calculator.engine.recording import Recording
from calculator.engine.tape import Tape

#: A layer's two windows: it leaves its second row alive, and its backward pass frees it.
EVENTS = [0, 1, 2, ~1, 3, ~3, ~2, ~0]
WINDOWS = (Window(before=1, start=1, end=4, copies=2), Window(before=6, start=6, end=7, copies=2))

#: The index of each row's size.
SIZE_OF = [0, 1, 2, 1]


def tape(sizes):
    tape = Tape()
    tape.rows = [(f"row {row}", (1,), "int8", "activations", sizes[number]) for row, number in enumerate(SIZE_OF)]
    tape.events = EVENTS
    return tape


def recorded(sizes, copies=None):
    """The run with these sizes, or with copies that other sizes share."""
    with_sizes = tape(sizes)
    storages = storages_of(with_sizes)
    if copies is None:
        copies = Copies(with_sizes, Lifetimes(EVENTS, len(with_sizes.rows)), storages.kinds, WINDOWS, shared_rows=1)
        return Recording(copies, storages)
    return Recording(copies, Storages(copies.kinds, sizes, with_sizes.rows.__getitem__))


def by_hand(sizes):
    """The peak number of each size; the layer's copies leave their rows alive too."""
    alive, most = Counter(), Counter()
    for position, event in enumerate(EVENTS):
        alive[sizes[2]] += {1: 2, 7: -2}.get(position, 0)
        row = event if event >= 0 else ~event
        alive[sizes[SIZE_OF[row]]] += 1 if event >= 0 else -1
        most |= alive
    return most


SIZES = [[512, 1024, 2048], [512, 512, 2048], [512, 1024, 1024], [512, 1024, 512], [512, 512, 512], [1024, 512, 4096]]


@pytest.mark.parametrize("sizes", SIZES)
def test_rows_of_one_size_are_counted_together_with_those_of_the_copies(sizes):
    assert peak_counts(recorded(sizes)) == by_hand(sizes)


def test_cached_counts_of_other_sizes_equal_those_of_their_own_events():
    copies = recorded([512, 1024, 2048]).copies
    for sizes in [*SIZES, *reversed(SIZES)]:
        assert peak_counts(recorded(sizes, copies)) == by_hand(sizes)
    patterns = {tuple(sizes.index(size) for size in sizes) for sizes in SIZES}
    assert len(copies.counts) == len(patterns)


def test_extra_storages_count_only_while_they_are_alive():
    for extra, most in (([(0, 0, 3), (3, 0, -3)], 4), ([(0, 0, 3), (0, 0, -3)], 1)):
        assert peak_counts(recorded([512, 1024, 2048]), None, extra)[512] == most
