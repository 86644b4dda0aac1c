import pytest
import torch

from validation.tracing.host_values import HostValues
from validation.tracing.memory_tracker import EmulatedKernels

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def labels():
    with EmulatedKernels(HostValues()):
        yield torch.tensor([[1, 2, -100], [3, -100, -100]]).to("meta")


def test_a_number_computed_from_a_batch_is_known(labels):
    assert (labels != -100).sum().item() == 3
    assert bool((labels[..., 1:] == -100).all()) is False


def test_a_mask_selects_as_many_rows_as_on_cuda(labels):
    hidden = torch.empty((2, 3, 8), device="meta")
    assert hidden[labels != -100].shape == (3, 8)


def test_a_view_shares_the_values_of_its_base(labels):
    labels[0].fill_(7)
    assert labels.sum().item() == 21 + 3 - 200


@pytest.mark.usefixtures("labels")
def test_a_value_written_from_an_unknown_one_is_forgotten():
    total = torch.zeros((), device="meta")
    assert total.item() == 0.0
    total += torch.empty((), device="meta")
    assert total.item() == 1


@pytest.mark.usefixtures("labels")
def test_a_loss_is_not_nan():
    assert not torch.isnan(torch.empty((), device="meta"))


@pytest.mark.usefixtures("labels")
def test_a_tensor_on_the_host_is_changed_once():
    counter = torch.zeros(3)
    counter.add_(1)
    assert counter.tolist() == [1, 1, 1]


def test_values_are_freed_with_their_tensor():
    values = HostValues()
    with EmulatedKernels(values):
        kept = torch.arange(4, device="meta")
        assert len(values._copies) == 1
        del kept
        assert not values._copies
