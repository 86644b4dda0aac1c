"""Fields and checks that families share. Names and types are those of transformers' config classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from calculator.architecture.config import REQUIRED, Check, Computed, Config, ContradictionError, Entry, Field
from calculator.architecture.dimension import Dim
from calculator.common.errors import shown

if TYPE_CHECKING:
    from collections.abc import Callable

#: The activation functions without parameters.
#: Source: transformers/activations.py, ACT2CLS.
ACTIVATIONS = (
    "gelu", "gelu_10", "gelu_fast", "gelu_new", "gelu_python", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate",
    "hardswish", "laplace", "leaky_relu", "linear", "mish", "quick_gelu", "relu", "relu2", "relu6", "sigmoid", "silu",
    "sqrtsoftplus", "swish", "tanh",
)  # fmt: skip

#: A number of layers that no model exceeds.
MOST_LAYERS = 4096

#: A number of tokens that no model exceeds.
MOST_TOKENS = 1 << 31


def size(name: str, default: Any = REQUIRED, **more: Any) -> Field:
    """Declare a size, such as a width or a number of heads: an integer above 0."""
    return Field(name=name, type="size", default=default, **more)


def count(name: str, default: Any = REQUIRED, **more: Any) -> Field:
    """Declare an integer from 0."""
    return Field(name=name, type="count", default=default, **more)


def number(name: str, default: Any = REQUIRED, **more: Any) -> Field:
    """Declare a number, such as a factor or an epsilon."""
    return Field(name=name, type="number", default=default, **more)


def flag(name: str, default: Any = REQUIRED, **more: Any) -> Field:
    """Declare a boolean."""
    return Field(name=name, type="flag", default=default, **more)


def unsupported_flag(name: str, reason: str) -> tuple[Field, Check]:
    """Declare a boolean that is only supported if it is false."""
    problem = Check(name=name, problem=lambda config: f"must be false: {reason}" if config[name] else None)
    return flag(name, False), problem


def dropouts(*names: str, default: float = 0.0, **more: Any) -> tuple[Field, ...]:
    """Declare dropout probabilities."""
    return tuple(Field(name=name, type="number", default=default, minimum=0, maximum=1, **more) for name in names)


def layers(**more: Any) -> Field:
    """Declare the number of layers."""
    return size("num_hidden_layers", maximum=MOST_LAYERS, **more)


def positions(default: Any, **more: Any) -> Field:
    """Declare the longest input that position embeddings cover, in tokens."""
    return size("max_position_embeddings", default, maximum=MOST_TOKENS, **more)


def activation(default: Any = "silu", *, name: str = "hidden_act", **more: Any) -> Field:
    """Declare the activation function of the MLP, or another one with that name."""
    return Field(name=name, type="text", default=default, choices=ACTIVATIONS, **more)


def tie(default: bool) -> Field:  # noqa: FBT001  the default itself
    """Declare whether the output head shares the storage of the embedding."""
    return flag("tie_word_embeddings", default)


def derived(name: str, value: Callable[[Config], int]) -> Computed:
    """Declare a size that is computed from other fields."""
    return Computed(name=name, value=lambda config: Dim(int(value(config)), name))


def heads(config: Config) -> int:
    """Return the number of query heads."""
    num_attention_heads: int = config["num_attention_heads"]
    return num_attention_heads


def share_of_hidden(config: Config) -> int:
    """Return the width of each head if the heads split the hidden size equally."""
    hidden, among = config["hidden_size"], config["num_attention_heads"]
    if hidden % among:
        raise ContradictionError(
            "hidden_size", f"{shown(hidden)} is not divisible by the number of attention heads, {shown(among)}"
        )
    return int(hidden) // int(among)


def uneven_heads(config: Config) -> str | None:
    """Return an error if the sizes of the heads do not add up to the hidden size, or None."""
    head, among, hidden = config["head_dim"], config["num_attention_heads"], config["hidden_size"]
    if head * among == hidden:
        return None
    return f"{shown(head)} for each of {shown(among)} attention heads is not the hidden_size, {shown(hidden)}"


#: The sizes of attention with as many key/value heads as query heads. The heads split the hidden size equally.
ONE_HEAD_SIZE = (derived("num_key_value_heads", heads), derived("head_dim", share_of_hidden))


def head_dim(default: int | None = None, *, nullable: bool | None = None) -> Field:
    """Declare the size of one head. It is derived if neither the file nor the class sets it.

    `nullable` is whether the code of the model accepts null. If it is left out, null is accepted if the class has no
    default.
    """
    accepts_null = default is None if nullable is None else nullable
    null = share_of_hidden if default is None or accepts_null else None
    return size("head_dim", default, nullable=accepts_null, null=null)


def given_head_dim(
    problem: Callable[[Config], str | None] | None = None, *, nullable: bool = True
) -> tuple[Entry, ...]:
    """Declare that `head_dim` must equal the one that follows from the other fields, where the code reads both.

    The entries follow those of the rotary embedding. `problem` replaces the check.
    """
    return (
        size("given_head_dim", 0, spelled="head_dim", nullable=nullable),
        Check(name="given_head_dim", problem=problem or _other_head_dim),
        derived("given_head_dim", lambda config: config["head_dim"]),
    )


def _other_head_dim(config: Config) -> str | None:
    """Return an error for another head size, or for null in rotary types that multiply it.

    Source: transformers/modeling_rope_utils.py, `getattr(config, "head_dim", ...) * partial_rotary_factor`.
    """
    given, expected, types = config["given_head_dim"], config["head_dim"], config.get("rope_type")
    if given is None:
        kinds = types.values() if isinstance(types, Mapping) else (types,)
        kind = next((kind for kind in kinds if kind in ("dynamic", "yarn", "longrope")), None)
        return kind and f"must not be null with rope_type {kind}, which multiplies it: leave it out"
    if given in (0, expected):
        return None
    return f"{shown(given)} is not {shown(expected)}, which follows from the other fields: leave it out"


def _ungroupable(config: Config) -> str | None:
    queries, groups = config["num_attention_heads"], config["num_key_value_heads"]
    if groups > queries:
        return f"{shown(groups)} key/value heads are more than the {shown(queries)} attention heads"
    return f"{shown(queries)} attention heads do not divide into {shown(groups)} groups" if queries % groups else None


#: The check that the number of key/value heads divides the number of query heads.
GROUPS = Check(name="num_key_value_heads", problem=_ungroupable)


def kv_heads(default: int | None = None, *, nullable: bool = True) -> tuple[Field, Check]:
    """Declare the number of key/value heads. Null means as many as query heads."""
    return size("num_key_value_heads", default, nullable=nullable, null=heads if nullable else None), GROUPS


def grouped_sizes(
    *,
    kv: int | None = None,
    kv_nullable: bool = True,
    head: int | None = None,
    head_nullable: bool | None = None,
    layer_aliases: tuple[str, ...] = (),
) -> tuple[Entry, ...]:
    """Declare the sizes of a decoder with grouped key/value heads."""
    return (
        size("vocab_size"),
        size("hidden_size"),
        size("intermediate_size"),
        layers(aliases=layer_aliases),
        size("num_attention_heads"),
        *kv_heads(kv, nullable=kv_nullable),
        head_dim(head, nullable=head_nullable),
        flag("use_cache", True),
    )


#: Sizes with the names of GPT-2.
#: Source: attribute_map of transformers' GPT2Config and of similar classes.
GPT2_SIZES = (
    size("vocab_size"),
    size("hidden_size", spelled="n_embd", aliases=("hidden_size",)),
    layers(spelled="n_layer", aliases=("num_hidden_layers",)),
    size("num_attention_heads", spelled="n_head", aliases=("num_attention_heads",)),
    size("intermediate_size", None, spelled="n_inner", nullable=True, null=lambda config: 4 * config["hidden_size"]),
    flag("use_cache", True),
)


def padding(default: int | None = None) -> tuple[Field, Check]:
    """Declare the padding token, which must have a row in the embedding."""
    token_field = count("pad_token_id", default, nullable=True, minimum=-MOST_TOKENS, maximum=MOST_TOKENS)
    return token_field, Check(name="pad_token_id", problem=_without_row)


def _without_row(config: Config) -> str | None:
    token, rows = config["pad_token_id"], config["vocab_size"]
    if token is None or -rows <= token < rows:
        return None
    return f"{shown(token)} has no row in a vocabulary of {shown(rows)} (vocab_size); give another, or null"


def divisible(name: str, divisor: str) -> Check:
    """Declare a size that must be a multiple of another size."""

    def remainder(config: Config) -> str | None:
        whole, part = config[name], config[divisor]
        return f"{shown(whole)} is not divisible by {divisor} {shown(part)}" if whole % part else None

    return Check(name=name, problem=remainder)


#: The check that the number of heads divides the hidden size, even if `head_dim` is set.
DIVISIBLE = divisible("hidden_size", "num_attention_heads")


def encoder_decoder_sizes() -> tuple[Field | Computed | Check, ...]:
    """Return the sizes of an encoder and a decoder, as BART spells them."""
    return (
        size("hidden_size", spelled="d_model", aliases=("hidden_size",)),
        layers(spelled="encoder_layers", aliases=("num_hidden_layers",)),
        size("decoder_layers", maximum=MOST_LAYERS),
        size("num_attention_heads", spelled="encoder_attention_heads", aliases=("num_attention_heads",)),
        size("decoder_attention_heads"),
        *ONE_HEAD_SIZE,
        divisible("hidden_size", "decoder_attention_heads"),
        size("intermediate_size", spelled="encoder_ffn_dim"),
        size("decoder_ffn_dim"),
    )


def experts(
    per_token: Any,
    *,
    spelled: str | None = None,
    aliases: tuple[str, ...] = (),
    router_loss: float | None = 0.001,
    k_spelled: str | None = None,
) -> tuple[Entry, ...]:
    """Declare the number of experts (`num_experts`), the number of experts per token, and the loss of the routers.

    `router_loss` is the default of the loss coefficient, or None for a config class without one. `spelled` and
    `k_spelled` are the names of the two numbers in files, if they differ.
    """
    names = {} if k_spelled is None else {"spelled": k_spelled, "aliases": ("num_experts_per_tok",)}
    return (
        size("num_experts", spelled=spelled, aliases=aliases),
        size("num_experts_per_tok", per_token, **names),
        Check(name="num_experts_per_tok", problem=_too_few_experts),
        flag("output_router_logits", False, nullable=True),
        number("router_aux_loss_coef", router_loss, nullable=True),
    )


def _too_few_experts(config: Config) -> str | None:
    chosen, among = config["num_experts_per_tok"], config["num_experts"]
    return f"{shown(chosen)} experts per token are more than the {shown(among)} experts" if chosen > among else None


def listed_layer_types(layer_types: tuple[str, ...]) -> Check:
    """Return the check that `layer_types` lists every layer with a known type."""

    def problem(config: Config) -> str | None:
        types, expected = config["layer_types"], config["num_hidden_layers"]
        if len(types) != expected:
            return f"lists {len(types):,} layers, but num_hidden_layers is {shown(expected)}"
        unknown = next((type_ for type_ in types if type_ not in layer_types), None)
        return None if unknown is None else f"{shown(unknown)} is none of {', '.join(layer_types)}"

    return Check(name="layer_types", problem=problem)
