"""The temporaries of the gradients of a layer norm's weight and bias on CUDA.

Source: aten/src/ATen/native/cuda/layer_norm_kernel.cu, LaunchGammaBetaBackwardCUDAKernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import ceil_div, elements
from calculator.engine.cuda_reductions import sum_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.engine.tape import Tensor

#: With more rows than this, and few columns, blocks of rows are summed before their sums are.
_MANY_ROWS = 64 * 1024
#: The rows and columns of a block, and the number of blocks at most.
_ROWS, _COLUMNS, _BLOCKS = 32, 32, 32 * 1024


def sum_gradients(x: Tensor, grads: Sequence[Tensor | None]) -> None:
    """Sum the gradients of the weight and of the bias, which exist. Their sums of blocks take their places."""
    tape, width = x.tape, x.shape[-1]
    rows = elements(x.shape[:-1])
    if rows <= _MANY_ROWS or width // _COLUMNS >= tape.multiprocessors.count // 2:
        return
    most, count = _BLOCKS // ceil_div(width, _COLUMNS), ceil_div(rows, _ROWS)
    blocks = min(count, most)
    named = [(grad, name) for grad, name in zip(grads, ("weight", "bias"), strict=True) if grad is not None]
    _block_grads = [tape.scratch((blocks, width), grad.dtype, f"{name}: gradients of blocks") for grad, name in named]
    for grad, name in named:
        _sum = tape.scratch(grad.shape, grad.dtype, f"{name}: gradient, summed")
        sum_rows(tape, blocks, width, grad.dtype)
        del _sum
