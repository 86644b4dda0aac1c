"""Tensors per parameter: the bytes known at once are those of the tensors created on iteration."""

import pytest

from calculator.resident.optimizers import OPTIMIZERS
from calculator.resident.per_parameter import PerParameter, gradients, optimizer_states, sizes, tensors
from calculator.resident.tensor import ResidentTensor

FROZEN = ResidentTensor(name="frozen", shape=(64, 64), dtype="bfloat16", component="base_weights", count=3)
TRAINED = [
    ResidentTensor(name="a", shape=(100, 300), dtype="float32", component="adapter_weights", count=7, trained=True),
    ResidentTensor(name="b", shape=(5,), dtype="bfloat16", component="adapter_weights", trained=True),
]


def test_a_gradient_has_the_shape_and_dtype_of_what_is_trained():
    created = gradients([FROZEN, *TRAINED])
    assert [(t.name, t.shape, t.dtype, t.count, t.bytes) for t in created] == [
        ("a: gradient", (100, 300), "float32", 7, 7 * 120_320),
        ("b: gradient", (5,), "bfloat16", 1, 512),
    ]
    assert created.bytes == 7 * 120_320 + 512


def test_several_names_and_times_are_counted_each():
    created = PerParameter(TRAINED, ("x", "y"), "workspace", 2)
    assert [(t.name, t.count) for t in created] == [("a: x", 14), ("a: y", 14), ("b: x", 2), ("b: y", 2)]
    assert created.bytes == sum(t.bytes for t in created)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizers_states_are_those_that_it_names_for_each_parameter(optimizer):
    created = [*tensors(optimizer_states([FROZEN, *TRAINED], optimizer))]
    named = [
        f"{of.name}: {state[0]}"
        for of in TRAINED
        for state in optimizer.for_parameter(of.name).states(of.shape, of.dtype)
    ]
    shared = [state[0] for state in optimizer.shared_states(of.shape for of in TRAINED)]
    assert [state.name for state in created] == named + shared
    assert sum(state.bytes for state in optimizer_states(TRAINED, optimizer)) == sum(state.bytes for state in created)


def test_sizes_count_every_tensor():
    assert sizes([FROZEN, PerParameter(TRAINED, ("x", "y"), "workspace")]) == {8192: 3, 120_320: 14, 512: 2}
