"""Functions of `torch.nn.functional` that are fused on CUDA and composite elsewhere."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # noqa: A002
    """Fused dropout with a boolean mask (ATen/native/Dropout.cpp, `is_fused_kernel_acceptable`)."""
    if not training or p == 0:
        return input
    return torch.native_dropout(input, p, train=True)[0]


def softmax(input: Tensor, dim: int, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:  # noqa: A002
    """Softmax that reads float16 and writes float32 without a copy (ATen/native/SoftMax.cpp, `half_to_float`)."""
    if input.dtype == torch.float16 and dtype == torch.float32:
        return torch._softmax(input, dim, half_to_float=True)
    return input.softmax(dim, dtype=dtype)


#: The function that `einsum` replaces.
_EINSUM = torch.einsum


def einsum(equation: str, *operands: Tensor) -> Tensor:
    """Return a product of complex operands whose last dimension is the batch of torch.bmm, which copies both on CUDA.

    Neither of the other strides is one (ATen/native/cuda/Blas.cpp, `prepare_batch_matrix_for_cublas`).
    """
    if not all(operand.is_complex() for operand in operands):
        return _EINSUM(equation, *operands)
    copies = [operand.clone() for operand in operands]
    out = _EINSUM(equation, *copies)
    del copies
    return out


class _Mish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:  # noqa: A002
        ctx.save_for_backward(input)
        return torch.ops.aten.mish(input)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ARG004  only its shape counts
        return torch.empty_like(grads[0])


def mish(input: Tensor, inplace: bool = False) -> Tensor:  # noqa: A002
    """Mish, whose gradient is one kernel too (ATen/native/cuda/ActivationMishKernel.cu)."""
    return _Mish.apply(input)


def log_sigmoid_forward(input: Tensor) -> tuple[Tensor, Tensor]:  # noqa: A002
    """Log-sigmoid, whose buffer is empty on CUDA (ATen/native/cuda/Activation.cpp, `log_sigmoid_forward_cuda`)."""
    return torch.empty_like(input), input.new_empty(0)


def log_sigmoid_backward(grad: Tensor, input: Tensor, buffer: Tensor) -> Tensor:  # noqa: A002
    """Return the gradient of log-sigmoid, without the buffer that only the CPU fills."""
    return torch.empty_like(grad.expand_as(input), memory_format=torch.contiguous_format)


def logsumexp(input: Tensor, dim: list[int], keepdim: bool = False) -> Tensor:  # noqa: A002
    """Return the logarithm of summed exponentials, a temporary (ATen/native/ReduceOps.cpp, `logsumexp_out_impl`)."""
    maxes = torch.amax(input, dim, keepdim=True)
    squeezed = maxes if keepdim else maxes.squeeze(dim)
    squeezed.masked_fill_(squeezed.abs() == math.inf, 0)
    return (input - maxes).exp_().sum(dim, keepdim=keepdim).log_().add_(squeezed)


def addmm_into(input: Tensor, left: Tensor, right: Tensor, out_dtype: torch.dtype, *, out: Tensor, **_: Any) -> Tensor:  # noqa: A002  only the output's shape counts
    """Return the output of a product of another dtype, which allocates nothing else (ATen/native/cuda/Blas.cpp)."""
    return out


def mse_loss(input: Tensor, target: Tensor, reduction: int = 1) -> Tensor:  # noqa: A002  losses are averaged
    """Return the mean of squared errors, which are a temporary (ATen/native/Loss.cpp, `mse_loss_out`)."""
    return (input - target).mean()


def binary_cross_entropy_with_logits(
    input: Tensor,  # noqa: A002
    target: Tensor,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    reduction: int = 1,
) -> Tensor:
    """Binary cross entropy with two temporaries (ATen/native/Loss.cpp, `binary_cross_entropy_with_logits`)."""
    log_sigmoid = torch.empty_like(input)
    return (1 - target).mul_(input).sub_(log_sigmoid).mean()


def multinomial(input: Tensor, num_samples: int, replacement: bool = False, *, generator: Any = None) -> Tensor:  # noqa: A002
    """Return one sample of each row: the largest of the probabilities over exponential numbers (Distributions.cpp)."""
    assert num_samples == 1
    return torch.empty_like(input).argmax(-1, keepdim=True)


_torch_tensor = torch.tensor


def tensor(data: Any, *, device: torch.device | str | None = None, **options: Any) -> Tensor:
    """`torch.tensor` of a number or a list, by operations that dispatch modes see on the meta device too."""
    if device is not None and torch.device(device).type == "meta":
        if isinstance(data, int | float):
            return torch.full((), data, device=device, **options)
        if isinstance(data, list):
            # torch.tensor reads the values of tensors where no dispatch mode sees it
            numbers = [item.item() if isinstance(item, Tensor) else item for item in data]
            return _torch_tensor(numbers, device="cpu", **options).to(device)
    return _torch_tensor(data, device=device, **options)


def safe_softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:  # noqa: A002
    """Return the math kernel's softmax, 0 in rows that are masked entirely (ATen/native/transformers/attention.cpp)."""
    out = torch.softmax(input, dim, dtype=dtype)
    masked = input.eq(float("-inf"))
    rows = torch.all(masked, dim, keepdim=True)
    return torch.where(rows, torch.zeros((), dtype=out.dtype, device=out.device), out)


def layer_norm(input: Tensor, shape: list[int], *parameters: Any) -> tuple[Tensor, Tensor, Tensor]:  # noqa: A002
    """Layer norm of an input in another layout, which the kernel copies (layer_norm_kernel.cu)."""
    copied = input.contiguous()
    return torch.native_layer_norm(copied, shape, *parameters)


def layer_norm_backward(
    grad: Tensor,
    input: Tensor,  # noqa: A002
    shape: list[int],
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: list[bool],
) -> tuple[Tensor | None, ...]:
    """Return the gradients of layer norm, whose kernel copies an input and a gradient in another layout."""
    copied = input.contiguous()
    sources = zip((copied, weight, bias), mask, strict=True)
    outputs = tuple(torch.empty_like(source) if wanted and source is not None else None for source, wanted in sources)
    _grad = grad.contiguous()
    return outputs


def needs_copies(func: Any, args: Any) -> bool:
    """Return whether the kernel of a layer norm copies what it is given."""
    given = args[:2] if func is torch.ops.aten.native_layer_norm_backward.default else args[:1]
    return not all(value.is_contiguous() for value in given)


def has_mask(indices: list[Tensor | None]) -> bool:
    """Return whether an index is boolean."""
    return any(index is not None and index.dtype == torch.bool for index in indices)


def masked_index(input: Tensor, indices: list[Tensor | None]) -> Tensor:  # noqa: A002
    """Return rows where boolean indices are true, by their numbers (ATen/native/IndexingUtils.h, `expandTensors`)."""
    numbers: list[Tensor | None] = []
    for index in indices:
        mask = index is not None and index.dtype == torch.bool
        numbers += torch.nonzero(index).unbind(-1) if mask else [index]
    return torch.ops.aten.index.Tensor(input, numbers)


def is_in_backward() -> bool:
    """Return whether a formula of the backward pass runs, and not a recomputation in it."""
    return torch._C._current_graph_task_id() != -1 and not torch.is_grad_enabled()


def scatter_add(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:  # noqa: A002  the shapes match
    """Zeros with added elements, in place (ATen/native/TensorAdvancedIndexing.cpp, `gather_backward`)."""
    return input


def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:  # noqa: A002  only its shape counts
    """Return a copy of the input, with the sums of the mask before each element and a contiguous mask as temporaries.

    References: ATen/native/cuda/IndexKernel.cpp, `masked_scatter__cuda`; cuda/IndexKernel.cu,
    `launch_masked_scatter_kernel`.
    """
    out = torch.empty_like(input, memory_format=torch.contiguous_format)
    sums = torch.empty(out.shape, dtype=torch.long, device=out.device)
    contiguous = mask.expand(out.shape).contiguous()
    del sums, contiguous
    return out


def masked_scatter_backward(grad: Tensor, mask: Tensor, sizes: list[int]) -> Tensor:
    """Return the selected elements of the gradient, by the indices of the mask's true elements in each dimension.

    References: torch/csrc/autograd/FunctionsManual.cpp, `masked_scatter_backward`; ATen/native/cuda/IndexKernel.cpp,
    `masked_select_out_cuda_impl`; ATen/native/IndexingUtils.h, `expandTensors`; cuda/Nonzero.cu.
    """
    contiguous = mask.expand(grad.shape).contiguous()
    numbers = torch.empty((grad.dim(), math.prod(sizes)), dtype=torch.long, device=grad.device)
    del contiguous
    out = grad.new_empty(sizes)
    del numbers
    return out


def linalg_svd(
    matrix: torch.Tensor, full_matrices: bool = False, compute_uv: bool = True, *, driver: str | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Singular vectors by cuSOLVER's gesvdj, which overwrites a copy. Its workspace is left out.

    Source: aten/src/ATen/native/cuda/linalg/BatchLinearAlgebraLib.cpp, svd_cusolver.
    """
    (rows, columns), smaller = matrix.shape, min(matrix.shape)
    left = matrix.new_empty((rows, smaller))
    values = matrix.new_empty((smaller,))
    right = matrix.new_empty((smaller, columns))
    info = matrix.new_empty((), dtype=torch.int32)
    copied = torch.empty_like(matrix)
    del copied, info
    return left, values, right


def linalg_inv_ex(matrix: torch.Tensor, *, check_errors: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the inverse, by solving with factors in a copy. cuSOLVER's workspace is left out.

    Source: aten/src/ATen/native/BatchLinearAlgebra.cpp, linalg_inv_ex_out and _linalg_solve_ex_out.
    """
    inverse = torch.empty_like(matrix)
    info = matrix.new_empty((), dtype=torch.int32)
    factors = torch.empty_like(matrix)
    pivots = matrix.new_empty(matrix.shape[:-1], dtype=torch.int32)
    del factors, pivots
    return inverse, info


def dist(input: torch.Tensor, other: torch.Tensor, p: float = 2) -> torch.Tensor:  # noqa: A002
    """Return the norm of a difference (ATen/native/Distance.cpp); that of a matrix and the same matrix is 0."""
    out = torch.linalg.vector_norm(input - other, p)
    out.known_value = 0.0
    return out


def linalg_pinv(matrix: torch.Tensor) -> torch.Tensor:
    """Return the pseudoinverse from singular vectors, with the default tolerances; a trace does not see its operations.

    Source: aten/src/ATen/native/LinearAlgebra.cpp, linalg_pinv and get_atol_rtol.
    """
    absolute = matrix.new_zeros((), dtype=torch.float64)
    relative = matrix.new_full((), 1.0, dtype=torch.float64)
    left, values, right = linalg_svd(matrix)
    tolerance = torch.max(absolute.unsqueeze(-1), relative.unsqueeze(-1) * values.narrow(-1, 0, 1))
    inverted = torch.where(values > tolerance, values.reciprocal(), values.new_zeros(()))
    return torch.matmul(right.mH * inverted.unsqueeze(-2), left.mH)
