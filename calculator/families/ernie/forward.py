"""ERNIE 4.5: Llama's layer with an MLP or experts. Interleaved pairs of each head are rotated in float32."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from calculator.engine import autocast, indexing, reductions
from calculator.engine import operations as ops
from calculator.engine.module_calls import enter, leave
from calculator.layers import mlp, rotary, routers
from calculator.layers.decoder_forward import DecoderForward, rotary_tables, spread_table
from calculator.layers.decoder_layer import SequentialLayer
from calculator.layers.experts import experts
from calculator.layers.mixture import Mixture, in_sparse_layers
from calculator.layers.self_attention import SelfAttention

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules

_SHARED = "mlp.shared_experts"


def _rotate(context: Context, query_states: Tensor, key_states: Tensor) -> tuple[Tensor, ...]:
    """Run apply_rotary_pos_emb: each layer interleaves the tables, multiplies in float32, and casts back."""
    cos, sin = (spread_table(context, table) for table in context.position_tables[:2])
    q_embed = _rotated(query_states, cos, sin, "query, rotated")
    k_embed = _rotated(key_states, cos, sin, "key, rotated")
    dtype = query_states.dtype
    return ops.cast(q_embed, dtype, "query, cast back"), ops.cast(k_embed, dtype, "key, cast back")


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, name: str) -> Tensor:
    straight = ops.mul(ops.cast(x, "float32", f"{name}: input in float32"), cos, f"{name} · cos")
    return ops.add(straight, ops.mul(_swapped(x, name), sin, f"{name}, rotated · sin"), name)


def _swapped(x: Tensor, name: str) -> Tensor:
    return ops.cast(rotary.rotate_half(x), "float32", f"{name}: swapped halves in float32")


def _router(context: Context, gate: BoundModule, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Run Ernie4_5_MoeTopKRouter without autocast: softmax in float32, and a choice with an untrained correction."""
    with autocast.region(context.tape, None):
        router_logits = routers.logits_in_float32(context, gate, hidden_states)
        scores = ops.softmax(router_logits, "float32")
        statics = f"{gate.name}.moe_statics"
        corrected = leave(statics, ops.shift(enter(statics, scores), "scores, corrected"))
        _best, selected_experts = indexing.top_k(corrected, context.config["num_experts_per_tok"], "best")
        del corrected
        weights = indexing.gather(scores, selected_experts, "weights")
        del scores
        total = ops.sum_over(weights, (*weights.shape[:1], 1), "sum of a row")
        total = indexing.clamp(total, "sum of a row, clamped", two_bounds=False)
        weights = reductions.divide(weights, total, "weights, normalized")
        del total
    return ops.cast(weights, hidden_states.dtype, "weights"), selected_experts, router_logits


@dataclass(frozen=True, slots=True, kw_only=True)
class _WithSharedExperts(Mixture):
    """A mixture with an MLP of shared experts, if there are any, which runs first."""

    def mixed(self, context: Context, modules: LayerModules, x: Tensor) -> Tensor:
        """Run the shared experts, the router and the experts. The shape stays (batch, sequence, hidden_size)."""
        hidden_states = self.flattened(context, x)
        shared = f"{_SHARED}.gate_proj" in modules
        shared_output = mlp.called(context, modules, hidden_states, _SHARED) if shared else None
        weights, indices, *_alive = self.chosen(context, modules, hidden_states)
        output = experts(context, modules[self.experts], hidden_states, indices, weights, self.activate)
        context.set_scope(f"{modules.prefix}mlp: ")
        if shared_output is not None:
            output = ops.add(output, shared_output, "experts + shared experts")
        return ops.view(output, x.shape)


_ATTENTION = SelfAttention(rotate=_rotate)
_TABLES = partial(rotary_tables, dtype="float32")

ERNIE4_5 = DecoderForward(tables=_TABLES, layer=SequentialLayer(attention=_ATTENTION))

ERNIE4_5_MOE = DecoderForward(
    tables=_TABLES,
    layer=SequentialLayer(attention=_ATTENTION, mlp=in_sparse_layers(_WithSharedExperts(router=_router))),
)
