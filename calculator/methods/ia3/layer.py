"""A linear layer with an IA³ vector (peft.tuners.ia3.layer.Linear)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.result_types import result_type
from calculator.methods.costs import MergeStep

if TYPE_CHECKING:
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.methods.costs import Allocated
    from calculator.resident.module_spec import ModuleSpec

#: The vector's name within its module.
VECTOR = "ia3_l"

SOURCE = "peft, tuners/ia3/layer.py, Linear.merge"


def forward(bound: BoundModule, x: Tensor) -> Tensor:
    """Scale a feed-forward module's input, or another module's output."""
    vector = bound.added[VECTOR]
    feedforward = vector.shape[0] == 1
    scaling = ops.scale(ops.view(vector, vector.shape[1:] if feedforward else vector.shape[:1]), "scaling")
    if not feedforward:
        result = bound.base_layer(x)
        return ops.cast(ops.mul(result, scaling, "output, scaled"), result.dtype, "output")
    dtype = x.dtype
    x = ops.cast(x, vector.dtype, "input in the vector's dtype")
    scaled = ops.cast(ops.mul(x, scaling, "input, scaled"), dtype, "input, scaled, in its own dtype")
    return bound.base_layer(scaled)


def merge_step(module: Module, module_spec: ModuleSpec) -> MergeStep:
    """Return the product of the weight and the vector, and its copy in the weight's dtype if that differs."""
    shape, dtype = module.weight.shape, module_spec.dtype
    product = result_type(dtype, module_spec.added[0].dtype)
    allocated: list[Allocated] = [("weight · vector", shape, product)]
    if product != dtype:
        allocated.append(("the same in the weight's dtype", shape, dtype))
    loss = "A dense weight keeps the product in its own data type."
    return MergeStep(allocated=tuple(allocated), loss=loss, source=SOURCE)
