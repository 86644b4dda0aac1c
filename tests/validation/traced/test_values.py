"""Values in a traced step: known ones are computed, choices are spread, and guesses are named."""

import pytest
import torch

from validation.traced.values import READ, SPREAD, SpreadValues, evenly
from validation.tracing.memory_tracker import EmulatedKernels

pytestmark = pytest.mark.trace


def run(function):
    """The result of a function whose operations have values as in a trace, with the values."""
    values = SpreadValues()
    with EmulatedKernels(values):
        out = function()
    return out, values


def test_choices_alternate():
    assert evenly((3, 2), 4).tolist() == [[0, 1], [2, 3], [0, 1]]


def test_a_router_gives_every_expert_as_many_tokens():
    logits = torch.empty(8, 4, device="meta")
    counts, values = run(lambda: torch.bincount(logits.topk(2).indices.flatten(), minlength=4).tolist())
    assert (counts, values.guesses) == ([4, 4, 4, 4], (SPREAD,))


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_a_sort_is_a_permutation_along_its_dimension(dim):
    logits = torch.empty(3, 3, device="meta")
    indices, values = run(lambda: logits.sort(dim).indices)
    permutation = values.value(indices)
    assert permutation.sort(dim).values.equal(torch.arange(3).expand(3, 3).movedim(-1, dim))


def test_a_comparison_with_an_unknown_value_is_false_and_named():
    read, values = run(lambda: bool((torch.empty((), device="meta") > 0).item()))
    assert (read, values.guesses) == (False, (READ,))


def test_known_values_are_not_guessed():
    def largest():
        return (torch.arange(7, device="meta") * 2).max().item()

    read, values = run(largest)
    assert (read, values.guesses) == (12, ())
