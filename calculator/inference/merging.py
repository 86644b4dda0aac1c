"""Merging low-rank updates into the weights, module by module (peft's merge_and_unload).

A dense weight takes its update in place. A 4-bit one is dequantised, added to, sent to the CPU and back, and quantised
again, while everything that this took is still there.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.architecture.model import Stack
from calculator.common.dtype import ITEMSIZE, allocated
from calculator.engine.operations import result_type
from calculator.estimate.answer import Row
from calculator.inference.answer import Merge
from calculator.methods.settings import LowRank
from calculator.resident import nf4

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.dimension import Shape
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.inference.served_method import Served
    from calculator.methods.prepared_model import PreparedModel
    from calculator.resident.module_spec import ModuleSpec
    from calculator.resident.quantization import Quantization
    from calculator.training_step.resident_state import ResidentState

DENSE = "peft, tuners/lora/layer.py, Linear.merge and get_delta_weight"
FOUR_BIT = "peft, tuners/lora/bnb.py, Linear4bit.merge; bitsandbytes.functional.quantize_4bit"

_KEPT = "A dense weight keeps the sum in its own data type."
_ROUNDED = "PEFT warns: “Merge lora module to 4-bit linear may get different generations due to rounding errors.”"


#: A tensor that merging makes: its name, shape and dtype.
Made = tuple[str, "Shape", "DType"]


def merging(unmerged: ResidentState, served: Served) -> Merge | None:
    """What merging one task takes at its worst moment; None where the update is not a plain product of two matrices."""
    if not isinstance(served.method, LowRank) or served.method.use_dora:
        return None
    alive = sum(tensor.bytes for tensor in unmerged.tensors)
    worst: tuple[int, str, tuple[Made, ...], Quantization | None] | None = None
    for path, module, module_spec in _targets(unmerged.prepared):
        made = tuple(_made(module, module_spec))
        peak = alive + sum(map(_bytes, made))
        if worst is None or peak > worst[0]:
            worst = (peak, path, made, module_spec.quantization)
        alive -= sum(_bytes((each.name, each.shape, each.dtype)) for each in module_spec.added)
    assert worst is not None
    peak, path, made, quantization = worst
    source = FOUR_BIT if quantization else DENSE
    return Merge(
        peak_bytes=peak,
        module=path,
        rows=tuple(_row(each, source) for each in made),
        loss=_loss(quantization),
        source=source,
    )


def _targets(prepared: PreparedModel) -> Iterator[tuple[str, Module, ModuleSpec]]:
    """Every module with an update, in the model's order."""
    for part in prepared.model.parts:
        if not isinstance(part, Stack):
            module_spec = prepared.module_spec(part.name, part)
            if module_spec.added:
                yield part.name, part, module_spec
            continue
        for layer in part.layers:
            for module in layer.modules:
                path = f"{part.name}.*.{module.name}"
                module_spec = prepared.module_spec(path, module)
                if module_spec.added:
                    yield path, module, module_spec


def _made(module: Module, module_spec: ModuleSpec) -> Iterator[Made]:
    """What is alive beside the model at a module's worst moment."""
    shape, own = module.weight.shape, module_spec.added[0].dtype
    if module_spec.quantization is None:
        yield "B·A", shape, own
        yield "update", shape, own
        return
    quantization = module_spec.quantization
    merged = result_type(quantization.compute_dtype, own)
    yield "weight, dequantised", shape, quantization.compute_dtype
    yield "update", shape, own
    yield "weight + update", shape, merged
    yield "the same, back from the CPU", shape, merged
    packed, dtype = quantization.packed(shape)
    yield "weight, quantised again", packed, dtype
    constants = quantization.constants(shape)
    yield from constants
    if quantization.double_quant:
        blocks = constants[0][1]
        yield "absmax in float32", blocks, "float32"
        yield "absmax less its mean", blocks, "float32"


def _bytes(made: Made) -> int:
    _, shape, dtype = made
    return allocated(elements(shape), ITEMSIZE[dtype])


def _row(made: Made, source: str) -> Row:
    name, shape, dtype = made
    return Row(name=name, count=1, bytes=_bytes(made), shape=shape, dtype=dtype, source=source)


def _loss(quantization: Quantization | None) -> str:
    if quantization is None:
        return _KEPT
    if quantization.quant_type != "nf4":
        return f"{_ROUNDED} The merged weights are rounded to 4 bits once more."
    gaps = [above - below for below, above in pairwise(nf4.levels())]
    return (
        f"{_ROUNDED} A weight that the update moves by less than {min(gaps) / 2:.1%} of its block's largest (between"
        f" the outermost levels, {max(gaps) / 2:.1%}) is rounded back to the level that it was on."
    )
