"""4-bit formats as tables of levels, and blockwise quantization with absmax constants."""

from __future__ import annotations

import bitsandbytes as bnb
import torch
from torch import Tensor

from calculator.resident import nf4
from calculator.resident.quantization import NESTED_BLOCKSIZE

BLOCKSIZE = 64

NF4, FP4 = "NF4", "FP4"

#: Each format's levels, from -1 to 1. INT4 scales the absmax to 7; the other uniform format uses all sixteen codes.
LEVELS: dict[str, tuple[float, ...]] = {
    NF4: nf4.levels(),
    FP4: tuple(sorted(bnb.functional.get_4bit_type("fp4", device="cpu").tolist())),
    "INT4, −7 to 7": tuple(level / 7 for level in range(-7, 8)),
    "16 even levels": tuple(2 * level / 15 - 1 for level in range(16)),
}


def codes(weights: Tensor, levels: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Return the nearest level of each weight, (blocks, BLOCKSIZE), and each block's constant, (blocks, 1)."""
    blocks = weights.reshape(-1, BLOCKSIZE)
    constants = blocks.abs().amax(1, keepdim=True)
    book = torch.tensor(levels, device=weights.device)
    scaled = torch.where(constants > 0, blocks / constants, 0.0)
    return torch.bucketize(scaled, (book[1:] + book[:-1]) / 2), constants


def round_trip(weights: Tensor, levels: tuple[float, ...], *, double_quant: bool) -> Tensor:
    """Quantize and dequantize weights; `double_quant` does so with the constants too, in bitsandbytes' 8 bits."""
    nearest, constants = codes(weights, levels)
    if double_quant:
        constants = _nested(constants)
    book = torch.tensor(levels, device=weights.device)
    return (book[nearest] * constants).reshape(weights.shape)


def round_by_bitsandbytes(weights: Tensor, quant_type: str, *, double_quant: bool) -> Tensor:
    """Quantize and dequantize weights with bitsandbytes' kernels."""
    packed, state = bnb.functional.quantize_4bit(
        weights, blocksize=BLOCKSIZE, quant_type=quant_type, compress_statistics=double_quant
    )
    back: Tensor = bnb.functional.dequantize_4bit(packed, state)
    return back.reshape(weights.shape)


def relative_error(weights: Tensor, back: Tensor) -> float:
    """Return the root mean square error over the weights' root mean square."""
    return float((back - weights).norm() / weights.norm())


def _nested(constants: Tensor) -> Tensor:
    mean = constants.mean()
    packed, state = bnb.functional.quantize_blockwise((constants - mean).flatten(), blocksize=NESTED_BLOCKSIZE)
    back: Tensor = bnb.functional.dequantize_blockwise(packed, state)
    return (back + mean).reshape(constants.shape)
