"""Matrix products with weights that torchao stores in NF4.

Source: torchao 0.10, torchao/dtypes/nf4tensor.py, LinearNF4 and NF4Tensor.get_original_weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.engine.tape import Tensor
from calculator.resident.torchao_nf4 import BLOCK_SIZE

if TYPE_CHECKING:
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tape


def matmul(x: Tensor, module: Module, bias: Tensor | None) -> Tensor:
    """Dequantize, multiply, and free the dense copy. The backward pass dequantizes again.

    The bias is added after the product.
    """
    node = Node(x.tape, _matmul_back, (x.edge,), module) if x.edge else None
    dense = dequantized(x.tape, module, x.dtype)
    out = x.tape.new((*x.shape[:-1], module.out_features), x.dtype, "product", node)
    x.tape.multiply()
    del dense
    if node is not None:
        # A custom function saves its tensors after it has run, so checkpointing recomputes the product for it.
        node.save(Tensor(x.tape, None, module.weight.shape, x.dtype, None))
    return out if bias is None else ops.add(out, bias, "output with bias")


def dequantized(tape: Tape, module: Module, dtype: DType) -> Tensor:
    """Allocate a dense copy of a weight.

    PyTorch's own operations make it, with an index of 8 bytes for every element.
    """
    shape = module.weight.shape
    half, blocks = (module.weight.elements // 2,), (module.weight.elements // BLOCK_SIZE,)
    indices = []
    for name in ("upper", "lower"):
        bits = tape.scratch(half, "uint8", f"{name} 4 bits")
        indices.append(tape.scratch(half, "int64", f"{name} 4 bits as indices"))
        del bits
    values = [tape.scratch(half, dtype, f"values of the {name} 4 bits") for name in ("upper", "lower")]
    divided = tape.scratch(blocks, dtype, "constants without their mean")
    constants = tape.scratch(blocks, dtype, "constants")
    del divided
    scaled = []
    for name in ("upper", "lower"):
        repeated = tape.scratch(half, dtype, "constants, repeated")
        scaled.append(tape.scratch(half, dtype, f"values of the {name} 4 bits, scaled"))
        del repeated
    dense = tape.scratch(shape, dtype, "weight, dequantized")
    del indices, values, constants, scaled
    return dense


def _matmul_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    (left,) = node.edges
    assert left is not None
    dense = dequantized(grad.tape, node.context, grad.dtype)
    x_grad = grad.tape.new(left[2], grad.dtype, "product: gradient")
    grad.tape.multiply()
    del dense
    return (x_grad,)
