"""The tensors that an initialization of A and B allocates for one module, and the moment with the most bytes.

Each function follows the method of the same name of LoraLayer. `torch.linalg.svd` copies what it decomposes. The
workspaces of cuSOLVER, which reports their sizes at run time, are not counted.

Sources: peft 0.21, tuners/lora/layer.py and utils/loftq_utils.py; bitsandbytes.functional.quantize_4bit;
aten/src/ATen/native/cuda/linalg/BatchLinearAlgebraLib.cpp (svd_cusolver) and native/BatchLinearAlgebra.cpp
(linalg_qr_out).
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE, allocated

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.methods.costs import Allocated

SOURCE = "peft, tuners/lora/layer.py, LoraLayer.update_layer"

#: The number of weights that share one constant of LoftQ's 4-bit form. Source: bitsandbytes.nn.Params4bit.
_BLOCKSIZE = 64


class Weight(NamedTuple):
    """A weight that is decomposed, and the rank of its update."""

    rows: int
    columns: int
    rank: int
    dtype: DType
    #: Whether it is in 4 bits, and dequantized to its dtype first.
    is_stored: bool

    @property
    def shape(self) -> Shape:
        """The shape of the weight."""
        return self.rows, self.columns

    @property
    def smaller(self) -> int:
        """The number of its singular values."""
        return min(self.rows, self.columns)


class Temporaries:
    """Tensors by name. The moment with the most bytes is kept."""

    def __init__(self) -> None:
        self._alive: dict[str, Allocated] = {}
        self._bytes = 0
        #: The tensors of the moment with the most bytes, and these bytes.
        self.peak: tuple[Allocated, ...] = ()
        self.peak_bytes = 0

    def new(self, name: str, shape: Shape, dtype: DType = "float32") -> None:
        """Allocate a tensor."""
        self._alive[name] = (name, shape, dtype)
        self._bytes += _size(self._alive[name])
        if self._bytes > self.peak_bytes:
            self.peak_bytes, self.peak = self._bytes, tuple(self._alive.values())

    def free(self, *names: str) -> None:
        """Free tensors."""
        for name in names:
            self._bytes -= _size(self._alive.pop(name))

    def svd(self, shape: Shape) -> None:
        """Allocate singular vectors and values. A copy that cuSOLVER overwrites is alive meanwhile."""
        rows, columns = shape
        smaller = min(shape)
        self.new("left singular vectors", (rows, smaller))
        self.new("singular values", (smaller,))
        self.new("right singular vectors", (smaller, columns))
        self.new("info", (), "int32")
        self.new("weight, copied for cuSOLVER", shape)
        self.free("info", "weight, copied for cuSOLVER")


def pissa(on: Temporaries, weight: Weight) -> None:
    """Decompose the weight.

    The principal singular vectors become A and B, and their product is subtracted from the weight.
    """
    _in_float32(on, weight)
    on.svd(weight.shape)
    _subtract(on, weight)


def pissa_niter(on: Temporaries, weight: Weight) -> None:
    """Run PiSSA with `torch.svd_lowrank`, which multiplies by matrices with as many columns as the rank."""
    _in_float32(on, weight)
    on.new("left singular vectors", (weight.rows, weight.rank))
    on.new("singular values", (weight.rank,))
    on.new("right singular vectors", (weight.columns, weight.rank))
    _subtract(on, weight)


def olora(on: Temporaries, weight: Weight) -> None:
    """Decompose the weight. Q and R become B and A, and their product is subtracted from the weight.

    Autograd saves a factor of the product.
    """
    _in_float32(on, weight)
    on.new("Q", (weight.rows, weight.smaller))
    on.new("R", (weight.smaller, weight.columns))
    on.new("Householder coefficients", (weight.smaller,))
    on.free("Householder coefficients")
    on.new("A", (weight.rank, weight.columns))
    on.new("B", (weight.rows, weight.rank))
    on.new("B, scaled", (weight.rows, weight.rank))
    on.new("B·A", weight.shape)


def mica(on: Temporaries, weight: Weight) -> None:
    """Decompose the weight. The minor left singular vectors become B."""
    _in_float32(on, weight)
    on.svd(weight.shape)
    on.free("singular values")
    for dtype in dict.fromkeys(("float32", weight.dtype)):
        on.new(f"B in {dtype}", (weight.rows, weight.rank), dtype)
        on.new(f"A in {dtype}", (weight.rank, weight.columns), dtype)


def loftq(on: Temporaries, weight: Weight) -> None:
    """Decompose the error of the 4-bit form once, which is the default of LoftQConfig."""
    _in_float32(on, weight)
    on.new("residual", weight.shape)
    on.new("residual, back from the CPU", weight.shape)
    count = elements(weight.shape)
    on.new("weight in 4 bits", (ceil(count / 2), 1), "uint8")
    on.new("absmax", (ceil(count / _BLOCKSIZE),))
    on.new("code", (16,))
    on.free("residual, back from the CPU")
    on.new("weight, dequantized", weight.shape)
    on.new("error", weight.shape)
    on.free("residual")
    on.svd(weight.shape)
    for name, shape in (("B", (weight.rows, weight.rank)), ("A", (weight.rank, weight.columns))):
        on.new("diagonal", (weight.smaller, weight.smaller))
        on.new("square roots", (weight.smaller, weight.rank))
        on.free("diagonal")
        on.new(name, shape)
        on.free("square roots")
    if weight.dtype != "float32":
        on.new("weight, dequantized, in its dtype", weight.shape, weight.dtype)


#: The function for each initialization that reads the weight and nothing else.
OF_WEIGHTS: dict[str, Callable[[Temporaries, Weight], None]] = {
    "pissa": pissa,
    "pissa_niter_4": pissa_niter,
    "pissa_niter_16": pissa_niter,
    "olora": olora,
    "mica": mica,
    "loftq": loftq,
}


def _in_float32(on: Temporaries, weight: Weight) -> None:
    if weight.dtype != "float32" or weight.is_stored:
        on.new("weight in float32", weight.shape)


def _subtract(on: Temporaries, weight: Weight) -> None:
    """Compute A and B from singular vectors, and the weight without their product."""
    on.new("A", (weight.rank, weight.columns))
    on.new("B", (weight.rows, weight.rank))
    on.new("B·A", weight.shape)
    on.new("weight - B·A", weight.shape)
    on.free("B·A")
    if weight.dtype != "float32":
        on.free("weight in float32")
        on.new("weight - B·A in its dtype", weight.shape, weight.dtype)


def _size(tensor: Allocated) -> int:
    _, shape, dtype = tensor
    return allocated(elements(shape), ITEMSIZE[dtype])
