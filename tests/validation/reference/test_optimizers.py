from typing import get_args

import pytest
import torch

from calculator.common.names import OptimizerName
from calculator.resident.optimizers import OPTIMIZERS as MODELED
from validation.reference.optimizers import OPTIMIZERS, optimizer_for, optimizers_on_meta, states
from validation.tracing.known_values import KnownValues
from validation.tracing.memory_tracker import EmulatedKernels

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

SHAPES = [(512, 300), (64,), (2048, 4)]


#: The modules of packages that not every environment has.
MODULES = {"torchao": "torchao", "schedulefree": "schedulefree", "torch-optimi": "optimi", "grokadamw": "grokadamw"}


def shapes(name):
    """The shapes of parameters that an optimizer updates."""
    return [shape for shape in SHAPES if len(shape) == 2] if name == "muon" else SHAPES


def stepped(name, dtype=torch.bfloat16):
    """The optimizer states after a step of a large matrix, a vector and a small matrix."""
    parameters = [torch.nn.Parameter(torch.ones(shape, dtype=dtype, device="meta")) for shape in shapes(name)]
    with optimizers_on_meta(name):
        optimizer = optimizer_for(name, parameters)
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        with EmulatedKernels(KnownValues(1)):
            optimizer.step()
    numbers = {id(parameter): number for number, parameter in enumerate(parameters)}
    return [
        (numbers[id(parameter)], tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for parameter, _, tensor in states(optimizer)
        if tensor.device.type == "meta"
    ]


def test_every_optimizer_of_a_request_has_a_constructor():
    of_models = {
        name for name, optimizer in MODELED.items() if optimizer.projects or optimizer.package == "lomo-optim"
    } | {"lorafa"}
    assert set(OPTIMIZERS) | of_models == set(get_args(OptimizerName)) == set(MODELED)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_states_equal_those_of_the_calculator(name):
    if MODELED[name].package:
        pytest.importorskip(MODULES[MODELED[name].package])
    expected = [
        (number, tuple(map(int, shape)), dtype)
        for number, of in enumerate(shapes(name))
        for _, shape, dtype in MODELED[name].states(of, "bfloat16")
    ]
    code_books = [row for row in stepped(name) if MODELED[name].storage == "8bit" and row[1:] == ((256,), "float32")]
    assert sorted(row for row in stepped(name) if row not in code_books) == sorted(expected)
