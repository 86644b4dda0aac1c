import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from validation.tracing.accumulation import in_place, uses_when_only

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]


class Asked(TorchDispatchMode):
    """Asks of every addition of a backward pass whether CUDA would do it in place."""

    def __init__(self):
        super().__init__()
        uses_when_only()
        self.answers = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.add.Tensor and not torch.is_grad_enabled():
            self.answers.append(in_place(*args))
        return func(*args, **(kwargs or {}))


def answers(loss):
    """What is answered in the backward pass of a loss of one (4, 8) leaf."""
    x = torch.ones(4, 8, device="meta", requires_grad=True)
    with Asked() as asked:
        loss(x * 2).backward()
    return asked.answers


def test_two_gradients_that_only_their_buffer_holds_are_added_in_place():
    assert answers(lambda y: (y * y).sum()) == [True]


def test_a_gradient_that_is_expanded_is_not_added_to_in_place():
    assert answers(lambda y: (y * 3).sum() + y.sum()) == [False]


def test_a_gradient_whose_storage_somebody_else_holds_is_not_added_to_in_place():
    assert answers(lambda y: ((y + y.view(8, 4).view(4, 8)) * 3).sum()) == [False]


def test_an_addition_that_a_function_of_ones_own_makes_is_not_the_engines():
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(_ctx, x):
            return x * 2

        @staticmethod
        def backward(_ctx, grad):
            return grad * 1 + grad * 1

    assert answers(lambda y: (Twice.apply(y) * 3).sum()) == [False]
