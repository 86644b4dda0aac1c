import math

import pytest

from validation.prove.claim import Check, Claim, Figure, formatted, measure, significant, spread


def check(value, relation, *bounds, tolerance=False, unit=""):
    figure = Figure(key="x", name="the error", value=value, unit=unit)
    return Check(figure=figure, relation=relation, bounds=bounds, tolerance=tolerance)


def claim(*checks):
    return Claim(id="a", lesson="", done="", figures=tuple(check.figure for check in checks), checks=checks)


@pytest.mark.parametrize(
    ("relation", "bounds", "right", "wrong"),
    [
        ("equal to", (0,), 0, 1),
        ("at most", (0.5,), 0.5, 0.51),
        ("at least", (0.5,), 0.5, 0.49),
        ("between", (1, 3), 3, 3.1),
        ("between", (1, 3), 1, 0.9),
    ],
)
def test_a_claim_is_true_for_a_right_figure_but_not_for_a_wrong_one_or_nan(relation, bounds, right, wrong):
    assert claim(check(right, relation, *bounds)).words == "holds"
    assert claim(check(wrong, relation, *bounds)).kind == "does not hold"
    assert claim(check(math.nan, relation, *bounds)).kind == "does not hold"


def test_a_claim_that_needs_its_tolerance_states_it_and_the_figure():
    assert claim(check(0.25, "at most", 0.5, tolerance=True)).words == "holds within 0.5 (the error: 0.25)"
    assert claim(check(0.0, "at most", 0.5, tolerance=True)).words == "holds"


def test_a_failing_claim_states_every_wrong_figure():
    words = claim(
        check(0, "equal to", 0),
        check(45_200_000_000, "at most", 24_000_000_000, unit="bytes"),
        check(0.02, "between", 0.1, 0.3),
    ).words
    assert words == ("does not hold: the error: 45.2 GB, not at most 24 GB; the error: 0.02, not between 0.1 and 0.3")


def test_large_sizes_are_in_gb_and_small_ones_in_bytes():
    assert [measure(x, "bytes") for x in (512, 48_568_560_640)] == ["512 bytes", "48.6 GB"]
    assert [measure(0.5, ""), measure(99, "%")] == ["0.5", "99 %"]


def test_one_failing_check_fails_a_claim():
    assert claim(check(0, "equal to", 0), check(9, "at most", 1, tolerance=True)).kind == "does not hold"


def test_a_spread_has_the_median_and_the_ends():
    figure = spread("a", "accuracy", [0.5, 0.1, 0.4])
    assert (figure.value, figure.low, figure.high, figure.of) == (0.4, 0.1, 0.5, 3)


def test_numbers_are_formatted_with_three_significant_digits():
    assert [formatted(x) for x in (0, 12_345, 0.012345, 1.2345e-7, 12_345.6)] == [
        "0",
        "12,345",
        "0.0123",
        "1.2e-07",
        "12,346",
    ]


def test_numbers_are_recorded_with_six_significant_digits_and_infinity_as_none():
    assert [significant(x) for x in (1 / 3, 2**40, math.inf, None)] == [0.333333, 2**40, None, None]
