"""The emulated kernels of sparse tensors return what PyTorch's return."""

import pytest
import torch

from validation.tracing.emulations import sparse


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_a_mask_on_the_meta_device_has_the_parts_of_one_on_the_host():
    dense, indices, values = torch.ones(4, 3), torch.tensor([[0, 2, 3], [1, 0, 2]]), torch.ones(3)
    expected = dense.sparse_mask(torch.sparse_coo_tensor(indices, values, (4, 3)))
    mask = torch.sparse_coo_tensor(indices.to("meta"), values.to("meta"), (4, 3))
    found = sparse.sparse_mask(dense.to("meta"), mask)
    for ours, theirs in ((found._indices(), expected._indices()), (found._values(), expected._values())):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
