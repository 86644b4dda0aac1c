"""Values that follow from a batch, where the device's kernels do nothing: the meta device stands for the stub."""

import torch
from torch.fx.experimental import _config

from validation.stub_gpu.host_values import BatchValues

ROWS = torch.tensor([[3, 4, -100], [5, -100, -100]])


def test_values_that_follow_from_a_batch_are_read():
    with BatchValues("meta"):
        labels = ROWS.to("meta")
        labeled = labels != -100
        assert labels.device.type == "meta"
        assert not labeled.all()
        assert labeled.sum().item() == 3
        assert labeled.sum(1).tolist() == [2, 1]
        assert labels[:, 0].tolist() == [3, 5]
        assert torch.equal(labels.cpu(), ROWS)


def test_a_shape_that_follows_from_values_is_that_of_the_batch():
    with BatchValues("meta"), _config.patch(meta_nonzero_assume_all_nonzero=True):
        labels = ROWS.to("meta")
        selected = labels[labels != -100]
        assert selected.shape == (3,)
        assert selected.device.type == "meta"
        assert selected.tolist() == [3, 4, 5]


def test_changes_in_place_are_followed():
    with BatchValues("meta"):
        mask = torch.ones((2, 3), dtype=torch.long, device="meta")
        mask[0, -1] = 0
        assert mask.tolist() == [[1, 1, 0], [1, 1, 1]]
        mask.add_(torch.empty((2, 3), dtype=torch.long, device="meta"))
        assert (mask + 1).device.type == "meta"


def test_a_mask_selects_rows_of_a_tensor_without_values_and_keeps_the_mask_for_the_gradient():
    hidden = torch.empty((2, 3, 8), device="meta", requires_grad=True)
    with BatchValues("meta"):
        mask = ROWS.to("meta") != -100
        rows = hidden[mask]
    assert rows.shape == (3, 8)
    (saved,) = rows.grad_fn.saved_tensors
    assert saved is mask
    rows.sum().backward()
    assert hidden.grad.shape == hidden.shape
