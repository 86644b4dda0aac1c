"""Granite 4: layers of Mamba 2 or attention, then a shared MLP, with or without experts, and Granite's multipliers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.module_calls import enter, leave
from calculator.families.granite.forward import GRANITE, MIXTURE
from calculator.layers import norms
from calculator.layers.activation import activation
from calculator.layers.decoder_forward import rotary_tables
from calculator.layers.decoder_layer import run_sublayer
from calculator.layers.mamba import Mamba2
from calculator.layers.self_attention import SelfAttention

if TYPE_CHECKING:
    from calculator.architecture.layer_kind import MixerType
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules

_attend, _mamba = SelfAttention(), Mamba2()


def _tables(context: Context, hidden_states: Tensor, dtype: DType | None = None) -> tuple[Tensor, ...]:
    """Return rotary tables, if the config sets them, and the positions."""
    if context.config["position_embedding_type"] == "rope":
        return rotary_tables(context, hidden_states, dtype)
    context.set_scope("model.")
    return (context.position_ids(hidden_states.shape[1]),)


def _without_positions(tables: tuple[Tensor, ...], attention: MixerType) -> tuple[Tensor, ...]:  # noqa: ARG001  the signature of such hooks
    return tables[:-1]


def _mix(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    run = _mamba if modules.kind.attention == "linear_attention" else _attend
    return run(context, modules, hidden_states)


def _shared_mlp(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
    """Run GraniteMoeHybridMLP.

    Gate and up are halves of one projection, which stays alive until the output projection.
    """
    gate_up = modules["shared_mlp.input_linear"](x)
    context.set_scope(f"{modules.prefix}shared_mlp: ")
    half = (*gate_up.shape[:-1], modules["shared_mlp.output_linear"].module.in_features)
    gate, up = ops.split(gate_up, [half, half])
    product = ops.mul(activation(context.config["hidden_act"])(gate), up, "activated gate · up")
    del gate_up
    return modules["shared_mlp.output_linear"](product)


def _layer(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Run GraniteMoeHybridDecoderLayer."""
    residual, experts = hidden_states, None
    hidden_states = norms.rms_norm(modules["input_layernorm"], hidden_states)
    hidden_states = run_sublayer(context, modules, "attention", _mix, hidden_states)
    hidden_states = ops.add(residual, ops.scale(hidden_states, "output, multiplied"), "residual after attention")
    residual = hidden_states
    hidden_states = norms.rms_norm(modules["post_attention_layernorm"], hidden_states)
    if "block_sparse_moe.router" in modules:
        path = f"{modules.prefix}block_sparse_moe"
        experts = leave(path, MIXTURE(context, modules, enter(path, hidden_states)))
    shared = run_sublayer(context, modules, "mlp", _shared_mlp, hidden_states)
    hidden_states = shared if experts is None else ops.add(experts, shared, "experts + shared MLP")
    del shared
    out = ops.add(residual, ops.scale(hidden_states, "output, multiplied"), "residual after MLP")
    del experts
    return out


GRANITE_HYBRID = replace(
    GRANITE,
    layer=_layer,
    tables=_tables,
    tables_for=_without_positions,
    masks=("full_attention",),
)
