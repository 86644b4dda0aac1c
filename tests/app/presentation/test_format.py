"""Figures are formatted for people."""

import pytest

from app.presentation.format import about, decimal, exact, parameters, percent, plain, signed, size


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (512, "512 bytes"),
        (1 << 10, "1.0 KiB"),
        (40 << 20, "40.0 MiB"),
        (1 << 30, "1.00 GiB"),
        (9_341_251_584, "8.70 GiB"),
        (840_000_000_000, "782.31 GiB"),
        (2 << 40, "2,048.00 GiB"),
        (-(3 << 29), "−1.50 GiB"),
    ],
)
def test_sizes_take_the_unit_that_suits_them(count, text):
    assert size(count) == text


def test_margins_always_have_a_sign():
    assert signed(1 << 30) == "+1.00 GiB"
    assert signed(-(1 << 30)) == "−1.00 GiB"


def test_a_margin_that_is_not_exact_has_fewer_digits():
    assert [about(int(gib * 2**30)) for gib in (13.1, 7.04, -0.42, -1526.6)] == ["≈+13", "≈+7.0", "≈−0.4", "≈−1,527"]


def test_exact_sizes_are_to_the_last_byte():
    assert exact(9_356_288) == "9,356,288 bytes"
    assert exact(-1) == "−1 bytes"


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0, "0 %"), (1, "100 %"), (0.5667, "57 %"), (0.0052, "0.52 %"), (0.0000102, "0.001 %"), (1e-9, "under 0.0001 %")],
)
def test_shares_keep_two_digits_if_they_are_small(fraction, text):
    assert percent(fraction) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(81_920, "81,920"), (41_943_040, "41.9 million"), (8_030_261_248, "8.03 billion"), (10**12, "1 trillion")],
)
def test_parameter_counts_are_words_in_sentences(count, text):
    assert parameters(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (36_006_632_960, "36.01 GB"),
        (840 * 10**9, "840.00 GB"),
        (167_772_160, "0.17 GB"),
        (16_777_216, "16.8 MB"),
        (1_500, "1.5 kB"),
        (-76_247_332, "−76.2 MB"),
        (99, "99 bytes"),
    ],
)
def test_sizes_of_data_sheets_are_decimal(count, text):
    assert decimal(count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8_388_608, "8,388,608"),
        (-2.0, "−2"),
        (3.045, "3.045"),
        (51.2, "51.2"),
        (0.1198372, "0.119837"),
        (1.2e-8, "1.2 × 10⁻⁸"),
        (-0.31, "−0.31"),
        (1234567.5, "1.23457 × 10⁶"),
    ],
)
def test_a_figure_has_six_digits_and_a_whole_one_all(value, text):
    assert plain(value) == text


def test_a_figure_can_have_fewer_digits():
    assert plain(0.1198372, 2) == "0.12"
