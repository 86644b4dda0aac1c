"""The calculator's prediction for one layer: the step's operations, on a tape for this layer alone."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from calculator.architecture.dimension import Dim
from calculator.engine.backward import backward
from calculator.estimation.estimate import resident_state
from calculator.families import forward_of
from calculator.layers.context import Context
from calculator.methods import Adapter, Prefix, Prompt
from calculator.resident.optimizers import OPTIMIZERS
from calculator.resident.per_parameter import optimizer_states, tensors
from calculator.training_step.optimizer_step import temporaries
from validation.measure.meter import Reading

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.layer_modules import LayerModules
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.resident.tensor import ResidentTensor
    from validation.measure.layer_cases import LayerCase

#: The path of the predicted decoder layer.
LAYER = "model.layers.0."


def predicted(case: LayerCase) -> dict[str, Reading]:
    """Return bytes allocated at the end of each moment, and the most during it; loading has no peak."""
    state = _state(case)
    weights = _bytes(state)
    readings = {"load": Reading(allocated=weights)}
    prepared = resident_state(case.request).prepared
    context = Context(prepared, forward_of(prepared.model))
    tape = context.tape
    layer = context.layer(context.layers[0], LAYER)
    x = None if isinstance(case.request.method, Prefix | Prompt) else _input(context, _module(case, layer))
    out = _output(case, context, layer, x)
    forward = len(tape.events)
    gradient = tape.new(out.shape, out.dtype, "output: gradient")
    backward(tape, out, gradient)
    live = [*accumulate(_size(context, event) for event in tape.events)]
    readings["forward"] = Reading(allocated=weights + live[forward - 1], peak_allocated=weights + max(live[:forward]))
    allocated = weights + live[-1]
    readings["backward"] = Reading(allocated=allocated, peak_allocated=weights + max(live[forward - 1 :]))
    trained = tuple(tensor for tensor in state if tensor.trained)
    if trained:
        optimizer = OPTIMIZERS[case.request.training.optimizer]
        allocated += _bytes(optimizer_states(trained, optimizer))
        peak = allocated + _bytes(temporaries([trained], optimizer, clips=False, keeps_norm=False))
        readings["optimizer_step"] = Reading(allocated=allocated, peak_allocated=peak)
    return readings


def _size(context: Context, event: int) -> int:
    rows = context.tape.rows
    return rows[event][4] if event >= 0 else -rows[~event][4]


def _bytes(resident: Iterable[ResidentTensors]) -> int:
    """Return bytes of one layer's tensors."""
    return sum(tensor.bytes // tensor.count for tensor in tensors(resident))


def _state(case: LayerCase) -> tuple[ResidentTensor, ...]:
    """Return the layer's resident tensors: of a module and its adapter, or of the module that the method adds."""
    every = resident_state(case.request).tensors
    if case.module is not None:
        return tuple(t for t in every if f".{case.module}." in t.name or t.name == "name2qmap.dynamic")
    return tuple(t for t in every if not t.base and ".attention." not in t.name)


def _module(case: LayerCase, layer: LayerModules) -> BoundModule | None:
    return layer[case.module] if case.module is not None else None


def _input(context: Context, module: BoundModule | None) -> Tensor:
    width = module.module.in_features if module is not None else context.config["hidden_size"]
    x = context.tape.new((context.batch, context.length, width), context.dtype, "input")
    return context.input_requiring_grad(x)


def _output(case: LayerCase, context: Context, layer: LayerModules, x: Tensor | None) -> Tensor:
    method = case.request.method
    if isinstance(method, Prefix):
        return method.encoded(context, Dim(method.num_virtual_tokens, "p"))
    if isinstance(method, Prompt):
        return method.encoded(context, Dim(method.num_virtual_tokens, "p"), context.config["hidden_size"])
    assert x is not None
    if isinstance(method, Adapter):
        return method.after_sublayer(context, layer, "mlp", x)
    module = _module(case, layer)
    assert module is not None
    return module(x)
