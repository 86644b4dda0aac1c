"""Merging a low-rank update into one module's weight (peft's merge_and_unload).

A dense weight is updated in place. A 4-bit weight is dequantized, added to, moved to the CPU and back, and quantized
again. Every intermediate tensor is still alive then.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

from calculator.engine.result_types import result_type
from calculator.methods.costs import MergeStep
from calculator.resident import nf4
from calculator.resident.quantization import Quantization

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.dimension import Shape
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.methods.costs import Allocated
    from calculator.resident.module_spec import ModuleSpec

DENSE = "peft, tuners/lora/layer.py, Linear.merge and get_delta_weight"
FOUR_BIT = "peft, tuners/lora/bnb.py, Linear4bit.merge; bitsandbytes.functional.quantize_4bit"

_KEPT = "A dense weight keeps the sum in its own data type."
_ROUNDED = "PEFT warns: “Merge lora module to 4-bit linear may get different generations due to rounding errors.”"


def merge_step(module: Module, module_spec: ModuleSpec) -> MergeStep:
    """Return the tensors that are alive in addition to the model while a module is merged."""
    shape, dtype = module.weight.shape, module_spec.added[0].dtype
    if not isinstance(module_spec.quantization, Quantization):
        return MergeStep(allocated=(("B·A", shape, dtype), ("update", shape, dtype)), loss=_KEPT, source=DENSE)
    quantization = module_spec.quantization
    return MergeStep(allocated=tuple(_four_bit(shape, dtype, quantization)), loss=_loss(quantization), source=FOUR_BIT)


def _four_bit(shape: Shape, dtype: DType, quantization: Quantization) -> Iterator[Allocated]:
    merged = result_type(quantization.compute_dtype, dtype)
    yield "weight, dequantized", shape, quantization.compute_dtype
    yield "update", shape, dtype
    yield "weight + update", shape, merged
    yield "the same, back from the CPU", shape, merged
    packed, packed_dtype = quantization.packed(shape)
    yield "weight, quantized again", packed, packed_dtype
    constants = quantization.constants(shape)
    yield from constants
    if quantization.double_quant:
        blocks = constants[0][1]
        yield "absmax in float32", blocks, "float32"
        yield "absmax less its mean", blocks, "float32"


@cache
def _loss(quantization: Quantization) -> str:
    if quantization.quant_type != "nf4":
        return f"{_ROUNDED} The merged weights are rounded to 4 bits again."
    gaps = [above - below for below, above in pairwise(nf4.levels())]
    return (
        f"{_ROUNDED} A weight that the update moves by less than {min(gaps) / 2:.1%} of its block's largest (between"
        f" the outermost levels, {max(gaps) / 2:.1%}) is rounded back to the level that it was on."
    )
