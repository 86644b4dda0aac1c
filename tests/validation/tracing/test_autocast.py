import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from validation.tracing.emulations.autocast import Autocast, autocast, current, is_autocast_enabled

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]


def tensor(*shape, dtype=torch.float32):
    return torch.ones(*shape, dtype=dtype, device="meta")


@pytest.mark.parametrize(
    ("run", "dtype"),
    [
        (lambda x: x @ x, torch.bfloat16),
        (lambda x: torch.bmm(x[None], x[None]), torch.bfloat16),
        (lambda x: functional.linear(x, x), torch.bfloat16),
        (lambda x: torch.einsum("ij,jk->ik", x, x), torch.bfloat16),
        (lambda x: x.bfloat16().pow(2), torch.float32),
        (lambda x: x.bfloat16() ** 2, torch.float32),
        (lambda x: functional.layer_norm(x.bfloat16(), (8,)), torch.float32),
        (lambda x: x.bfloat16().softmax(-1), torch.float32),
        (lambda x: x.bfloat16().sum(-1), torch.float32),
        (lambda x: x.bfloat16().softmax(-1, dtype=torch.bfloat16), torch.bfloat16),
        (lambda x: x.bfloat16().softmax(-1, torch.bfloat16), torch.bfloat16),
        (lambda x: x.bfloat16().square(), torch.float32),
        (lambda x: torch.linalg.norm(x.bfloat16(), dim=1), torch.float32),
        (lambda x: torch.linalg.vector_norm(x.bfloat16(), dim=1), torch.float32),
        (lambda x: x.bfloat16() + x, torch.float32),
        (lambda x: functional.silu(x.bfloat16()), torch.bfloat16),
        (lambda x: x.long().sum(), torch.int64),
    ],
)
def test_an_operation_runs_in_the_dtype_of_cudas_lists(run, dtype):
    with Autocast(torch.bfloat16):
        assert run(tensor(8, 8)).dtype == dtype


def test_a_trainable_weight_is_cast_once_and_its_copy_freed_at_the_end():
    layer = nn.Linear(8, 8, device="meta")
    with Autocast(torch.bfloat16) as mode:
        assert mode.lowered(layer.weight) is mode.lowered(layer.weight)
        layer(tensor(4, 8))
    assert not Autocast._weights


def test_a_frozen_weight_is_cast_at_every_use():
    layer = nn.Linear(8, 8, device="meta").requires_grad_(False)
    with Autocast(torch.bfloat16) as mode:
        assert mode.lowered(layer.weight) is not mode.lowered(layer.weight)


def test_the_innermost_autocast_applies():
    with Autocast(torch.bfloat16):
        with Autocast(torch.bfloat16, enabled=False):
            assert (tensor(8, 8) @ tensor(8, 8)).dtype == torch.float32
            assert current() is None
        assert (tensor(8, 8) @ tensor(8, 8)).dtype == torch.bfloat16


def test_disabled_autocast_has_no_effect():
    with autocast("meta", torch.bfloat16, enabled=False):
        assert not Autocast.active
    assert not is_autocast_enabled("meta")


def test_gradients_of_cast_products_have_the_weights_dtype():
    layer = nn.Linear(8, 8, device="meta")
    with Autocast(torch.bfloat16):
        loss = layer(tensor(4, 8)).sum()
    loss.backward()
    assert layer.weight.grad.dtype == torch.float32


def casts_in_order(device):
    """The arguments in the order in which their gradients are cast: the highest sequence number runs first."""
    x, weight, bias = (torch.ones(*shape, device=device, requires_grad=True) for shape in ((4, 8), (8, 8), (8,)))
    with autocast(device, torch.bfloat16):
        product = functional.linear(x * 1, weight, bias).grad_fn
    nodes = {"bias": product.next_functions[0][0], "x": product.next_functions[1][0]}
    nodes["weight"] = product.next_functions[2][0].next_functions[0][0]
    assert {node.name() for node in nodes.values()} == {"ToCopyBackward0"}
    return sorted(nodes, key=lambda name: -nodes[name]._sequence_nr())


def test_arguments_are_cast_from_the_last_to_the_first_as_in_torchs_autocast():
    assert casts_in_order("meta") == casts_in_order("cpu") == ["x", "weight", "bias"]


def test_float16_softmax_reads_its_input_without_a_copy():
    x = tensor(8, 8, dtype=torch.float16).requires_grad_()
    with Autocast(torch.float16):
        result = functional.softmax(x, dim=-1)
    assert result.dtype == torch.float32
    assert result.grad_fn.next_functions[0][0].name() == "torch::autograd::AccumulateGrad"


def test_a_view_of_a_trainable_weight_is_cast_at_every_use():
    weight = nn.Parameter(tensor(8, 8))
    with Autocast(torch.bfloat16) as mode:
        assert mode.lowered(weight.T) is not mode.lowered(weight.T)


class Casts(TorchDispatchMode):
    """Records the number of rows of each tensor that is cast; the tensors below all differ in it."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default:
            self.rows.append(args[0].shape[0])
        return func(*args, **(kwargs or {}))


WEIGHT, FROZEN, LEAF, HALF, X = 8, 9, 10, 11, 12


def operands():
    trained = {rows: torch.ones(rows, 8, requires_grad=True) for rows in (WEIGHT, LEAF)}
    half = torch.ones(HALF, 8, dtype=torch.float16, requires_grad=True)
    return {**trained, HALF: half, FROZEN: torch.ones(FROZEN, 8), X: torch.ones(X, 8)}


def twice(*rows):
    def run(tensors):
        for _ in range(2):
            for name in rows:
                functional.linear(tensors[X], tensors[name])

    return run


def a_view(tensors):
    for _ in range(2):
        functional.linear(tensors[X], tensors[WEIGHT].T)


def after_a_product_without_gradients(tensors):
    with torch.no_grad():
        functional.linear(tensors[LEAF], tensors[FROZEN])
    assert functional.linear(tensors[LEAF], tensors[FROZEN]).requires_grad


def an_input(tensors):
    for name in (FROZEN, WEIGHT, FROZEN):
        functional.linear(tensors[LEAF], tensors[name])


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (twice(WEIGHT), [WEIGHT, X, X]),
        (twice(FROZEN), [FROZEN, X, FROZEN, X]),
        (twice(HALF), [HALF, X, HALF, X]),
        (twice(WEIGHT, FROZEN), [WEIGHT, X, FROZEN, X, X, FROZEN, X]),
        (a_view, [8, X, 8, X]),
        (an_input, [FROZEN, LEAF, WEIGHT, FROZEN]),
        (after_a_product_without_gradients, [FROZEN, LEAF, FROZEN]),
    ],
)
@pytest.mark.parametrize("region", [Autocast, lambda dtype: torch.autocast("cpu", dtype)], ids=["emulated", "torch"])
def test_casts_are_repeated_or_cached_as_in_torchs_autocast(region, run, expected):
    with Casts() as casts:
        for _ in range(2):
            with region(torch.bfloat16):
                run(operands())
    assert casts.rows == expected * 2


@pytest.mark.parametrize("region", [Autocast, lambda dtype: torch.autocast("cpu", dtype)], ids=["emulated", "torch"])
def test_cached_copies_outlive_an_inner_region_and_end_with_the_outermost(region):
    tensors = operands()
    with Casts() as casts:
        for _ in range(2):
            with region(torch.bfloat16):
                functional.linear(tensors[X], tensors[WEIGHT])
                with region(torch.bfloat16):
                    functional.linear(tensors[X], tensors[WEIGHT])
                functional.linear(tensors[X], tensors[WEIGHT])
    assert casts.rows == [WEIGHT, X, X, X] * 2


def test_a_copy_created_below_autograd_still_records_gradients():
    leaf = tensor(4, 8).requires_grad_()
    with Autocast(torch.bfloat16) as mode:

        class First(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                mode.lowered(leaf)
                return func(*args, **(kwargs or {}))

        with First():
            tensor(8).neg()
        assert mode.lowered(leaf).requires_grad
