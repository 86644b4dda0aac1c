"""Parameters under FSDP2: which are sharded, and in which dtype they are stored, gathered and reduced.

Source: accelerate/utils/fsdp_utils.py, fsdp2_prepare_model; torch/distributed/fsdp/_fully_shard/_fsdp_param.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import Dim, elements, named
from calculator.common.dtype import ITEMSIZE, allocated

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.inputs.training import Training
    from calculator.methods.base import Method
    from calculator.resident.tensor import ResidentTensor

#: The name of the number of ranks in formulas.
RANKS = "N"


def stored(tensors: Iterable[ResidentTensor], method: Method, training: Training) -> list[ResidentTensor]:
    """Return the whole tensors as accelerate stores them: trained parameters are float32 with mixed precision.

    accelerate does not change a model with 4-bit weights. The first run of a 4-bit layer casts its gathered bias, not
    its shard.
    """
    if method.facts.quantizes_base:
        return [recast(tensor, tensor.dtype_at_optimizer_init or tensor.dtype) for tensor in tensors]
    if training.autocast is None:
        return [*tensors]
    return [recast(tensor, "float32") if tensor.trained else tensor for tensor in tensors]


def cast_biases(whole: Iterable[ResidentTensor], training: Training) -> Iterator[ResidentTensor]:
    """Yield the biases that their 4-bit layers cast when they first run, from the dtype in which FSDP gathers them.

    The cast tensor replaces the gathered one permanently.

    Source: bitsandbytes/nn/modules.py, Linear4bit.forward (bias.data).
    """
    if training.autocast == training.dtype:
        return
    tensors = tuple(whole)
    layers = {tensor.name.rpartition(".")[0] for tensor in tensors if tensor.packed and tensor.in_graph}
    for tensor in tensors:
        owner, _, name = tensor.name.rpartition(".")
        if name == "bias" and owner in layers and (training.autocast or tensor.dtype) != training.dtype:
            yield tensor


def recast(tensor: ResidentTensor, dtype: DType) -> ResidentTensor:
    """Return a tensor in another dtype."""
    if tensor.dtype == dtype:
        return tensor
    size = allocated(elements(tensor.shape), ITEMSIZE[dtype]) * tensor.count
    return tensor.stored_as(tensor.shape, dtype, size)


def is_sharded(tensor: ResidentTensor) -> bool:
    """Return whether a tensor is sharded.

    Parameters are, except 4-bit weights that are stored as uint8.
    """
    return tensor.parameters > 0 and not (tensor.packed and tensor.dtype == "uint8")


def shard_shape(shape: Shape, count: int) -> Shape:
    """Return the shape of the first rank's shard.

    The first dimension is split. The last ranks' parts are padded.
    """
    first = shape[0] if isinstance(shape[0], Dim) else named(shape[0], f"{shape[0]:,}")
    return (first.divided(named(count, RANKS)), *shape[1:])


def shard(tensor: ResidentTensor, count: int) -> ResidentTensor:
    """Return the first rank's shard of a tensor."""
    if not is_sharded(tensor):
        return tensor
    shape = shard_shape(tensor.shape, count)
    size = allocated(elements(shape), ITEMSIZE[tensor.dtype]) * tensor.count
    return tensor.stored_as(shape, tensor.dtype, size)
