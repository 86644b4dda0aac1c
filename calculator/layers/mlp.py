"""Feed-forward sublayers: (batch, sequence, hidden_size) to the same shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.module_calls import enter, leave
from calculator.layers.activation import ACTIVATIONS, activation
from calculator.layers.dropout import dropout as dropped

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules

    Sublayer = Callable[[Context, LayerModules, Tensor], Tensor]


#: The names of the projections of a gated MLP.
_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def gated(
    context: Context,
    modules: LayerModules,
    x: Tensor,
    name: str = "mlp",
    projections: tuple[str, str, str] = _PROJECTIONS,
    *,
    calls_module: bool = True,
) -> Tensor:
    """Return down(act(gate(x)) · up(x)). `projections` names gate, up and down.

    `calls_module`: whether the activation is a module, and not a function.
    """
    act = (activation if calls_module else ACTIVATIONS.__getitem__)(context.config["hidden_act"])
    gate_proj, up_proj, down_proj = projections
    gate = modules[f"{name}.{gate_proj}"](x)
    context.set_scope(f"{modules.prefix}{name}: ")
    act_gate = act(gate)
    del gate
    up = modules[f"{name}.{up_proj}"](x)
    context.set_scope(f"{modules.prefix}{name}: ")
    product = ops.mul(act_gate, up, "activated gate · up")
    del act_gate, up
    return modules[f"{name}.{down_proj}"](product)


def called(context: Context, modules: LayerModules, x: Tensor, name: str) -> Tensor:
    """Run a gated MLP that is a module inside another one, as a call of it."""
    path = f"{modules.prefix}{name}"
    return leave(path, gated(context, modules, enter(path, x), name))


def fused_gated(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
    """Return down(up · act(gate)), where gate and up are the halves of one projection."""
    act = activation(context.config["hidden_act"])
    up_states = modules["mlp.gate_up_proj"](x)
    context.set_scope(f"{modules.prefix}mlp: ")
    half = (*up_states.shape[:-1], modules["mlp.down_proj"].module.in_features)
    gate, up_states = ops.split(up_states, [half, half])
    up_states = ops.mul(up_states, act(gate), "up · activated gate")
    return modules["mlp.down_proj"](up_states)


def configured(context: Context, modules: LayerModules, x: Tensor) -> Tensor:  # noqa: ARG001  the signature of such hooks
    """Apply the activation that the config names."""
    return activation(context.config["hidden_act"])(x)


def plain(up: str, down: str, *, act: Sublayer = configured, dropout: str | None = None) -> Sublayer:
    """Return the MLP down(act(up(x))).

    A dropout module with the probability `config[dropout]` is applied to the result.
    """

    def run(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
        hidden_states = modules[up](x)
        context.set_scope(f"{modules.prefix}mlp: ")
        hidden_states = act(context, modules, hidden_states)
        hidden_states = modules[down](hidden_states)
        if dropout is None:
            return hidden_states
        return dropped(hidden_states, context.config[dropout], "MLP, dropped")

    return run
