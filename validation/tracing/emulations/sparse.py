"""Sums and masks of sparse COO tensors, which have no meta kernels, as their CUDA sources allocate them."""

from __future__ import annotations

import torch


def add_(dense: torch.Tensor, sparse: torch.Tensor, *, alpha: float = 1) -> torch.Tensor:
    """`dense += sparse`, where the indices of `sparse` may repeat.

    Source: aten/src/ATen/native/sparse/cuda/SparseCUDATensorMath.cu, add_out_dense_sparse_cuda; FlattenIndicesCommon.h.
    """
    dtype = torch.result_type(dense, sparse)
    out = dense if dense.dtype == dtype else torch.empty_like(dense, dtype=dtype)
    buffer = dense.to(dtype)
    values = sparse._values().to(dtype)
    flat = torch.empty(sparse._nnz(), dtype=torch.long, device=dense.device)
    del out, buffer, values, flat
    return dense


def sparse_mask(dense: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the elements of a dense tensor at the indices of a sparse one, times ones.

    Source: aten/src/ATen/native/sparse/SparseTensor.cpp, sparse_mask; SparseTensorMath.cpp, _mul_dense_sparse_out.
    """
    one = mask._values().new_empty(1)
    gathered = dense.new_empty(mask._nnz())
    indices = mask._indices().clone()
    values = torch.empty_like(gathered)
    del one, gathered
    return torch.ops.aten._sparse_coo_tensor_with_dims_and_tensors(
        2, 0, mask.shape, indices, values, dtype=dense.dtype, layout=torch.sparse_coo, device=dense.device
    )
