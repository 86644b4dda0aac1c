"""Building blocks of decoder families."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.model import stack
from calculator.architecture.module import Buffer, Module, OwnDType, bare, embedding, linear, norm
from calculator.families.rope import frequencies

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import MlpType
    from calculator.families.family import Parts

#: The modules and buffers of one layer.
Owned = tuple[Module | Buffer, ...]


#: The kind of most layers.
USUAL = LayerKind()


def uniform_layers(config: Config, kind: LayerKind = USUAL) -> tuple[LayerKind, ...]:
    """Return the kinds of a stack in which all layers have one kind."""
    return (kind,) * int(config["num_hidden_layers"])


def kinds_by_attention(config: Config, *, mlp: MlpType = "dense") -> tuple[LayerKind, ...]:
    """Return the kinds of a stack in which layers differ by `layer_types`."""
    kinds = {attention: LayerKind(attention=attention, mlp=mlp) for attention in set(config["layer_types"])}
    return tuple(kinds[attention] for attention in config["layer_types"])


def attention(
    config: Config, *, qkv_bias: bool = False, o_bias: bool = False, output: str = "o_proj", name: str = "self_attn"
) -> tuple[Module, ...]:
    """Return the projections of grouped-query attention: query, key, value and output."""
    hidden = config["hidden_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    return (
        linear(f"{name}.q_proj", hidden, queries, bias=qkv_bias),
        linear(f"{name}.k_proj", hidden, keys, bias=qkv_bias),
        linear(f"{name}.v_proj", hidden, keys, bias=qkv_bias),
        linear(f"{name}.{output}", queries, hidden, bias=o_bias),
    )


def gated_mlp(
    config: Config, *, bias: bool = False, name: str = "mlp", width: str = "intermediate_size"
) -> tuple[Module, ...]:
    """Return the projections of a gated MLP: gate, up and down."""
    hidden, inner = config["hidden_size"], config[width]
    return (
        linear(f"{name}.gate_proj", hidden, inner, bias=bias),
        linear(f"{name}.up_proj", hidden, inner, bias=bias),
        linear(f"{name}.down_proj", inner, hidden, bias=bias),
    )


def plain_mlp(config: Config, up: str, down: str, *, bias: bool = True) -> tuple[Module, ...]:
    """Return the projections of an MLP without a gate: up and down."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    return (linear(up, hidden, inner, bias=bias), linear(down, inner, hidden, bias=bias))


def fused_experts(config: Config, width: str, name: str = "mlp.experts") -> Module:
    """Return the gate, up and down projections of all experts, as two 3-D parameters."""
    among, hidden, inner = config["num_experts"], config["hidden_size"], config[width]
    return bare(name, "experts", gate_up_proj=(among, 2 * inner, hidden), down_proj=(among, hidden, inner))


def router(config: Config, name: str = "mlp.gate", dtype: OwnDType = "model") -> Module:
    """Return a router with one score per expert, whose class is not torch.nn.Linear."""
    return bare(name, "other", dtype, weight=(config["num_experts"], config["hidden_size"]))


def norms(config: Config, *names: str, bias: bool = False) -> tuple[Module, ...]:
    """Return norms over the hidden size."""
    return tuple(norm(name, config["hidden_size"], bias=bias) for name in names)


PRE_NORMS = ("input_layernorm", "post_attention_layernorm")


def plain_mlp_decoder(config: Config, *, norm_bias: bool = False) -> Parts:
    """Return a decoder of Llama's layers with a plain MLP. The config sets whether it has biases."""

    def layer(_kind: LayerKind) -> Owned:
        bias = config["attention_bias"]
        return (
            *attention(config, qkv_bias=bias, o_bias=bias),
            *plain_mlp(config, "mlp.up_proj", "mlp.down_proj", bias=config["mlp_bias"]),
            *norms(config, *PRE_NORMS, bias=norm_bias),
        )

    return decoder(config, uniform_layers(config), layer, norm_bias=norm_bias)


def decoder(
    config: Config,
    kinds: Sequence[LayerKind],
    layer: Callable[[LayerKind], Owned],
    *,
    norm_bias: bool = False,
    head_bias: bool = False,
    rotary: tuple[Buffer, ...] | None = None,
    final_norm: str = "model.norm",
) -> Parts:
    """Return a decoder named as in most families: embedding, layers, final norm, rotary frequencies, output head."""
    vocabulary, hidden = config["vocab_size"], config["hidden_size"]
    return (
        embedding("model.embed_tokens", vocabulary, hidden),
        stack("model.layers", kinds, layer),
        norm(final_norm, hidden, bias=norm_bias),
        *(frequencies("model.rotary_emb", config["rotary_dim"]) if rotary is None else rotary),
        linear("lm_head", hidden, vocabulary, bias=head_bias),
    )
