import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from validation.tracing.accumulation import adds_in_place, unshared_reference_counts

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]


class RecordAdditions(TorchDispatchMode):
    """Records for every addition of a backward pass whether CUDA would add in place."""

    def __init__(self):
        super().__init__()
        unshared_reference_counts()
        self.in_place = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.add.Tensor and not torch.is_grad_enabled():
            self.in_place.append(adds_in_place(*args))
        return func(*args, **(kwargs or {}))


def additions(loss):
    """Whether each addition in the backward pass of a loss of one (4, 8) leaf is in place."""
    x = torch.ones(4, 8, device="meta", requires_grad=True)
    with RecordAdditions() as mode:
        loss(x * 2).backward()
    return mode.in_place


def test_an_unshared_gradient_is_added_to_in_place():
    assert additions(lambda y: (y * y).sum()) == [True]


def test_an_expanded_gradient_is_added_to_out_of_place():
    assert additions(lambda y: (y * 3).sum() + y.sum()) == [False]


def test_a_gradient_with_a_shared_storage_is_added_to_out_of_place():
    assert additions(lambda y: ((y + y.view(8, 4).view(4, 8)) * 3).sum()) == [False]


def test_an_addition_inside_a_custom_function_is_out_of_place():
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(_ctx, x):
            return x * 2

        @staticmethod
        def backward(_ctx, grad):
            return grad * 1 + grad * 1

    assert additions(lambda y: (Twice.apply(y) * 3).sum()) == [False]
