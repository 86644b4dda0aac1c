"""GLM 4.5 to 4.7 and Solar Open: grouped or latent attention, with DeepSeek V3's experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Check, Field
from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.module import norm
from calculator.common.errors import shown
from calculator.families.blocks import PRE_NORMS, Owned, attention, decoder, gated_mlp, norms
from calculator.families.deepseek.latent import corrected_mixture, latent_attention, latent_fields, routed_experts
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    activation,
    count,
    dropouts,
    flag,
    head_dim,
    kv_heads,
    layers,
    number,
    padding,
    positions,
    size,
    tie,
)
from calculator.families.glm4_moe import forward
from calculator.families.rope import rope

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from calculator.architecture.config import Config, Entry

_MLP_TYPES = ("dense", "sparse")


def _one_dense(config: Config) -> tuple[str, ...]:
    return tuple(_MLP_TYPES[bool(index)] for index in range(config["num_hidden_layers"]))


def _wrong_types(config: Config) -> str | None:
    types, expected = config["mlp_layer_types"], config["num_hidden_layers"]
    if len(types) != expected:
        return f"lists {len(types):,} layers, but num_hidden_layers is {shown(expected)}"
    unknown = next((kind for kind in types if kind not in _MLP_TYPES), None)
    return None if unknown is None else f"{shown(unknown)} is none of {', '.join(_MLP_TYPES)}"


def _grouped(default_head: int | None) -> tuple[Entry, ...]:
    return (
        size("vocab_size"),
        size("hidden_size"),
        layers(),
        size("num_attention_heads"),
        *kv_heads(8, nullable=False),
        head_dim(default_head, nullable=False),
        flag("use_cache", True),
        positions(131_072),
        activation(),
        number("rms_norm_eps", 1e-5),
        flag("attention_bias", False),
        *dropouts("attention_dropout"),
        size("moe_intermediate_size"),
        *routed_experts(8, groups=(1, 1)),
        tie(default=False),
        *padding(),
    )


def _parts(config: Config, attend: Callable[[Config], Owned], sparse: Sequence[bool]) -> Parts:
    def layer(kind: LayerKind) -> Owned:
        mlp = corrected_mixture(config) if kind.mlp == "sparse" else gated_mlp(config)
        return (*attend(config), *mlp, *norms(config, *PRE_NORMS))

    return decoder(config, [LayerKind(mlp="sparse" if is_sparse else "dense") for is_sparse in sparse], layer)


def _attention(config: Config) -> Owned:
    heads = attention(config, qkv_bias=config["attention_bias"])
    if not config.get("use_qk_norm", False):
        return heads
    return (*heads, norm("self_attn.q_norm", config["head_dim"]), norm("self_attn.k_norm", config["head_dim"]))


def _glm4_moe(config: Config) -> Parts:
    dense = config["first_k_dense_replace"]
    return _parts(config, _attention, [index >= dense for index in range(config["num_hidden_layers"])])


def _glm4_moe_lite(config: Config) -> Parts:
    return _parts(config, latent_attention, [kind == "sparse" for kind in config["mlp_layer_types"]])


def _solar_open(config: Config) -> Parts:
    return _parts(config, _attention, [True] * int(config["num_hidden_layers"]))


FAMILIES = (
    Family(
        model_type="glm4_moe",
        entries=(
            *_grouped(None),
            size("intermediate_size"),
            *rope(share=0.5, always=True),
            count("first_k_dense_replace", 1),
            flag("use_qk_norm", False),
        ),
        parts=_glm4_moe,
        forward=forward.GLM4_MOE,
    ),
    Family(
        model_type="glm4_moe_lite",
        entries=(
            *latent_fields(query_rank=768, nope=192, value=256, eps=1e-5, partial=True, rotated_aliases=("head_dim",)),
            size("intermediate_size"),
            size("moe_intermediate_size"),
            *kv_heads(20),
            positions(202_752),
            *routed_experts(4, groups=(1, 1)),
            flag("rope_interleave", True),
            Field(name="mlp_layer_types", type="names", default=None, nullable=True, null=_one_dense),
            Check(name="mlp_layer_types", problem=_wrong_types),
            tie(default=False),
        ),
        parts=_glm4_moe_lite,
        forward=forward.GLM4_MOE_LITE,
    ),
    Family(
        model_type="solar_open",
        entries=(*_grouped(128), *rope(theta=1e6, always=True)),
        parts=_solar_open,
        forward=forward.SOLAR_OPEN,
    ),
)
