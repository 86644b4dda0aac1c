"""Symbolic sizes: where the guards hold, other sizes give the values that plain ints give."""

from math import ceil, prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calculator.architecture.dimension import Dim, dim_name, elements, named
from calculator.engine.symbolic_sizes import ShapeEnv, SymInt

SIZES = st.integers(1, 9000)

#: Functions of two sizes, with branches, as the code of a step computes them.
FUNCTIONS = {
    "product": lambda b, s: b * s * 4096 * 2,
    "lengthened": lambda b, s: (20 + s) * b + s,
    "shorter": lambda b, s: b * (s - 1) - 7,
    "negated": lambda b, s: -s % 8 + b,
    "padded": lambda b, s: -(-s // 128) * 128 + b % 3,
    "windowed": lambda b, s: min(s, 512) * b,
    "clamped": lambda b, s: max(1, min(-(-s // 64), 200 // (b * 32))),
    "branch": lambda b, s: (s if b == 1 else b * s) + (7 if s > b else 3),
    "elements": lambda b, s: elements((b, s, 64)) + elements((s,)),
    "factor": lambda b, s: prod((b, s)) if b != s else prod((b, 2)),
    "truth value": lambda b, s: b if (s - 16) else s,
    "floats": lambda b, s: ceil(s / 8) + round(b * 0.5),
    "power": lambda b, s: 4 * b * s**2 + b ** (s % 3) + (b << (s % 3)),
    "quotient": lambda b, s: s // b + s % b + 200 // (b * 32) + 7 % s,
    "guarded quotient": lambda b, s: s // (b - 1) if b > 1 else s,
    "divmod": lambda b, s: divmod(s, b)[0],
    "dictionary lookup": {1: 5, 2: 6}.get,
    "formatted": lambda b, s: len(f"{b:,} × {s}") * s,
}


def symbolic(b, s):
    shape_env = ShapeEnv()
    return shape_env, shape_env.create_symint(b), shape_env.create_symint(s)


@pytest.mark.parametrize("name", FUNCTIONS)
@given(b=SIZES, s=SIZES, other=st.tuples(SIZES, SIZES))
def test_other_sizes_equal_plain_ints_or_fail_a_guard(name, b, s, other):
    function = FUNCTIONS[name]
    shape_env, symbolic_b, symbolic_s = symbolic(b, s)
    result = function(symbolic_b, symbolic_s)
    assert int.__add__(result, 0) == function(b, s)
    index = shape_env.index(result)
    shape_env.eliminate_dead_code([index])
    assert shape_env.evaluate([b, s])[index] == function(b, s)
    values = shape_env.evaluate(other)
    assert values is None or values[index] == function(*other)


def test_arithmetic_alone_adds_no_guard():
    for name in ("product", "lengthened", "shorter", "negated", "padded", "elements", "quotient"):
        shape_env, b, s = symbolic(3, 70)
        index = shape_env.index(FUNCTIONS[name](b, s))
        for other in ((1, 2), (17, 4096), (70, 3)):
            assert shape_env.evaluate(other)[index] == FUNCTIONS[name](*other)


def test_a_comparison_guards_on_its_result():
    shape_env, b, s = symbolic(3, 70)
    assert min(s, 512) is s
    assert b != 1
    assert shape_env.evaluate([2, 512 - 1]) is not None
    assert shape_env.evaluate([2, 600]) is None
    assert shape_env.evaluate([1, 70]) is None


@pytest.mark.parametrize(
    "operation",
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
def test_other_operations_of_an_int_guard_on_the_size(operation):
    shape_env, _, s = symbolic(3, 70)
    assert operation(s) == operation(70)
    assert shape_env.evaluate([9, 70]) is not None
    assert shape_env.evaluate([3, 71]) is None


@pytest.mark.parametrize(
    "operation", [range, range(100).__getitem__, "-".zfill, lambda size: 0.5 * size, lambda size: True * size]
)
def test_c_code_that_reads_an_int_bypasses_the_guards(operation):
    """The code of a step must not do this to a size: the trace would wrongly hold for every size."""
    shape_env, _, s = symbolic(3, 70)
    assert operation(s) == operation(70)
    assert shape_env.evaluate([3, 71]) is not None


def test_a_zero_divisor_fails_like_a_guard():
    shape_env, b, s = symbolic(3, 70)
    index = shape_env.index(s // (b - 1))
    assert shape_env.evaluate([5, 70])[index] == 17
    assert shape_env.evaluate([1, 70]) is None


def test_wrapping_a_symbolic_size_in_a_dim_guards_on_it():
    shape_env, _, s = symbolic(3, 70)
    assert Dim(s, "S") == 70
    assert shape_env.evaluate([3, 71]) is None


def test_expressions_that_no_output_needs_are_dropped():
    shape_env, b, s = symbolic(3, 70)
    output, unused = b * s, (b + s) * 5
    assert isinstance(unused, SymInt)
    before = len(shape_env.expressions)
    shape_env.eliminate_dead_code([output.index])
    assert (before, len(shape_env.expressions)) == (3, 1)


def test_names_are_those_of_dims():
    width = Dim(64, "hidden_size")

    def shape(b, s, r):
        batch, length = named(b, "B"), named(s, "S")
        return (batch, length + 1, batch * length, (r + length) * width, (length - 1) * 2, r, r * 2, (r - 1) * width)

    shape_env, b, s = symbolic(3, 70)
    dims = shape(b, s, shape_env.create_symint(5))
    for sizes in ((3, 70, 5), (2, 4096, 16)):
        values = shape_env.evaluate(sizes)
        assert [dim_name(dim.evaluate(values)) for dim in dims] == [dim_name(dim) for dim in shape(*sizes)]
    assert [dim_name(dim) for dim in dims] == [dim_name(dim) for dim in shape(3, 70, 5)]
