"""Ministral, CWM and Ministral 3: Mistral's layer, with a window in some layers or with scaled queries."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from calculator.architecture.config import Check
from calculator.architecture.layer_kind import LayerKind
from calculator.families.blocks import (
    PRE_NORMS,
    Owned,
    attention,
    decoder,
    gated_mlp,
    kinds_by_attention,
    norms,
    uniform_layers,
)
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    DIVISIBLE,
    activation,
    dropouts,
    flag,
    grouped_sizes,
    number,
    padding,
    positions,
    size,
    tie,
)
from calculator.families.llama.weights import mistral_layer
from calculator.families.ministral import forward
from calculator.families.rope import rope
from calculator.families.windows import attention_type, layer_types, window

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calculator.architecture.config import Config, Entry

#: The rotary parameters that Ministral3Attention reads, without a default.
_QUERY_SCALE = ("llama_4_scaling_beta", "original_max_position_embeddings")

#: The rotary parameters of a file that sets none.
#: Source: configuration_cwm.py and configuration_ministral3.py.
_CWM_ROPE: Mapping[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 1e6,
    "factor": 16.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
}
_MINISTRAL3_ROPE: Mapping[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16_384,
    "llama_4_scaling_beta": 0.1,
}


def _has_window(config: Config, _index: int) -> bool:
    return config["sliding_window"] is not None


def _all_but_every_fourth(_config: Config, index: int) -> bool:
    return index % 4 != 0


def _without_query_scale(config: Config) -> str | None:
    missing = [key for key in _QUERY_SCALE if key not in config["rope_parameters"]]
    return f"needs {' and '.join(missing)}, which scale this family's queries" if missing else None


#: The fields of Ministral3Config.
MINISTRAL3: tuple[Entry, ...] = (
    *grouped_sizes(kv=8, kv_nullable=False, head=128),
    positions(262_144),
    *rope(otherwise=_MINISTRAL3_ROPE),
    Check(name="rope_parameters", problem=_without_query_scale),
    window(None),
    activation(),
    number("rms_norm_eps", 1e-5),
    *dropouts("attention_dropout"),
    tie(default=False),
    *padding(11),
)


def _ministral(config: Config) -> Parts:
    return decoder(config, kinds_by_attention(config), lambda _kind: mistral_layer(config))


def _cwm(config: Config) -> Parts:
    def layer(_kind: LayerKind) -> Owned:
        return (*attention(config), *gated_mlp(config, bias=config["mlp_bias"]), *norms(config, *PRE_NORMS))

    return decoder(config, kinds_by_attention(config), layer)


def _ministral3(config: Config) -> Parts:
    return decoder(
        config, uniform_layers(config, LayerKind(attention=attention_type(config))), lambda _kind: mistral_layer(config)
    )


FAMILIES = (
    Family(
        model_type="ministral",
        entries=(
            *(
                grouped_size
                for grouped_size in grouped_sizes(kv=8, kv_nullable=False)
                if grouped_size.name != "head_dim"
            ),
            size("head_dim"),
            positions(4096 * 32),
            *rope(),
            window(4096),
            *layer_types(_has_window),
            activation(),
            number("rms_norm_eps", 1e-6),
            *dropouts("attention_dropout"),
            tie(default=False),
            *padding(),
        ),
        parts=_ministral,
        forward=forward.MINISTRAL,
    ),
    Family(
        model_type="cwm",
        entries=(
            *grouped_sizes(kv=8, kv_nullable=False, head=128),
            DIVISIBLE,
            positions(131_072),
            *rope(theta=1e6, otherwise=_CWM_ROPE),
            replace(window(8192), nullable=False),
            *layer_types(_all_but_every_fourth),
            activation(),
            number("rms_norm_eps", 1e-5),
            *dropouts("attention_dropout"),
            flag("mlp_bias", False),
            tie(default=False),
            *padding(),
        ),
        parts=_cwm,
        forward=forward.MINISTRAL,
    ),
    Family(
        model_type="ministral3",
        entries=MINISTRAL3,
        parts=_ministral3,
        forward=forward.MINISTRAL3,
    ),
)
