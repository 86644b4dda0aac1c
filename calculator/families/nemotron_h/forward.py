"""Nemotron-H and Nemotron 3: layers of Mamba 2, attention without positions, a plain MLP, or experts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.module_calls import begin, enter, leave
from calculator.layers import mlp, norms, routers
from calculator.layers.decoder_forward import DecoderForward, embed, final
from calculator.layers.experts import experts, ungated
from calculator.layers.mamba import Mamba2
from calculator.layers.mixture import Mixture
from calculator.layers.self_attention import SelfAttention, split_heads

if TYPE_CHECKING:
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


def _project(context: Context, modules: LayerModules, hidden_states: Tensor) -> tuple[Tensor, ...]:
    queries, groups = context.config["num_attention_heads"], context.config["num_key_value_heads"]
    return tuple(
        split_heads(context, modules[f"mixer.{name}_proj"](hidden_states), count)
        for name, count in (("q", queries), ("k", groups), ("v", groups))
    )


_attend = SelfAttention(project=_project, name="mixer", output="mixer.o_proj")
_mamba = Mamba2(name="mixer", act="mamba_hidden_act")
_mlp = mlp.plain("mixer.up_proj", "mixer.down_proj")
_shared = mlp.plain("mixer.shared_experts.up_proj", "mixer.shared_experts.down_proj")
_MIXTURE = Mixture(router=routers.sigmoid_with_correction, gate="mixer.gate")


def _experts(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
    """Run NemotronHMoE: experts, of a latent size if the config sets one, and the shared experts."""
    hidden_states = _MIXTURE.flattened(context, x)
    weights, indices, *_alive = _MIXTURE.chosen(context, modules, hidden_states)
    if "mixer.fc1_latent_proj" in modules:
        hidden_states = modules["mixer.fc1_latent_proj"](hidden_states)
    hidden_states = experts(context, modules["mixer.experts"], hidden_states, indices, weights, ungated)
    if "mixer.fc2_latent_proj" in modules:
        hidden_states = modules["mixer.fc2_latent_proj"](hidden_states)
    hidden_states = ops.view(hidden_states, x.shape)
    shared = _shared(context, modules, x)
    context.set_scope(f"{modules.prefix}mixer: ")
    return ops.add(hidden_states, shared, "experts + shared experts")


def _mix(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    kind, path = modules.kind, f"{modules.prefix}mixer"
    if kind.attention == "full_attention":
        begin(hidden_states.tape, path)
        return leave(path, _attend(context, modules, hidden_states))
    feed_forward = _experts if kind.mlp == "sparse" else _mlp
    run = feed_forward if kind.attention == "mlp" else _mamba
    return leave(path, run(context, modules, enter(path, hidden_states)))


def _layer(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Run NemotronHBlock: a norm and one of the mixers."""
    residual, norm = hidden_states, modules["norm"]
    hidden_states = ops.cast(hidden_states, norm.own["weight"].dtype, "input in the norm's dtype")
    hidden_states = norms.float32_rms_norm(norm, hidden_states)
    hidden_states = _mix(context, modules, hidden_states)
    return ops.add(residual, hidden_states, "residual")


def _positions(context: Context, hidden_states: Tensor, dtype: DType | None = None) -> tuple[Tensor, ...]:  # noqa: ARG001  the signature of such hooks
    """Return the positions. Every layer receives them, but none reads them."""
    context.set_scope("model.")
    return (context.position_ids(hidden_states.shape[1]),)


def _logits(context: Context, logits: Tensor) -> Tensor:
    context.set_scope("logits: ")
    return ops.cast(logits, "float32", "in float32")


NEMOTRON_H = DecoderForward(
    embeddings=partial(embed, name="model.embeddings"),
    layer=_layer,
    tables=_positions,
    final_norm=final(norms.float32_rms_norm, "model.norm_f"),
    masks=("full_attention", "linear_attention"),
    logits=_logits,
    caches_if_checkpointed=True,
)
