"""SmolLM 3: Llama's block, without rotary embeddings in some layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.architecture.config import Check, Field
from calculator.architecture.layer_kind import LayerKind
from calculator.common.errors import shown
from calculator.families.blocks import PRE_NORMS, Owned, attention, decoder, gated_mlp, norms
from calculator.families.family import Family, Parts
from calculator.families.fields import activation, dropouts, flag, grouped_sizes, number, padding, positions, size, tie
from calculator.families.rope import rope
from calculator.families.smollm3 import forward
from calculator.families.windows import layer_types, window

if TYPE_CHECKING:
    from calculator.architecture.config import Config


def _usual_rope_layers(config: Config) -> tuple[int, ...]:
    interval = int(config["no_rope_layer_interval"])
    return tuple(int((index + 1) % interval != 0) for index in range(config["num_hidden_layers"]))


def _wrong_count(config: Config) -> str | None:
    listed, expected = len(config["no_rope_layers"]), config["num_hidden_layers"]
    return None if listed == expected else f"lists {listed:,} layers, but num_hidden_layers is {shown(expected)}"


def _slides(config: Config, index: int) -> Any:
    windowed = config["use_sliding_window"] and config["sliding_window"] is not None
    return windowed and not config["no_rope_layers"][index]


def _smollm3(config: Config) -> Parts:
    def layer(_kind: LayerKind) -> Owned:
        bias = config["attention_bias"]
        return (
            *attention(config, qkv_bias=bias, o_bias=bias),
            *gated_mlp(config, bias=config["mlp_bias"]),
            *norms(config, *PRE_NORMS),
        )

    per_layer = zip(config["layer_types"], config["no_rope_layers"], strict=True)
    kinds = [LayerKind(attention=attention, rotated=bool(rotated)) for attention, rotated in per_layer]
    return decoder(config, kinds, layer)


FAMILIES = (
    Family(
        model_type="smollm3",
        entries=(
            *grouped_sizes(kv=4, head_nullable=False),
            positions(32_768),
            *rope(theta=2e6),
            flag("use_sliding_window", False),
            window(None),
            size("no_rope_layer_interval", 4),
            Field(name="no_rope_layers", type="indices", default=None, nullable=True, null=_usual_rope_layers),
            Check(name="no_rope_layers", problem=_wrong_count),
            *layer_types(_slides),
            activation(),
            number("rms_norm_eps", 1e-6),
            *dropouts("attention_dropout"),
            flag("attention_bias", False),
            flag("mlp_bias", False),
            tie(default=True),
            *padding(128_004),
        ),
        parts=_smollm3,
        forward=forward.SMOLLM3,
    ),
)
