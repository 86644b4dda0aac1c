"""EVA: incremental singular vectors of the inputs of modules, which forward hooks compute in passes of samples.

The figures are those of a pass after the second. From then on, the vectors are in float64, because the row that
corrects the mean is. cuSOLVER's workspaces are not counted.

Source: peft 0.21, tuners/lora/eva.py (SVDHook, _get_eva_state_dict) and utils/incremental_pca.py; torch/_lowrank.py;
aten/src/ATen/native/BatchLinearAlgebra.cpp (linalg_qr_out) and cuda/linalg/BatchLinearAlgebraLib.cpp (svd_cusolver).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE, allocated
from calculator.engine import operations as ops
from calculator.methods.base import Method

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tape, Tensor
    from calculator.layers.bound_module import BoundModule

#: The number of iterations of torch.svd_lowrank.
_NITER = 4

#: A parameter that only modules with an update have.
UPDATE = "lora_A.weight"


class Call(NamedTuple):
    """A call of a module with an update: its path and rank, and the storage and the shape of its input."""

    path: str
    rank: int
    storage: int
    shape: Shape


class HookedInputs(Method):
    """The model with its adapters disabled. Modules with an update pass their inputs to forward hooks.

    `counts` has the number of singular vectors that the hook of a call looks for, by the number of the call in the
    pass. Calls without a hook have none. `tokens` is the number of tokens of a batch.
    """

    __slots__ = ("calls", "counts", "tokens")

    def __init__(self, tokens: int, counts: Mapping[int, int] | None = None) -> None:
        self.tokens, self.counts = tokens, counts or {}
        #: The calls so far.
        self.calls: list[Call] = []

    @property
    def couples_layers(self) -> bool:
        """True: every layer is interpreted, because each call has a hook of its own."""
        return True

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Run the frozen module, and then its hook."""
        out, update = bound.base_layer(x), bound.added.get(UPDATE)
        if update is not None:
            number = len(self.calls)
            self.calls.append(Call(bound.name, int(update.shape[0]), x.storage.row if x.storage else -1, x.shape))
            if number in self.counts:
                _hook(x, self.counts[number], self.tokens)
        return out


def kept_bytes(features: int, count: int, tokens: int) -> int:
    """Return the bytes that a hook for `count` singular vectors keeps between two passes.

    They include the singular values and statistics.
    """
    rank = min(_requested_rank(count), tokens + count + 1, features)
    scalars = _size((1,), "int64") + _size((), "float64")
    values = 3 * _size((rank,), "float64") + _size((count,), "bool")
    return _size((rank, features), "float64") + 2 * _size((features,), "float64") + values + scalars


def _requested_rank(count: int) -> int:
    """Return how many singular vectors IncrementalPCA requests from torch.svd_lowrank, to keep `count`."""
    return 2 * count


def _hook(x: Tensor, count: int, tokens: int) -> None:
    """Update `count` singular vectors by the inputs of a batch's tokens (SVDHook.__call__)."""
    tape, features = x.tape, int(x.shape[-1])
    previous = tape.new((count, features), "float64", "singular vectors of the pass before")
    states = tape.new((tokens, features), x.dtype, "inputs of the tokens")
    components = _partial_fit(ops.cast(states, "float32", "inputs in float32"), count)
    for name in ("squares", "vectors / norms", "vectors before / norms", "cosines"):
        _passing(tape, previous.shape, name)
    del previous, components


def _partial_fit(x: Tensor, count: int) -> list[Tensor]:
    """Run IncrementalPCA.partial_fit, and return the tensors that it keeps."""
    tape, (tokens, features) = x.tape, x.shape
    x = tape.new(x.shape, "float32", "inputs, copied")
    statistics = _mean_and_variance(tape, int(tokens), int(features))
    means = [tape.new((features,), "float32", "mean of the batch")]
    means += [tape.new((1,), "float64", "factor of the mean's correction")]
    means += [tape.new((features,), "float64", "mean's correction")]
    vectors = tape.new((count, features), "float64", "singular vectors · values")
    rows = int(tokens) + count + 1
    x = tape.new((rows, features), "float64", "vectors, inputs and mean's correction")
    del vectors
    left, values, right = _svd_lowrank(tape, rows, int(features), _requested_rank(count))
    signs = tape.new(right.shape, "float64", "singular vectors, absolute")
    largest = tape.new(values.shape, "int64", "largest elements")
    del signs
    signs = tape.new(values.shape, "float64", "signs")
    del signs, largest
    variances = [tape.new(values.shape, "float64", f"explained variance{suffix}") for suffix in ("", ", relative")]
    _passing(tape, (features,), "variance · samples")
    noise = tape.new((), "float64", "variance of the noise")
    del x, left, means
    return [values, right, *variances, noise, *statistics]


def _mean_and_variance(tape: Tape, tokens: int, features: int) -> list[Tensor]:
    """Run IncrementalPCA._incremental_mean_and_var, and return the mean, the variance and the count."""
    count = tape.new((1,), "int64", "tokens of the batch")
    seen = tape.new((1,), "int64", "tokens seen")
    kept = [tape.new((features,), "float64", name) for name in ("last sum", "new sum", "mean", "mean of the batch")]
    difference = tape.new((tokens, features), "float64", "inputs - mean")
    kept += [tape.new((features,), "float64", name) for name in ("correction", "new variance", "last variance")]
    ratio = tape.new((1,), "float64", "last tokens / new tokens")
    parts = [tape.new((features,), "float64", f"part {number} of the variance") for number in range(3)]
    variance = tape.new((features,), "float64", "variance")
    mean = kept[2]
    del count, difference, kept, ratio, parts
    return [mean, variance, seen]


def _svd_lowrank(tape: Tape, rows: int, columns: int, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Run torch.svd_lowrank, and return the left singular vectors, the values and the right ones."""
    tall, wide = max(rows, columns), min(rows, columns)
    basis = _basis(tape, tall, wide, rank)
    rank = basis.shape[1]
    inside = tape.new((rank, wide), "float64", "basis · matrix")
    left = tape.new((rank, rank), "float64", "left singular vectors")
    values = tape.new((rank,), "float64", "singular values")
    right = tape.new((rank, wide), "float64", "right singular vectors")
    info = tape.new((), "int32", "info")
    _passing(tape, inside.shape, "basis · matrix, copied for cuSOLVER")
    del info
    left = tape.new((tall, rank), "float64", "basis · left singular vectors")
    del basis, inside
    return (left, values, right) if rows >= columns else (right, values, left)


def _basis(tape: Tape, tall: int, wide: int, rank: int) -> Tensor:
    """Run torch._lowrank.get_approximate_basis.

    A matrix has no more columns than the previous one has rows.
    """
    random = tape.new((wide, rank), "float64", "random vectors")
    product = tape.new((tall, rank), "float64", "matrix · vectors")
    basis = _qr(tape, product)
    for _ in range(_NITER):
        product = tape.new((wide, basis.shape[1]), "float64", "matrix · vectors")
        basis = _qr(tape, product)
        product = tape.new((tall, basis.shape[1]), "float64", "matrix · vectors")
        basis = _qr(tape, product)
    del random, product
    return basis


def _qr(tape: Tape, matrix: Tensor) -> Tensor:
    """Return the orthogonal factor of a matrix."""
    rows, columns = matrix.shape
    size = min(rows, columns)
    factor = tape.new((rows, size), "float64", "Q")
    other = tape.new((size, columns), "float64", "R")
    _passing(tape, (size,), "Householder coefficients")
    del other
    return factor


def _passing(tape: Tape, shape: Shape, name: str) -> None:
    """Allocate a temporary tensor that is freed at once."""
    tape.new(shape, "float64", name)


def _size(shape: Shape, dtype: DType) -> int:
    return allocated(elements(shape), ITEMSIZE[dtype])
