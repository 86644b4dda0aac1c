"""Intervals for a run of another source, from how much the known sources differ."""

from math import exp, isclose, log, sqrt
from random import Random

from calculator.speed.prediction import LEVEL, predicted


def test_the_interval_of_single_runs_is_students():
    low, high = log(0.2), log(0.4)
    middle, deviation = (low + high) / 2, (high - low) / sqrt(2)
    found = predicted([[0.2], [0.4]])
    assert isclose(found.low, exp(middle - 3.078 * deviation * sqrt(1.5)))
    assert found.high == 1  # the rated speed


def test_many_runs_of_one_source_narrow_nothing():
    few = predicted([[0.3], [0.4], [0.5]])
    many = predicted([[0.3] * 50, [0.4], [0.5]])
    assert (few.low, few.high) == (many.low, many.high)


def test_runs_that_differ_within_a_source_widen_it():
    even, uneven = predicted([[0.2, 0.2], [0.3], [0.25]]), predicted([[0.1, 0.4], [0.3], [0.25]])
    assert uneven.high / uneven.low > even.high / even.low


def test_the_interval_contains_further_sources_as_often_as_it_states():
    random, inside, draws = Random(20), 0, 2000
    for _ in range(draws):
        sources = [log(0.2) + random.gauss(0, 0.3) for _ in range(6)]
        measured = [[exp(source + random.gauss(0, 0.1)) for _ in range(4)] for source in sources[:5]]
        found = predicted(measured)
        inside += found.low <= exp(sources[5] + random.gauss(0, 0.1)) <= found.high
    assert abs(inside / draws - LEVEL) < 0.03
