"""Repeated operations on the meta device have the outputs of their kernels."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.validation.tracing.test_trace import request
from validation.tracing import repeated_operations
from validation.tracing.repeated_operations import run
from validation.tracing.trace import trace

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

ATEN = torch.ops.aten


def tensor(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def described(outputs):
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return [(each.shape, each.stride(), each.dtype, each.untyped_storage().nbytes()) for each in outputs]


OPERATIONS = {
    "product": (ATEN.mul.Tensor, (tensor(4, 1), tensor(3)), {}),
    "transposed": (ATEN.add.Tensor, (tensor(4, 3).t(), tensor(4, 3).t()), {"alpha": 2}),
    "integer": (ATEN.div.Tensor, (tensor(4, dtype=torch.int64), 2), {}),
    "two outputs": (ATEN.native_dropout.default, (tensor(4, 3), 0.1, True), {}),
    "list": (ATEN.cat.default, ([tensor(4, 3), tensor(2, 3)],), {}),
    "cast": (ATEN._to_copy.default, (tensor(4, 3),), {"dtype": torch.bfloat16}),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_new_tensors_have_the_layouts_of_the_kernels(name, monkeypatch):
    monkeypatch.setattr(repeated_operations, "_KNOWN", {})
    func, args, kwargs = OPERATIONS[name]
    expected = described(func(*args, **kwargs))
    first, second = (run(func, args, kwargs) for _ in range(2))
    assert described(first) == described(second) == expected
    assert len(repeated_operations._KNOWN) == 1
    assert first is not second


def test_an_operation_in_place_returns_its_first_argument():
    for _ in range(2):
        changed = tensor(4, 3)
        assert run(ATEN.add_.Tensor, (changed, tensor(3)), {}) is changed


def test_numbers_of_other_types_are_other_arguments():
    whole = tensor(4, dtype=torch.int64)
    assert [run(ATEN.mul.Tensor, (whole, number), {}).dtype for number in (2, 2.0, 2)] == [
        torch.int64,
        torch.float32,
        torch.int64,
    ]


def test_the_default_dtype_is_that_of_the_moment():
    whole = tensor(4, dtype=torch.int64)
    found = [run(ATEN.div.Tensor, (whole, 2), {}).dtype]
    torch.set_default_dtype(torch.float64)
    try:
        found.append(run(ATEN.div.Tensor, (whole, 2), {}).dtype)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == [torch.float32, torch.float64]


@pytest.mark.parametrize(
    ("func", "args"), [(ATEN._unsafe_view.default, ([12],)), (ATEN.view.default, ([12],)), (ATEN.t.default, ())]
)
def test_a_view_shares_its_storage_however_often_it_is_made(func, args):
    for _ in range(3):
        base = tensor(4, 3)
        assert run(func, (base, *args), {}).untyped_storage()._cdata == base.untyped_storage()._cdata


def test_values_on_the_host_are_computed_each_time():
    assert [run(ATEN.add.Tensor, (torch.ones(1), number), {}).item() for number in (1, 1, 2)] == [2, 2, 3]


def test_another_mode_sees_each_operation():
    class Seen(TorchDispatchMode):
        names: list = []  # noqa: RUF012

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.append(func)
            return func(*args, **(kwargs or {}))

    args = (tensor(4), tensor(4))
    run(ATEN.mul.Tensor, args, {})
    with Seen():
        run(ATEN.mul.Tensor, args, {})
    assert Seen.names == [ATEN.mul.Tensor]


@pytest.mark.parametrize("name", ["full", "lora", "qlora", "ia3"])
def test_a_trace_is_that_of_the_kernels(name, monkeypatch):
    plan = request({"name": name}, autocast="bfloat16", gradient_checkpointing=name == "full")
    repeated = trace(plan)
    monkeypatch.setattr(repeated_operations, "_is_known_by_layouts", lambda _: False)
    plain = trace(plan)
    assert (repeated.events, repeated.ledger.storages) == (plain.events, plain.ledger.storages)
    assert (repeated.phases, repeated.static) == (plain.phases, plain.static)
