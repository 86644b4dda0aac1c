"""A linear layer with an update from trained wavelet coefficients (peft.tuners.waveft.layer.WaveFTLinear).

Source: peft 0.21, tuners/waveft/layer.py, WaveFTLayer.get_delta_weight, and waverec2d.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import indexing, products
from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.engine.tape import Tensor

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.layers.bound_module import BoundModule

#: The parameter's name within its module.
SPECTRUM = "waveft_spectrum"


def forward(bound: BoundModule, x: Tensor, filter_length: int | None) -> Tensor:
    """Return the output of the frozen module plus the product with the dense update.

    Without a filter length, the coefficients are elements of the update.
    """
    dtype, module, spectrum = x.dtype, bound.module, bound.added[SPECTRUM]
    result = bound.base_layer(x)
    shape = (module.out_features, module.in_features)
    update = _elements(spectrum, shape) if filter_length is None else _transformed(spectrum, shape, filter_length)
    x = ops.cast(x, update.dtype, "input in the update's dtype")
    product = products.matmul(x, update, None, module.out_features, "update · x")
    result = ops.add(result, product, "result + update")
    del product
    return ops.cast(result, dtype, "output")


def _elements(spectrum: Tensor, shape: Shape) -> Tensor:
    """Return zeros with the coefficients at their positions, scaled: (out_features, in_features)."""
    positions = spectrum.tape.new((2, *spectrum.shape), "int64", "positions of the coefficients")
    dense = spectrum.tape.new(shape, spectrum.dtype, "dense coefficients")
    return ops.scale(_index_put_(dense, spectrum, positions), "update")


def _transformed(spectrum: Tensor, shape: Shape, filter_length: int) -> Tensor:
    """Return the inverse wavelet transform of the coefficients, scaled: (out_features, in_features).

    They are in a matrix of even sizes, which has room for the margin that the transform cuts off.
    """
    tape, count = spectrum.tape, spectrum.shape
    rows, columns = (named(_round_to_even(int(size) + filter_length - 2), "size of the transform") for size in shape)
    positions = tape.new((2, *count), "int64", "positions of the coefficients")
    dense = tape.new((rows, columns), spectrum.dtype, "dense coefficients")
    padded = tape.new((2, *count), "int64", "positions in the padded matrix")
    mask = _mask_within(padded)
    kept = _selected(padded, mask)
    values = _masked(spectrum, mask)
    dense = _index_put_(dense, values, kept)
    update = ops.scale(_reconstructed(dense, filter_length), "update")
    del positions, padded, mask, kept, values, dense
    return ops.narrow(ops.narrow(update, (shape[0], update.shape[1])), shape)


def _round_to_even(size: int) -> int:
    return size + size % 2


def _mask_within(positions: Tensor) -> Tensor:
    """Return the mask of the positions within the padded matrix, which are all."""
    tape, count = positions.tape, positions.shape[1:]
    row_mask = tape.new(count, "bool", "rows within the matrix")
    column_mask = tape.new(count, "bool", "columns within the matrix")
    within = tape.new(count, "bool", "positions within the matrix")
    del row_mask, column_mask
    return within


def _selected(positions: Tensor, mask: Tensor) -> Tensor:
    """Return positions[:, mask], computed with the indices of the selected positions."""
    numbers = positions.tape.scratch((*mask.shape, 1), "int64", "numbers of the positions")
    selected = positions.tape.new(positions.shape, "int64", "positions that are selected")
    del numbers
    return selected


def _masked(spectrum: Tensor, mask: Tensor) -> Tensor:
    """Return spectrum[mask]."""
    numbers = spectrum.tape.scratch((*mask.shape, 1), "int64", "numbers of the coefficients")
    values = indexing.masked_rows(spectrum, mask, mask.shape[0], "coefficients that are selected")
    del numbers
    return values


def _index_put_(dense: Tensor, values: Tensor, positions: Tensor) -> Tensor:
    """Compute `dense[rows, columns] = values`. The positions are saved."""
    node = Node(values.tape, _put_back, (values.edge,), values.shape) if values.edge else None
    if node is not None:
        node.save(positions)
    return Tensor(dense.tape, dense.storage, dense.shape, dense.dtype, node)


def _put_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(node.context, grad.dtype, "coefficients: gradient"),)


def _reconstructed(dense: Tensor, filter_length: int) -> Tensor:
    """Run waverec2d on the matrix's quarters. It is a transposed convolution whose margin is cut off."""
    tape, (rows, columns), length = dense.tape, dense.shape, named(filter_length, "filter length")
    half = (named(int(rows) // 2, "half the rows"), named(int(columns) // 2, "half the columns"))
    quarters = [ops.view(ops.narrow(ops.narrow(dense, (half[0], columns)), half), (1, *half)) for _ in range(4)]
    filters = [tape.new((length,), dense.dtype, "filter") for _ in range(4)]
    del filters[0]
    bank = _filter_bank(filters)
    stacked = ops.cat(quarters, (1, 4, *half), "coefficients of the four bands")
    whole = tuple(named(int(size) + filter_length - 2, "size before the cut") for size in (rows, columns))
    image = products.convolution(stacked, bank, None, (1, 1, *whole), "wavelet transform")
    del stacked, filters
    cut = tuple(named(int(size) - filter_length + 2, "size of the update") for size in (rows, columns))
    return _cropped(ops.view(image, whole), cut)


def _filter_bank(filters: list[Tensor]) -> Tensor:
    """Return the outer products of both filters: (4, 1, length, length)."""
    (length,) = filters[0].shape
    outer = [ops.mul(ops.view(filters[0], (length, 1)), filters[0], "outer product") for _ in range(4)]
    return ops.view(ops.cat(outer, (4, length, length), "filters"), (4, 1, length, length))


def _cropped(image: Tensor, shape: Shape) -> Tensor:
    """Return the image without its margin. Each side is a slice, unless it has no margin."""
    if image.shape == shape:
        return image
    (rows, columns), height = image.shape, shape[0]
    margin = (int(rows) - int(height)) // 2
    image = ops.narrow(image, (named(int(rows) - margin, "rows without the margin above"), columns))
    image = ops.narrow(image, (height, columns))
    image = ops.narrow(image, (height, named(int(columns) - margin, "columns without the left margin")))
    return ops.narrow(image, shape)
