"""Fields and checks that many families share, under the names and with the types of transformers' config classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.config import REQUIRED, Check, Computed, Config, ContradictionError, Field, shown

if TYPE_CHECKING:
    from collections.abc import Callable

#: Activation functions that have no parameters of their own. Source: transformers/activations.py, ACT2CLS.
ACTIVATIONS = (
    "gelu", "gelu_10", "gelu_fast", "gelu_new", "gelu_python", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate",
    "hardswish", "laplace", "leaky_relu", "linear", "mish", "quick_gelu", "relu", "relu2", "relu6", "sigmoid", "silu",
    "sqrtsoftplus", "swish", "tanh",
)  # fmt: skip

#: More layers than any model has.
MOST_LAYERS = 4096


def size(name: str, default: Any = REQUIRED, **more: Any) -> Field:
    """A width, a number of heads, a vocabulary: a whole number above 0."""
    return Field(name=name, type="size", default=default, **more)


def count(name: str, default: Any = REQUIRED, **more: Any) -> Field:
    """A whole number from 0."""
    return Field(name=name, type="count", default=default, **more)


def number(name: str, default: Any = REQUIRED, **more: Any) -> Field:
    """A factor, an epsilon."""
    return Field(name=name, type="number", default=default, **more)


def flag(name: str, default: Any = REQUIRED, **more: Any) -> Field:
    """A switch."""
    return Field(name=name, type="flag", default=default, **more)


def dropout(name: str, default: Any = 0.0, **more: Any) -> Field:
    """A probability of dropping an element."""
    return Field(name=name, type="number", default=default, minimum=0, maximum=1, **more)


def layers(**more: Any) -> Field:
    """The number of layers."""
    return size("num_hidden_layers", maximum=MOST_LAYERS, **more)


def positions(default: Any, **more: Any) -> Field:
    """The longest input that position embeddings cover, in tokens."""
    return size("max_position_embeddings", default, maximum=1 << 31, **more)


def activation(default: Any = "silu", **more: Any) -> Field:
    """The MLP's activation function."""
    return Field(name="hidden_act", type="text", default=default, choices=ACTIVATIONS, **more)


def heads_for(name: str = "num_attention_heads") -> Callable[[Config], Any]:
    """What a null `num_key_value_heads` stands for: as many as there are query heads."""
    return lambda config: config[name]


def width_of_a_head(config: Config) -> Any:
    """What a null `head_dim` stands for: an equal share of the hidden size."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    if hidden % heads:
        raise ContradictionError(
            "hidden_size", f"{shown(hidden)} is not divisible by num_attention_heads {shown(heads)}; give head_dim"
        )
    return int(hidden) // int(heads)


def padding(default: Any = None) -> tuple[Field, Check]:
    """The padding token, which must have a row in the embedding."""

    def beyond(config: Config) -> str | None:
        token, rows = config["pad_token_id"], config["vocab_size"]
        if token is None or -rows <= token < rows:
            return None
        return f"{shown(token)} has no row in a vocabulary of {shown(rows)} (vocab_size)"

    told = count("pad_token_id", default, nullable=True, minimum=-(1 << 31), maximum=1 << 31)
    return told, Check(name="pad_token_id", problem=beyond)


def _ungroupable(config: Config) -> str | None:
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    if groups > heads:
        return f"{shown(groups)} key/value heads are more than the {shown(heads)} of num_attention_heads"
    if heads % groups:
        return f"num_attention_heads {shown(heads)} is not divisible by {shown(groups)} key/value heads"
    return None


GROUPS = Check(name="num_key_value_heads", problem=_ungroupable)


def divisible(name: str, by: str) -> Check:
    """A size that must be a multiple of another."""

    def remainder(config: Config) -> str | None:
        whole, part = config[name], config[by]
        return f"{shown(whole)} is not divisible by {by} {shown(part)}" if whole % part else None

    return Check(name=name, problem=remainder)


#: What every layer does, where the config class says it layer by layer.
ATTENTION_TYPES = ("full_attention", "sliding_attention")


def layer_types(rule: Callable[[Config, int], bool], **more: Any) -> tuple[Field, Check]:
    """The attention type of each layer; `rule` says which layers slide where the file leaves them out."""

    def usual(config: Config) -> tuple[str, ...]:
        return tuple(ATTENTION_TYPES[rule(config, index)] for index in range(config["num_hidden_layers"]))

    told = Field(name="layer_types", type="names", default=None, nullable=True, null=usual, **more)
    return told, Check(name="layer_types", problem=_wrong_layer_types)


def _wrong_layer_types(config: Config) -> str | None:
    types, expected = config["layer_types"], config["num_hidden_layers"]
    if len(types) != expected:
        return f"lists {len(types):,} layers, but num_hidden_layers is {shown(expected)}"
    unknown = next((kind for kind in types if kind not in ATTENTION_TYPES), None)
    return f"{shown(unknown)} is none of {', '.join(ATTENTION_TYPES)}" if unknown else None


def window_if_used(config: Config) -> Any:
    """The sliding window where `use_sliding_window` is on, else None."""
    return config["sliding_window"] if config["use_sliding_window"] else None


USED_WINDOW = Computed(name="sliding_window", value=window_if_used)


def window(default: Any, **more: Any) -> Field:
    """How many tokens a sliding attention looks back."""
    return size("sliding_window", default, nullable=True, maximum=1 << 31, **more)
