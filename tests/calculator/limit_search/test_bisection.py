"""The search for where a measure passes zero."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calculator.limit_search.bisection import crossing


def counted(measure):
    tried = []

    def excess(value):
        tried.append(value)
        return measure(value)

    return excess, tried


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(1, 10**6), st.sampled_from([1, 2, 3]))
def test_a_growing_function_crosses_zero_between_consecutive_values(low, room, beyond, power):
    zero, high = low + room, low + room + beyond
    assert crossing(lambda value: value**power - zero**power, low, high) == (zero, zero + 1)


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=200))
def test_for_any_function_the_first_has_no_excess_and_the_next_has(values):
    measured = [-1, *values, 1]
    low, high = crossing(lambda value: measured[value], 0, len(measured) - 1)
    assert high == low + 1
    assert measured[low] <= 0 < measured[high]


@pytest.mark.parametrize(
    ("measure", "most"),
    [
        (lambda value: 3 * value - 5_000, 4),
        (lambda value: value**2 - 3_000_000, 17),
        (lambda value: value // 64 - 27, 30),
    ],
    ids=["line", "square", "steps"],
)
def test_few_evaluations_are_enough(measure, most):
    excess, tried = counted(measure)
    low, high = crossing(excess, 2, 131_072)
    assert (high, measure(low) <= 0 < measure(high)) == (low + 1, True)
    assert len(tried) <= most


def test_the_search_stops_within_the_given_distance():
    excess, tried = counted(lambda value: value**2 - 3_000_000)
    low, high = crossing(excess, 2, 131_072, near=1 / 16)
    assert low**2 <= 3_000_000 < high**2
    assert 1 < high - low <= low / 16
    assert len(tried) <= 14
