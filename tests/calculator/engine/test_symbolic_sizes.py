"""Open sizes: the numbers of other sizes are those that Python's own ints give, wherever the same is decided."""

from math import ceil, prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calculator.architecture.dimension import Dim, dim_name, elements, named
from calculator.engine.symbolic_sizes import Formulas, SymInt

SIZES = st.integers(1, 9000)

#: Each from two numbers another, as the code of a step makes them, with the decisions that it takes on the way.
WORKED_OUT = {
    "product": lambda b, s: b * s * 4096 * 2,
    "lengthened": lambda b, s: (20 + s) * b + s,
    "shorter": lambda b, s: b * (s - 1) - 7,
    "negated": lambda b, s: -s % 8 + b,
    "padded": lambda b, s: -(-s // 128) * 128 + b % 3,
    "windowed": lambda b, s: min(s, 512) * b,
    "shared": lambda b, s: max(1, min(-(-s // 64), 200 // (b * 32))),
    "chosen": lambda b, s: (s if b == 1 else b * s) + (7 if s > b else 3),
    "elements": lambda b, s: elements((b, s, 64)) + elements((s,)),
    "factor": lambda b, s: prod((b, s)) if b != s else prod((b, 2)),
    "truth": lambda b, s: b if (s - 16) else s,
    "of floats": lambda b, s: ceil(s / 8) + round(b * 0.5),
    "power": lambda b, s: 4 * b * s**2 + b ** (s % 3) + (b << (s % 3)),
    "quotient": lambda b, s: s // b + s % b + 200 // (b * 32) + 7 % s,
    "guarded quotient": lambda b, s: s // (b - 1) if b > 1 else s,
    "of both": lambda b, s: divmod(s, b)[0],
    "looked up": {1: 5, 2: 6}.get,
    "in words": lambda b, s: len(f"{b:,} × {s}") * s,
}


def opened(b, s):
    formulas = Formulas()
    return formulas, formulas.opened(b), formulas.opened(s)


@pytest.mark.parametrize("name", WORKED_OUT)
@given(b=SIZES, s=SIZES, other=st.tuples(SIZES, SIZES))
def test_other_sizes_give_what_ints_give_or_nothing(name, b, s, other):
    rule = WORKED_OUT[name]
    formulas, open_b, open_s = opened(b, s)
    found = rule(open_b, open_s)
    assert int.__add__(found, 0) == rule(b, s)
    place = formulas.place(found)
    formulas.cut([place])
    assert formulas.worked_out([b, s])[place] == rule(b, s)
    values = formulas.worked_out(other)
    assert values is None or values[place] == rule(*other)


def test_what_is_only_worked_out_is_good_for_every_size():
    for name in ("product", "lengthened", "shorter", "negated", "padded", "elements", "quotient"):
        formulas, b, s = opened(3, 70)
        place = formulas.place(WORKED_OUT[name](b, s))
        for other in ((1, 2), (17, 4096), (70, 3)):
            assert formulas.worked_out(other)[place] == WORKED_OUT[name](*other)


def test_a_comparison_is_good_for_what_compares_the_same():
    formulas, b, s = opened(3, 70)
    assert min(s, 512) is s
    assert b != 1
    assert formulas.worked_out([2, 512 - 1]) is not None
    assert formulas.worked_out([2, 600]) is None
    assert formulas.worked_out([1, 70]) is None


@pytest.mark.parametrize(
    "asked",
    [
        hash,
        str,
        int,
        float,
        "{:,}".format,
        lambda size: size / 2,
        lambda size: size // 2.5,
        lambda size: size > 0.5,
        lambda size: size == 70.0,
        lambda size: [0] * size,
        lambda size: size * "-",
    ],
)
def test_what_python_asks_of_an_int_fixes_it(asked):
    formulas, _, s = opened(3, 70)
    assert asked(s) == asked(70)
    assert formulas.worked_out([9, 70]) is not None
    assert formulas.worked_out([3, 71]) is None


@pytest.mark.parametrize(
    "taken", [range, range(100).__getitem__, "-".zfill, lambda size: 0.5 * size, lambda size: True * size]
)
def test_what_is_taken_without_asking_cannot_be_seen(taken):
    """Why a step's code must not: the formulas go on speaking of every size."""
    formulas, _, s = opened(3, 70)
    assert taken(s) == taken(70)
    assert formulas.worked_out([3, 71]) is not None


def test_a_divisor_that_would_be_zero_is_not_told_of():
    formulas, b, s = opened(3, 70)
    place = formulas.place(s // (b - 1))
    assert formulas.worked_out([5, 70])[place] == 17
    assert formulas.worked_out([1, 70]) is None


def test_an_open_size_in_a_dim_of_its_own_is_fixed():
    formulas, _, s = opened(3, 70)
    assert Dim(s, "S") == 70
    assert formulas.worked_out([3, 71]) is None


def test_what_no_number_that_is_asked_for_needs_is_left_out():
    formulas, b, s = opened(3, 70)
    wanted, unwanted = b * s, (b + s) * 5
    assert isinstance(unwanted, SymInt)
    before = len(formulas.steps)
    formulas.cut([wanted.place])
    assert (before, len(formulas.steps)) == (3, 1)


def test_names_are_those_of_dims():
    width = Dim(64, "hidden_size")

    def shape(b, s, r):
        batch, length = named(b, "B"), named(s, "S")
        return (batch, length + 1, batch * length, (r + length) * width, (length - 1) * 2, r, r * 2, (r - 1) * width)

    formulas, b, s = opened(3, 70)
    told = shape(b, s, formulas.opened(5))
    for sizes in ((3, 70, 5), (2, 4096, 16)):
        values = formulas.worked_out(sizes)
        assert [dim_name(dim.at(values)) for dim in told] == [dim_name(dim) for dim in shape(*sizes)]
    assert [dim_name(dim) for dim in told] == [dim_name(dim) for dim in shape(3, 70, 5)]
