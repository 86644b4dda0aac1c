"""bitsandbytes' 4-bit storage: packed weights, block constants, and nested constants."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from calculator.architecture.dimension import Dim, Shape, elements, symbolic
from calculator.common.dtype import ITEMSIZE
from calculator.common.errors import refusal
from calculator.inputs.settings import setting
from calculator.resident.stored_weight import StoredWeight
from calculator.resident.tensor import ResidentTensor

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType

#: The numbers of weights that can share one constant. Source: bitsandbytes/_ops.py, bitsandbytes::quantize_4bit.
BLOCKSIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
#: The number of constants that share one second-level constant. Source: bitsandbytes.functional.quantize_4bit
#: (blocksize=256).
NESTED_BLOCKSIZE = 256
#: The name of the code book of nested constants that bitsandbytes keeps.
BOOK = "name2qmap.dynamic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization(StoredWeight):
    """bitsandbytes' 4-bit format (Dettmers et al. 2023, section 3)."""

    is_bitsandbytes: ClassVar[bool] = True
    clones_output: ClassVar[bool] = True

    quant_type: Literal["nf4", "fp4"]
    blocksize: int
    double_quant: bool
    compute_dtype: DType
    #: The dtype of the tensor that holds packed weights.
    storage: DType = "uint8"

    def packed(self, shape: Shape) -> tuple[Shape, DType]:
        """Return the packed weight, with two elements per byte (bitsandbytes.nn.Params4bit)."""
        per_element = 2 * ITEMSIZE[self.storage]
        return (
            Dim((elements(shape) + 1) // per_element, lambda: f"{symbolic(shape)} / {per_element}"),
            1,
        ), self.storage

    def constants(self, shape: Shape) -> tuple[tuple[str, Shape, DType], ...]:
        """Return the constants of a weight with this shape (bitsandbytes.functional.QuantState)."""
        blocks = Dim(ceil(elements(shape) / self.blocksize), lambda: f"{symbolic(shape)} / {self.blocksize}")
        code: tuple[str, Shape, DType] = ("code", (16,), "float32")
        if not self.double_quant:
            return ("absmax", (blocks,), "float32"), code
        nested = Dim(ceil(blocks / NESTED_BLOCKSIZE), lambda: f"{blocks.name} / {NESTED_BLOCKSIZE}")
        return (
            ("absmax", (blocks,), "uint8"),
            ("nested_absmax", (nested,), "float32"),
            ("nested_code", (256,), "float32"),
            ("nested_offset", (), "float32"),
            code,
        )

    @property
    def bias_dtype(self) -> DType:
        """The compute dtype, to which the first run casts the bias (bitsandbytes/nn/modules.py, Linear4bit.forward)."""
        return self.compute_dtype


@cache
def four_bits(
    quant_type: Literal["nf4", "fp4"],
    blocksize: int,
    compute_dtype: DType,
    *,
    double_quant: bool,
    storage: DType = "uint8",
) -> Quantization:
    """Return a cached format, which all modules of a model share."""
    return Quantization(
        quant_type=quant_type,
        blocksize=blocksize,
        double_quant=double_quant,
        compute_dtype=compute_dtype,
        storage=storage,
    )


def blocksize_setting() -> Any:
    """Return the input for the number of weights that share one constant."""
    return setting(
        64,
        label="Block size",
        help="Weights that share one constant: a power of two.",
        minimum=BLOCKSIZES[0],
        maximum=BLOCKSIZES[-1],
    )


def check_blocksize(loc: str, blocksize: int) -> None:
    """Refuse a block size that bitsandbytes has no kernel for.

    Raises:
        PlanError: with the block sizes that exist.
    """
    if blocksize not in BLOCKSIZES:
        blocksizes = ", ".join(map(str, BLOCKSIZES))
        raise refusal(
            loc, f"bitsandbytes has no kernel for blocks of {blocksize:,}: use one of {blocksizes}", blocksize
        )


def converted(path: str, module: Module, model: Model) -> bool:
    """Return whether bitsandbytes quantizes a module.

    Modules of layers (`*`) are never in `modules_to_not_convert`.
    """
    return module.quantizable and ("*" in path or path not in model.modules_to_not_convert)


def code_book(model: Model, quantization: Quantization) -> tuple[ResidentTensor, ...]:
    """Return the code book of nested constants.

    bitsandbytes caches one, and each constant has its own copy.

    Source: bitsandbytes/functional.py, quantize_blockwise, name2qmap.
    """
    code = ResidentTensor(name=BOOK, shape=(256,), dtype="float32", component="quantization_constants")
    converts = any(converted(path, module, model) for path, module in model.paths)
    return (code,) if quantization.double_quant and converts else ()
