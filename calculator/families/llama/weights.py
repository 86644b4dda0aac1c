"""Llama, Mistral and families that are computed as Llama: RMSNorm, rotary embeddings, grouped queries, a gated MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Check, Computed
from calculator.architecture.layer_kind import LayerKind
from calculator.common.errors import shown
from calculator.families.blocks import PRE_NORMS, Owned, attention, decoder, gated_mlp, norms, uniform_layers
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    DIVISIBLE,
    ONE_HEAD_SIZE,
    activation,
    dropouts,
    flag,
    grouped_sizes,
    layers,
    number,
    padding,
    positions,
    size,
    tie,
    unsupported_flag,
)
from calculator.families.llama import forward
from calculator.families.rope import rope
from calculator.families.windows import attention_type, window

if TYPE_CHECKING:
    from calculator.architecture.config import Config, Entry, Field


def llama_layer(config: Config) -> Owned:
    """Return a layer of Llama."""
    bias = config["attention_bias"]
    return (
        *attention(config, qkv_bias=bias, o_bias=bias),
        *gated_mlp(config, bias=config["mlp_bias"]),
        *norms(config, *PRE_NORMS),
    )


def _llama(config: Config) -> Parts:
    return decoder(config, uniform_layers(config), lambda _kind: llama_layer(config))


def mistral_layer(config: Config) -> Owned:
    """Return a layer of Mistral."""
    return (*attention(config), *gated_mlp(config), *norms(config, *PRE_NORMS))


def _mistral(config: Config) -> Parts:
    kind = LayerKind(attention=attention_type(config))
    return decoder(config, uniform_layers(config, kind), lambda _kind: mistral_layer(config))


#: The fields of MistralConfig.
MISTRAL: tuple[Entry, ...] = (
    *grouped_sizes(kv=8, kv_nullable=False),
    positions(4096 * 32),
    *rope(),
    window(4096),
    activation(),
    number("rms_norm_eps", 1e-6),
    *dropouts("attention_dropout"),
    tie(default=False),
    *padding(),
)


#: The note on a family whose code is not in transformers.
_REMOTE = (
    "{}'s own code is not part of transformers: it is counted as LlamaForCausalLM, whose tensors have the same sizes"
    " together; its projections are fused and named otherwise"
)


def _entries(
    *sizes: Entry,
    longest: int,
    eps: Field,
    theta: float = 10_000.0,
    pad: int | None = None,
    act: Field | None = None,
    bias_names: tuple[str | None, str | None] = (None, None),
) -> tuple[Entry, ...]:
    """Return the fields of LlamaConfig, or of a class that derives from it."""
    attention_bias, mlp_bias = bias_names
    return (
        *sizes,
        DIVISIBLE,
        positions(longest),
        *rope(theta=theta),
        act or activation(),
        eps,
        *dropouts("attention_dropout", nullable=True),
        flag("attention_bias", False, aliases=(attention_bias,) if attention_bias else ()),
        flag("mlp_bias", False, aliases=(mlp_bias,) if mlp_bias else ()),
        tie(default=False),
        *padding(pad),
    )


def _biases_differ(config: Config) -> str | None:
    attention, mlp = config["attention_bias"], config["mlp_bias"]
    return (
        f"{shown(mlp)} is not attention_bias, {shown(attention)}: Llama's code has both or none"
        if attention != mlp
        else None
    )


#: The fields of LlamaConfig.
LLAMA: tuple[Entry, ...] = _entries(*grouped_sizes(), longest=2048, eps=number("rms_norm_eps", 1e-6))

FAMILIES = (
    Family(
        model_type="llama",
        entries=LLAMA,
        parts=_llama,
        forward=forward.LLAMA,
    ),
    Family(
        model_type="exaone",
        folder="llama",
        entries=_entries(
            *grouped_sizes(kv=8, layer_aliases=("num_layers",)),
            longest=4096,
            theta=500_000.0,
            eps=number("rms_norm_eps", 1e-5, aliases=("layer_norm_epsilon",)),
            act=activation(aliases=("activation_function",)),
            pad=0,
        ),
        parts=_llama,
        forward=forward.LLAMA,
    ),
    Family(
        model_type="internlm3",
        folder="llama",
        entries=(
            *_entries(
                *grouped_sizes(kv=2, head=128, head_nullable=True),
                longest=32_768,
                eps=number("rms_norm_eps", 1e-5),
                bias_names=("qkv_bias", "bias"),
                pad=2,
            ),
            Check(name="mlp_bias", problem=_biases_differ),
        ),
        parts=_llama,
        forward=forward.LLAMA,
    ),
    Family(
        model_type="iquestcoder",
        folder="llama",
        entries=(
            *_entries(
                *grouped_sizes(kv=8, head=128, head_nullable=True),
                longest=131_072,
                eps=number("rms_norm_eps", 1e-5),
            ),
            *unsupported_flag("use_sliding_window", "transformers refuses it for this family"),
        ),
        parts=_llama,
        forward=forward.LLAMA,
    ),
    Family(
        model_type="mistral",
        entries=MISTRAL,
        parts=_mistral,
        forward=forward.MISTRAL,
    ),
    Family(
        model_type="internlm2",
        built_as="llama",
        entries=(
            *grouped_sizes(),
            DIVISIBLE,
            positions(32_768),
            *rope(),
            activation(),
            number("rms_norm_eps", 1e-6),
            flag("attention_bias", spelled="bias"),
            Computed(name="attention_dropout", value=lambda _config: 0.0),
            Computed(name="mlp_bias", value=lambda _config: False),
            tie(default=False),
            *padding(2),
        ),
        parts=_llama,
        forward=forward.LLAMA,
        notes=(_REMOTE.format("InternLM2"),),
    ),
    Family(
        model_type="baichuan",
        built_as="llama",
        entries=(
            size("vocab_size"),
            size("hidden_size"),
            size("intermediate_size"),
            layers(),
            size("num_attention_heads"),
            *ONE_HEAD_SIZE,
            flag("use_cache", True),
            positions(4096, aliases=("model_max_length",)),
            *rope(),
            activation(),
            number("rms_norm_eps", 1e-6),
            *(Computed(name=name, value=lambda _config: False) for name in ("attention_bias", "mlp_bias")),
            Computed(name="attention_dropout", value=lambda _config: 0.0),
            tie(default=False),
            *padding(0),
        ),
        parts=_llama,
        forward=forward.LLAMA,
        notes=(_REMOTE.format("Baichuan"),),
    ),
)
