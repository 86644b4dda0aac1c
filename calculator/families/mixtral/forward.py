"""Decoders whose MLP is a mixture of experts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from calculator.engine import in_place
from calculator.engine import operations as ops
from calculator.families.granite import forward as granite
from calculator.layers import masks, mlp, norms, routers
from calculator.layers.decoder_forward import DecoderForward
from calculator.layers.decoder_layer import Sequential
from calculator.layers.experts import experts, gated
from calculator.layers.self_attention import SelfAttention, heads, normed_at_once

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context, LayerModules
    from calculator.layers.experts import Gate
    from calculator.layers.mlp import Sublayer
    from calculator.layers.routers import Router


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """A router and the experts that it chooses from: an MLP.

    `gate` and `experts` name their modules; `jitter`, what in the config says that the input is multiplied by noise;
    `jitters_twice`, that the router does so again, to a view of it.
    """

    router: Router = routers.softmax_first
    gate: str = "mlp.gate"
    experts: str = "mlp.experts"
    jitter: str | None = None
    jitters_twice: bool = False
    activate: Gate = gated

    def __call__(self, context: Context, modules: LayerModules, x: Tensor) -> Tensor:
        """(batch, sequence, hidden_size) to the same."""
        hidden_states = self._input(context, x)
        weights, indices, *_beside = self._chosen(context, modules, hidden_states)
        hidden_states = experts(context, modules[self.experts], hidden_states, indices, weights, self.activate)
        return ops.view(hidden_states, x.shape)

    def _chosen(self, context: Context, modules: LayerModules, hidden_states: Tensor) -> tuple[Tensor, ...]:
        """What the router says: weights, indices, and its logits, which may be asked for."""
        chosen = self.router(context, modules[self.gate], hidden_states)
        context.record(chosen[2])
        return chosen

    def _input(self, context: Context, x: Tensor) -> Tensor:
        """(batch, sequence, hidden_size) to (tokens, hidden_size)."""
        jitters = bool(self.jitter and context.config[self.jitter]) and context.tape.trains
        if jitters:
            x = in_place.jitter_(x)
        hidden_states = ops.view(x, (x.shape[0] * x.shape[1], x.shape[2]))
        return in_place.jitter_view_(hidden_states) if jitters and self.jitters_twice else hidden_states


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedFirst(Mixture):
    """A mixture beside one expert that sees every token, whose own gate is a number for each (Qwen 2)."""

    shared: str = "mlp.shared_expert"

    def __call__(self, context: Context, modules: LayerModules, x: Tensor) -> Tensor:
        """(batch, sequence, hidden_size) to the same."""
        hidden_states = self._input(context, x)
        shared_expert_output = mlp.gated(context, modules, hidden_states, self.shared)
        weights, indices, *_beside = self._chosen(context, modules, hidden_states)
        expert_output = experts(context, modules[self.experts], hidden_states, indices, weights, self.activate)
        gate = modules[f"{self.shared}_gate"](hidden_states)
        context.scoped(f"{modules.prefix}mlp: ")
        gate = ops.unary(gate, "shared expert's gate", saves="result")
        shared_expert_output = ops.mul(gate, shared_expert_output, "shared expert, gated")
        expert_output = ops.add(expert_output, shared_expert_output, "experts + shared expert")
        return ops.view(expert_output, x.shape)


def where_sparse(mixture: Mixture) -> Sublayer:
    """A mixture in the layers that have a router, a gated MLP in the others."""

    def run(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
        sparse = mixture.gate in modules
        return mixture(context, modules, x) if sparse else mlp.gated(context, modules, x)

    return run


def _normed_and_clipped(context: Context, modules: LayerModules, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Three projections, queries and keys normed whole, all clamped in place where the config says so (OLMoE)."""
    query_states = norms.rms_norm(modules["self_attn.q_norm"], modules["self_attn.q_proj"](hidden_states))
    key_states = norms.rms_norm(modules["self_attn.k_norm"], modules["self_attn.k_proj"](hidden_states))
    states = [query_states, key_states, modules["self_attn.v_proj"](hidden_states)]
    del query_states, key_states
    if context.config["clip_qkv"] is not None:
        context.scoped(f"{modules.prefix}self_attn: ")
        states = [in_place.clamp_(x, "before clamping") for x in states]
    queries, keys = context.config["num_attention_heads"], context.config["num_key_value_heads"]
    return tuple(heads(context, x, count) for x, count in zip(states, (queries, keys, keys), strict=True))


_QWEN = Mixture(router=routers.cast_back)
_GRANITE = Mixture(router=routers.softmax_last, gate="block_sparse_moe.router", experts="block_sparse_moe.experts")

PROGRAMS = {
    "granitemoe": replace(
        granite.PROGRAMS["granite"],
        layer=Sequential(mlp=_GRANITE, scaled=granite.multiplied),
        router_loss=True,
        source="transformers/models/granitemoe/modeling_granitemoe.py",
    ),
    "mixtral": DecoderForward(
        layer=Sequential(mlp=Mixture(jitter="router_jitter_noise")),
        router_loss=True,
        source="transformers/models/mixtral/modeling_mixtral.py",
    ),
    "olmoe": DecoderForward(
        layer=Sequential(attention=SelfAttention(project=_normed_and_clipped), mlp=_QWEN),
        router_loss=True,
        source="transformers/models/olmoe/modeling_olmoe.py",
    ),
    "qwen2_moe": DecoderForward(
        layer=Sequential(mlp=where_sparse(SharedFirst(router=routers.cast_back))),
        masks=(masks.FULL, masks.SLIDING),
        router_loss=True,
        source="transformers/models/qwen2_moe/modeling_qwen2_moe.py",
    ),
    "qwen3_moe": DecoderForward(
        layer=Sequential(attention=SelfAttention(project=normed_at_once(norms.rms_norm)), mlp=where_sparse(_QWEN)),
        router_loss=True,
        source="transformers/models/qwen3_moe/modeling_qwen3_moe.py",
    ),
}
