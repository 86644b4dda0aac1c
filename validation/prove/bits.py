"""The number of bits per weight in NF4, with every constant counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import bitsandbytes as bnb
import torch

from calculator.architecture.dimension import Dim, elements
from calculator.common.dtype import ITEMSIZE
from calculator.resident.quantization import Quantization
from validation.prove.claim import Check, Claim, Figure
from validation.prove.code_books import BLOCKSIZE
from validation.prove.drawing import Axis, Table
from validation.reference import methods
from validation.tracing.initial_tensors import quantization_constants

if TYPE_CHECKING:
    from validation.prove.experiment import Setting

#: The lesson's half byte, in bits.
STATED = 4

COLUMNS = {
    "constants": Axis(label="constants"),
    "packed": Axis(label="codes", unit="bytes"),
    "beside": Axis(label="their constants", unit="bytes"),
    "bits": Axis(label="per weight", unit="bits"),
    "calculated": Axis(label="by the calculator", unit="bytes"),
}


def bits(setting: Setting) -> tuple[Claim, Table]:
    """Return a square matrix in NF4 by bitsandbytes, with its constants in float32 and quantized."""
    side = 512 if setting.quick else 4096
    counted = {}
    for double_quant in (False, True):
        counted[double_quant] = _stored(side, setting.device, double_quant=double_quant)
        setting.step()
    figures = {double: _figure(double, sum(stored) * 8 / side**2) for double, stored in counted.items()}
    calculated = {double: _calculated(side, double_quant=double) for double in counted}
    beyond = sum(abs(sum(stored) - calculated[double]) for double, stored in counted.items())
    differing = Figure(key="beyond", name="bytes in which the calculator differs", value=beyond, unit="bytes")
    claim = Claim(
        id="nf4-bits",
        lesson="A weight in NF4 needs half a byte: 70B need 35 GB.",
        done=f"A {side:,} × {side:,} matrix in bitsandbytes' Linear4bit: codes, constants and tables.",
        figures=(*figures.values(), differing),
        checks=(
            *(Check(figure=figure, relation="equal to", bounds=(STATED,)) for figure in figures.values()),
            Check(figure=differing, relation="equal to", bounds=(0,)),
        ),
        remark="The constants, which the calculator counts, add"
        f" {' or, if quantized themselves, '.join(f'{figure.value / STATED - 1:.1%}' for figure in figures.values())}.",
    )
    rows = tuple(
        (_constants(double), *stored, figures[double].value, calculated[double]) for double, stored in counted.items()
    )
    return claim, Table(id="nf4-bits", title=f"A {side:,} × {side:,} matrix in NF4", columns=COLUMNS, rows=rows)


def _constants(double_quant: bool) -> str:
    return "quantized" if double_quant else "in float32"


def _figure(double_quant: bool, value: float) -> Figure:
    key = "double" if double_quant else "single"
    return Figure(key=key, name=f"bits per weight, constants {_constants(double_quant)}", value=value, unit="bits")


def _stored(side: int, device: torch.device, *, double_quant: bool) -> tuple[int, int]:
    """Return the bytes of the codes, and of the constants and tables."""
    layer = bnb.nn.Linear4bit(side, side, bias=False, compress_statistics=double_quant, quant_type="nf4", device="meta")
    methods.quantize_layer(layer, BLOCKSIZE, torch.bfloat16, device)
    constants = [tensor for name, tensor in quantization_constants(layer.weight.quant_state) if name != "name2qmap"]
    return layer.weight.nbytes, sum(tensor.nbytes for tensor in constants)


def _calculated(side: int, *, double_quant: bool) -> int:
    shape = (Dim(side, "d"), Dim(side, "k"))
    stored = Quantization(quant_type="nf4", blocksize=BLOCKSIZE, double_quant=double_quant, compute_dtype="bfloat16")
    parts = (stored.packed(shape), *(constant[1:] for constant in stored.constants(shape)))
    return sum(elements(part) * ITEMSIZE[dtype] for part, dtype in parts)
