"""Random and mutated pickles: plain values are read as Python reads them, and nothing else is built or run."""

import pickle
import sys
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calculator.common.errors import PlanError
from calculator.diagnosis.plain_pickle import plain
from calculator.diagnosis.snapshot import read_snapshot

NUMBERS = st.integers(-(2**100), 2**100) | st.floats(allow_nan=False)
KEYS = st.text(max_size=8) | st.integers(-(2**40), 2**40)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=300),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner),
    max_leaves=20,
)

#: The operations that the reader knows, and some that it does not: GLOBAL, REDUCE, BUILD, STACK_GLOBAL, PERSID.
OPERATIONS = b"NGJKM\x88\x89\x8a\x8b}])\x85\x86\x87(.0taesuqrhj\x94\x8cX\x8dc\x93RbiPo\x81\x92"

FEW = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))


def kinds(value):
    """The types in a value, each container visited once."""
    found, seen, queue = set(), set(), [value]
    while queue:
        container = queue.pop()
        found.add(type(container))
        if isinstance(container, list | tuple | dict) and id(container) not in seen:
            seen.add(id(container))
            queue += [*container.keys(), *container.values()] if isinstance(container, dict) else container
    return found


def nested(depth):
    """A list in a list, and so on, as a size of a segment."""
    return b"\x80\x04" + b"]" * (depth + 1) + b"a" * depth


def doubled(depth):
    """A pair of the same pair twice, and so on: its text would have two to the power of `depth` parts."""
    return b"\x80\x04]\x94" + b"".join(b"h%c\x86\x94" % n for n in range(depth))


@FEW
@given(value=VALUES, protocol=st.integers(2, 5))
def test_every_plain_value_is_read_as_python_reads_it(value, protocol):
    assert plain(pickle.dumps(value, protocol=protocol)) == value


@FEW
@given(
    operations=st.lists(
        st.sampled_from([OPERATIONS[n : n + 1] for n in range(len(OPERATIONS))]) | st.binary(max_size=3)
    )
)
def test_random_operations_give_plain_values_or_a_refusal(operations):
    modules = set(sys.modules)
    with suppress(PlanError):
        assert kinds(plain(b"".join(operations) + b".")) <= {type(None), bool, int, float, str, list, tuple, dict}
    assert set(sys.modules) == modules


@FEW
@given(raw=st.binary(max_size=200))
def test_random_bytes_are_no_snapshot(raw):
    with pytest.raises(PlanError):
        read_snapshot(raw)


@pytest.mark.parametrize("size", [nested(100_000), doubled(60)], ids=["nested", "doubled"])
@pytest.mark.parametrize("field", [b"total_size", b"device", b"blocks"])
def test_a_value_that_is_too_deep_to_print_is_refused(size, field):
    """The pickle is that of {"segments": [{field: size}]}, with the size's operations put in."""
    key = b"\x8c%c%s" % (len(field), field)
    fields = key + size.removeprefix(b"\x80\x04") + b"s"
    if field != b"total_size":
        fields += b"\x8c\x0atotal_sizeK\x01s"
    raw = b"\x80\x04}\x8c\x08segments]}" + fields + b"as."
    with pytest.raises(PlanError, match=r"of another type|missing"):
        read_snapshot(raw)


def test_a_mark_is_no_value():
    for operations in (b"(.", b"](a.", b"}K\x01(s.", b"(\x85.", b"(\x94h\x00."):
        with pytest.raises(PlanError):
            plain(operations)
