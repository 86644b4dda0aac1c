"""A block of 4-bit weights computed by hand, and the memory of its constants."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import sqrt
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE
from calculator.common.errors import refusal
from calculator.inputs.settings import setting
from calculator.lesson.worked.line import Line, WorkedExample
from calculator.lesson.worked.matrices import matrix
from calculator.resident import nf4
from calculator.resident.quantization import NESTED_BLOCKSIZE, Quantization, blocksize_setting, check_blocksize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.lesson.worked.matrices import Matrix

#: FP4's magnitudes, in twelfths. Source: bitsandbytes.functional.get_4bit_type.
_FP4 = (0.0625, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)

LEVELS: dict[str, tuple[float, ...]] = {
    "nf4": nf4.levels(),
    "fp4": tuple(sorted({0.0, *(sign * level / 12 for level in _FP4 for sign in (-1, 1))})),
    "int4": tuple(level / 7 for level in range(-7, 8)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """A stored block: its constant, and the level of each weight."""

    absmax: float
    levels: tuple[float, ...]

    @property
    def weights(self) -> tuple[float, ...]:
        """The dequantized weights."""
        return tuple(self.absmax * level for level in self.levels)


def quantized(weights: Sequence[float], levels: Sequence[float]) -> Quantized:
    """Round a block to the nearest levels. The largest magnitude is level 1."""
    absmax = max(abs(weight) for weight in weights)
    scaled = [weight / absmax if absmax else 0.0 for weight in weights]
    return Quantized(absmax=absmax, levels=tuple(min(levels, key=lambda level: abs(level - s)) for s in scaled))


def nf4_block(values: Matrix) -> Matrix:
    """Round a matrix of at most 64 numbers to NF4, as one block."""
    rounded = iter(quantized([float(value) for row in values for value in row], LEVELS["nf4"]).weights)
    return tuple(tuple(Fraction(next(rounded)) for _ in row) for row in values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Weights that share a constant, and the 4-bit type."""

    weights: str = setting(
        "0.8, -0.31, 0.05, 0.12, -0.02, 0.4, -0.66, 0.21", label="Weights", help="Numbers of one block, at most 64."
    )
    quant_type: Literal["nf4", "fp4", "int4"] = setting(
        "nf4", label="4-bit type", help="NormalFloat, floating point, or 15 even steps."
    )


def stored_block(typed: Block) -> tuple[Line, ...]:
    """Return the constant, the levels and the errors of a block."""
    weights = [float(value) for row in _rows(typed.weights) for value in row]
    block = quantized(weights, LEVELS[typed.quant_type])
    errors = [rounded - weight for rounded, weight in zip(block.weights, weights, strict=True)]
    square = sqrt(sum(error * error for error in errors) / len(errors))
    scale = sqrt(sum(weight * weight for weight in weights) / len(weights))
    return (
        Line(name="absmax", formula="max |w|", substituted="the block's constant", value=block.absmax),
        Line(name="levels", formula="nearest level to w ÷ absmax", substituted="", value=(block.levels,)),
        Line(name="dequantized", formula="absmax × level", substituted="", value=(block.weights,), main=True),
        Line(name="errors", formula="dequantized − w", substituted="", value=(tuple(errors),)),
        Line(
            name="error",
            formula="RMS of the errors ÷ RMS of w",
            substituted=f"{square:.4g} ÷ {scale:.4g}",
            value=100 * square / scale if scale else 0.0,
            unit="%",
            main=True,
        ),
    )


def _rows(text: str) -> Matrix:
    words = text.replace(",", " ").replace(";", " ").split()
    if len(words) > 64:
        raise refusal("weights", f"has {len(words)} numbers; a block has at most 64", text)
    return tuple(matrix(word, "weights")[0] for word in words) or matrix(text, "weights")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bits:
    """A matrix in 4 bits, by its shape and the settings of its constants."""

    d: int = setting(4096, label="Rows", help="d, out_features.", minimum=1, maximum=10**6)
    k: int = setting(4096, label="Columns", help="k, in_features.", minimum=1, maximum=10**6)
    blocksize: int = blocksize_setting()
    double_quant: bool = setting(True, label="Double quantization", help="Quantize the constants too, to 8 bits.")


def stored_bits(typed: Bits) -> tuple[Line, ...]:
    """Return the bits per weight by the formula, and the bytes that bitsandbytes allocates for the matrix.

    Raises:
        PlanError: if bitsandbytes has no such block size.
    """
    check_blocksize("blocksize", typed.blocksize)
    b, count = typed.blocksize, typed.d * typed.k
    if typed.double_quant:
        formula, numbers = "4 + 8 ÷ b + 32 ÷ (256 × b)", f"4 + 8 ÷ {b} + 32 ÷ ({NESTED_BLOCKSIZE} × {b})"
        bits = 4 + 8 / b + 32 / (NESTED_BLOCKSIZE * b)
    else:
        formula, numbers, bits = "4 + 32 ÷ b", f"4 + 32 ÷ {b}", 4 + 32 / b
    packed, constants = _allocated(typed)
    return (
        Line(name="bits per weight", formula=formula, substituted=numbers, value=bits, unit="bits", main=True),
        Line(
            name="the matrix, packed",
            formula="⌈d × k ÷ 2⌉",
            substituted=f"⌈{typed.d:,} × {typed.k:,} ÷ 2⌉",
            value=packed,
            unit="bytes",
        ),
        Line(
            name="all its constants",
            formula="absmax, nested constants and lookup tables",
            substituted="as in bitsandbytes' QuantState",
            value=constants,
            unit="bytes",
        ),
        Line(
            name="bits per weight, constants included",
            formula="8 × bytes ÷ (d × k)",
            substituted=f"8 × {packed + constants:,} ÷ {count:,}",
            value=8 * (packed + constants) / count,
            unit="bits",
        ),
        Line(
            name="smaller than bfloat16",
            formula="2 × d × k ÷ bytes",
            substituted=f"2 × {count:,} ÷ {packed + constants:,}",
            value=2 * count / (packed + constants),
            unit="×",
        ),
    )


def _allocated(typed: Bits) -> tuple[int, int]:
    """Return the bytes of the packed weight and of its constants."""
    rule = Quantization(
        quant_type="nf4", blocksize=typed.blocksize, double_quant=typed.double_quant, compute_dtype="bfloat16"
    )
    (shape, dtype), constants = rule.packed((typed.d, typed.k)), rule.constants((typed.d, typed.k))
    return elements(shape) * ITEMSIZE[dtype], sum(elements(size) * ITEMSIZE[kind] for _, size, kind in constants)


BLOCK = WorkedExample(
    name="block",
    title="A block by hand",
    introduction="Each weight is rounded to the nearest level of its block. The largest weight is always exact.",
    settings=Block,
    lines=stored_block,
)
BITS = WorkedExample(
    name="bits",
    title="Bits per weight",
    introduction="The lesson counts 4; the constants come on top.",
    settings=Bits,
    lines=stored_bits,
)
