"""Experts whose grouped matrix product fails on CUDA, because the rows of a factor are not multiples of 16 bytes.

Source: aten/src/ATen/native/GroupedMMUtils.h, check_valid_strides_and_return_transposed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.dtype import ITEMSIZE
from calculator.common.errors import Problem
from calculator.devices.kernels import kernels_of
from calculator.methods import QLoRA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.common.dtype import DType
    from calculator.estimation.request import Request

#: The bytes of which a row must be a multiple.
_ALIGNED = 16

#: The families whose experts are a batched product of their own.
_BATCHED = ("llama4", "llama4_text")


def problems(request: Request, model: Model) -> Iterator[Problem]:
    """Yield that the step fails on CUDA, if device.type is cuda."""
    if request.device.type == "cuda":
        yield from (
            Problem(loc="model.config", msg=message, input=width) for message, width in _failures(request, model)
        )


def remarks(request: Request, model: Model) -> Iterator[str]:
    """Yield that the step would fail on CUDA, if device.type is meta."""
    if request.device.type == "meta":
        yield from (f"On CUDA, {message}." for message, _ in _failures(request, model))


def _failures(request: Request, model: Model) -> Iterator[tuple[str, int]]:
    """Yield why the grouped product of experts fails, with the number of values in a row."""
    if "experts" not in model.kinds or model.model_type in _BATCHED:
        return
    if not kernels_of(request.device, request.stack, request.training.kernels).grouped_mm:
        return
    dtype = _dtype(request)
    values = _ALIGNED // ITEMSIZE[dtype]
    for width in sorted({width for width in _widths(model) if width % values}):
        message = (
            f"the grouped matrix product of experts fails in PyTorch (strides should be multiple of 16 bytes): a row of"
            f" {width:,} values in {dtype} is none; give the model sizes that are multiples of {values}"
        )
        yield message, width


def _widths(model: Model) -> Iterator[int]:
    """Yield the numbers of values in the rows of inputs and weights: the two sides of the second weight."""
    for module in model.modules:
        if module.kind == "experts":
            yield from (int(side) for p in module.parameters if p.name == "down_proj" for side in p.shape[1:])


def _dtype(request: Request) -> DType:
    """Return the dtype of the experts' weights, which PEFT's preparation for k-bit training casts to float32."""
    method = request.method
    if isinstance(method, QLoRA) and method.prepare_model_for_kbit_training:
        return "float32"
    return request.training.dtype
