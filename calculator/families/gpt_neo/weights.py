"""GPT-Neo: GPT-2 with separate projections, and local attention in some layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.architecture.config import Check, Computed, ContradictionError, Field
from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.module import Buffer, linear
from calculator.common.errors import shown
from calculator.families.blocks import Owned, norms, plain_mlp
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    MOST_LAYERS,
    ONE_HEAD_SIZE,
    activation,
    dropouts,
    flag,
    layers,
    number,
    padding,
    positions,
    size,
    tie,
)
from calculator.families.gpt2.weights import outer
from calculator.families.gpt_neo import forward

if TYPE_CHECKING:
    from calculator.architecture.config import Config


def _attention_layers(config: Config) -> tuple[str, ...]:
    """Expand `[[["global", "local"], 6]]` to a global and a local layer, repeated six times."""
    listed: list[str] = []
    for group in config["attention_types"]:
        kinds, times = _group(group)
        listed += kinds * times
        if len(listed) > MOST_LAYERS:
            raise ContradictionError("attention_types", f"lists more than {MOST_LAYERS:,} layers")
    return tuple(listed)


def _group(group: Any) -> tuple[list[str], int]:
    kinds, times = group if isinstance(group, list | tuple) and len(group) == 2 else ((), 0)
    are_kinds = isinstance(kinds, list | tuple) and all(kind in ("global", "local") for kind in kinds)
    counted = isinstance(times, int) and not isinstance(times, bool)
    if not are_kinds or not counted or not 0 < times * len(kinds) <= MOST_LAYERS:
        message = f'must list pairs such as [["global", "local"], 12], not {shown(group)}'
        raise ContradictionError("attention_types", message)
    return list(kinds), times


def _wrong_count(config: Config) -> str | None:
    listed, expected = len(config["attention_layers"]), config["num_hidden_layers"]
    return None if listed == expected else f"lists {listed:,} layers, but num_layers is {shown(expected)}"


def _gpt_neo(config: Config) -> Parts:
    hidden, longest = config["hidden_size"], config["max_position_embeddings"]

    def layer(_kind: LayerKind) -> Owned:
        return (
            *norms(config, "ln_1", bias=True),
            Buffer(name="attn.attention.bias", shape=(1, 1, longest, longest), dtype="bool"),
            *(linear(f"attn.attention.{name}_proj", hidden, hidden) for name in ("k", "v", "q")),
            linear("attn.attention.out_proj", hidden, hidden, bias=True),
            *norms(config, "ln_2", bias=True),
            *plain_mlp(config, "mlp.c_fc", "mlp.c_proj"),
        )

    kinds = tuple(LayerKind(local_mask=kind == "local") for kind in config["attention_layers"])
    return outer(config, kinds, layer)


FAMILIES = (
    Family(
        model_type="gpt_neo",
        entries=(
            size("vocab_size"),
            size("hidden_size"),
            layers(spelled="num_layers", aliases=("num_hidden_layers",)),
            size("num_attention_heads", spelled="num_heads", aliases=("num_attention_heads",)),
            *ONE_HEAD_SIZE,
            size("intermediate_size", None, nullable=True, null=lambda config: 4 * config["hidden_size"]),
            flag("use_cache", True),
            positions(2048),
            Field(
                name="attention_types",
                type="items",
                default=None,
                nullable=True,
                null=lambda _config: ((("global", "local"), 12),),
            ),
            Computed(name="attention_layers", value=_attention_layers),
            Check(name="attention_types", problem=_wrong_count),
            size("window_size", 256),
            activation("gelu_new", spelled="activation_function"),
            number("layer_norm_epsilon", 1e-5),
            *dropouts("resid_dropout", "embed_dropout", "attention_dropout"),
            tie(default=True),
            *padding(),
        ),
        parts=_gpt_neo,
        forward=forward.GPT_NEO,
        tied={"lm_head.weight": "transformer.wte.weight"},
    ),
)
