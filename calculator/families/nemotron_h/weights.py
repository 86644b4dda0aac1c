"""Nemotron-H and Nemotron 3: layers of Mamba 2, attention without positions, a plain MLP, or experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Check, Computed, ContradictionError, Field
from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.model import stack
from calculator.architecture.module import Buffer, bare, embedding, linear, norm
from calculator.common.errors import shown
from calculator.families.blocks import Owned, attention, router
from calculator.families.deepseek.latent import LARGE_GROUPS, expert_groups
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    GROUPS,
    MOST_LAYERS,
    activation,
    derived,
    dropouts,
    flag,
    number,
    padding,
    positions,
    size,
    tie,
)
from calculator.families.mamba import WHOLE_GROUPS, WITHOUT_KERNELS, mixer
from calculator.families.nemotron_h import forward

if TYPE_CHECKING:
    from calculator.architecture.config import Config

#: The kinds of layers, with the names of older files.
_KINDS: dict[str, LayerKind] = {
    "linear_attention": LayerKind(attention="linear_attention"),
    "full_attention": LayerKind(rotated=False),
    "mlp": LayerKind(attention="mlp"),
    "moe": LayerKind(attention="mlp", mlp="sparse"),
}
_OLDER = {"mamba": "linear_attention", "attention": "full_attention"}

#: The kinds of layers in a pattern, with one letter per layer.
_LETTERS = dict(zip("M*-E", _KINDS, strict=True))

_DEFAULT = ("linear_attention", "moe", "full_attention", "mlp")


def _layer_types(config: Config) -> tuple[str, ...]:
    pattern = config["hybrid_override_pattern"]
    if pattern is None:
        return _DEFAULT
    unknown = next((kind for kind in pattern if kind not in _LETTERS), None)
    if unknown is not None:
        message = f"{shown(unknown)} is none of {', '.join(_LETTERS)}"
        raise ContradictionError("hybrid_override_pattern", message)
    return tuple(_LETTERS[kind] for kind in pattern)


def _named(config: Config) -> tuple[str, ...]:
    types = tuple(_OLDER.get(kind, kind) for kind in config["layer_types"])
    if not 0 < len(types) <= MOST_LAYERS:
        raise ContradictionError("layer_types", f"lists {len(types):,} layers, not 1 to {MOST_LAYERS:,}")
    unknown = next((type_ for type_ in types if type_ not in _KINDS), None)
    if unknown is not None:
        raise ContradictionError("layer_types", f"{shown(unknown)} is none of {', '.join(_KINDS)}")
    return types


def _as_pattern(config: Config) -> str:
    letters = {name: letter for letter, name in _LETTERS.items()}
    return "".join(letters[kind] for kind in config["layer_types"])


def _too_few(config: Config) -> str | None:
    chosen, among = config["num_experts_per_tok"], config["num_experts"]
    return f"{shown(chosen)} experts per token are more than the {shown(among)} experts" if chosen > among else None


def _mlp(config: Config, width: int, name: str = "mixer") -> Owned:
    hidden, bias = config["hidden_size"], config["mlp_bias"]
    return (
        linear(f"{name}.up_proj", hidden, width, bias=bias),
        linear(f"{name}.down_proj", width, hidden, bias=bias),
    )


def _mixture(config: Config) -> Owned:
    hidden, latent, bias = config["hidden_size"], config["moe_latent_size"], config["mlp_bias"]
    among, inner, width = config["num_experts"], config["moe_intermediate_size"], latent or hidden
    return (
        bare("mixer.experts", "experts", up_proj=(among, inner, width), down_proj=(among, width, inner)),
        router(config, "mixer.gate", "float32"),
        Buffer(name="mixer.gate.e_score_correction_bias", shape=(among,), dtype="float32", persistent=True),
        *_mlp(config, config["moe_shared_expert_intermediate_size"], "mixer.shared_experts"),
        *((linear("mixer.fc1_latent_proj", hidden, latent, bias=bias),) if latent else ()),
        *((linear("mixer.fc2_latent_proj", latent, hidden, bias=bias),) if latent else ()),
    )


def _nemotron_h(config: Config) -> Parts:
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]

    def layer(kind: LayerKind) -> Owned:
        if kind.attention == "linear_attention":
            mixing = mixer(config, "mixer")
        elif kind.attention == "mlp":
            mixing = _mixture(config) if kind.mlp == "sparse" else _mlp(config, config["intermediate_size"])
        else:
            mixing = attention(config, name="mixer")
        return (norm("norm", hidden), *mixing)

    return (
        embedding("model.embeddings", vocabulary, hidden),
        stack("model.layers", [_KINDS[name] for name in config["layer_types"]], layer),
        norm("model.norm_f", hidden),
        linear("lm_head", hidden, vocabulary),
    )


FAMILIES = (
    Family(
        model_type="nemotron_h",
        entries=(
            size("vocab_size"),
            size("hidden_size"),
            Field(name="hybrid_override_pattern", type="text", default=None, nullable=True),
            Field(
                name="layer_types",
                type="names",
                default=None,
                spelled="layers_block_type",
                aliases=("layer_types",),
                nullable=True,
                null=_layer_types,
            ),
            Computed(name="layer_types", value=_named),
            Computed(name="hybrid_override_pattern", value=_as_pattern),
            derived("num_hidden_layers", lambda config: len(config["layer_types"])),
            size("num_attention_heads"),
            size("num_key_value_heads", 8),
            GROUPS,
            size("head_dim", 128),
            size("intermediate_size", 21_504),
            activation("relu2", spelled="mlp_hidden_act"),
            activation("silu", name="mamba_hidden_act"),
            flag("use_cache", True),
            flag("mlp_bias", False),
            *dropouts("attention_dropout"),
            positions(4096),
            number("layer_norm_epsilon", 1e-5),
            size("mamba_n_heads", 128, spelled="mamba_num_heads"),
            size("mamba_d_head", 64, spelled="mamba_head_dim"),
            size("mamba_n_groups", 8, spelled="n_groups", aliases=("mamba_n_groups",)),
            WHOLE_GROUPS,
            size("mamba_d_state", 128, spelled="ssm_state_size"),
            size("mamba_d_conv", 4, spelled="conv_kernel", aliases=("mamba_d_conv",)),
            size("mamba_chunk_size", 128, spelled="chunk_size", aliases=("mamba_chunk_size",)),
            flag("mamba_conv_bias", True, spelled="use_conv_bias", aliases=("mamba_conv_bias",)),
            flag("mamba_proj_bias", False, spelled="use_bias"),
            derived("mamba_inner", lambda config: config["mamba_n_heads"] * config["mamba_d_head"]),
            size("num_experts", 8, spelled="n_routed_experts", aliases=("num_local_experts",)),
            size("num_experts_per_tok", 2),
            Check(name="num_experts_per_tok", problem=_too_few),
            flag("output_router_logits", False),
            number("router_aux_loss_coef", None, nullable=True),
            *expert_groups(1, 1, nullable=False),
            LARGE_GROUPS,
            flag("norm_topk_prob", True),
            size("moe_intermediate_size", 7688),
            size("moe_shared_expert_intermediate_size", 7688),
            size("moe_latent_size", None, nullable=True),
            tie(default=False),
            *padding(0),
        ),
        parts=_nemotron_h,
        forward=forward.NEMOTRON_H,
        tied={},
        notes=(WITHOUT_KERNELS,),
    ),
)
