"""Falcon: 7B (multi-query, attention and MLP in parallel), 40B (grouped, two norms), RW (ALiBi, in sequence)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.engine import in_place
from calculator.engine import operations as ops
from calculator.families.falcon.attention import self_attention
from calculator.layers import norms
from calculator.layers.activation import activation
from calculator.layers.decoder_forward import DecoderForward, embed, final, rotary_tables
from calculator.layers.decoder_layer import run_sublayer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.config import Config
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


def layer(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Run one block: (batch, sequence, hidden_size) to the same shape."""
    config, residual = context.config, hidden_states
    two = "ln_attn" in modules
    attention_layernorm_out = norms.layer_norm(modules["ln_attn" if two else "input_layernorm"], hidden_states)
    mlp_layernorm_out = norms.layer_norm(modules["ln_mlp"], hidden_states) if two else attention_layernorm_out
    attention_output = run_sublayer(
        context, modules, "attention", self_attention, attention_layernorm_out, positional=True
    )
    if "post_attention_layernorm" in modules:
        residual = _dropped_and_added(attention_output, residual, config["attention_dropout"], "after attention")
        mlp_layernorm_out = norms.layer_norm(modules["post_attention_layernorm"], residual)
    mlp_output = run_sublayer(context, modules, "mlp", _mlp, mlp_layernorm_out)
    if config["parallel_attn"] or config["new_decoder_architecture"]:
        mlp_output = in_place.add_(mlp_output, attention_output)
    context.set_scope(modules.prefix)
    return _dropped_and_added(mlp_output, residual, config["hidden_dropout"], "after MLP")


def _dropped_and_added(x: Tensor, residual: Tensor, probability: float, name: str) -> Tensor:
    out = ops.dropout(x, probability, f"{name}, dropped")
    return ops.add(residual, out, f"residual {name}")


def _mlp(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
    x = modules["mlp.dense_h_to_4h"](x)
    context.set_scope(f"{modules.prefix}mlp: ")
    x = activation(context.config["hidden_act"])(x)
    return modules["mlp.dense_4h_to_h"](x)


def _tables(context: Context, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Return cos, sin and position_ids even if they are not used, and ALiBi's bias for each head and position."""
    if not context.config["alibi"]:
        return rotary_tables(context, hidden_states)
    context.set_scope("transformer.ALiBi: ")
    tape, heads, keys = context.tape, context.config["num_attention_heads"], context.length + context.past
    if not context.training.padding:
        context.decoder_locals.append(tape.new((context.batch, keys), "int64", "mask of ones"))
    bias = ops.cast(
        tape.new((context.batch, heads, 1, keys), "bfloat16", "bias in bfloat16"), hidden_states.dtype, "bias"
    )
    return (*rotary_tables(context, hidden_states), bias)


def _biased(context: Context, mask: Tensor | None) -> Tensor | None:
    """Add ALiBi's bias of each head to the mask."""
    if mask is None or not context.config["alibi"]:
        return mask
    tape, (*_, alibi) = context.tape, context.position_tables
    width = alibi.shape[3]
    if mask.dtype == "bool":
        mask = tape.new((context.batch, 1, context.length, width), context.dtype, "additive")
    scaled = ops.scale(alibi, "ALiBi, scaled")
    hidden = tape.new(mask.shape, "bool", "hidden")
    out = tape.new((*scaled.shape[:2], context.length, width), scaled.dtype, "with ALiBi")
    del hidden
    return out


def _refused(config: Config) -> str | None:
    return "transformers runs no ALiBi under FlashAttention 2: use sdpa" if config["alibi"] else None


def _fails(config: Config) -> Iterator[tuple[str, str]]:
    """Yield fields with which the forward pass fails: the layer lacks norms, or has fewer keys than cached heads."""
    new, parallel, norms_before = (
        config[name] for name in ("new_decoder_architecture", "parallel_attn", "num_ln_in_parallel_attn")
    )
    if new and not parallel:
        yield "parallel_attn", "the new_decoder_architecture runs attention and MLP in parallel only: make it true"
    elif new and norms_before not in (1, 2):
        yield "num_ln_in_parallel_attn", f"{norms_before} norms leave the MLP without an input: make it 1, or 2"
    elif parallel and norms_before == 2 and not new:
        yield "num_ln_in_parallel_attn", "2 norms are run in the new_decoder_architecture only: make it 1"
    keys, queries = config["num_kv_heads"], config["num_attention_heads"]
    if not new and not config["multi_query"] and keys != queries:
        yield (
            "num_kv_heads",
            f"without multi_query, each of the {queries} heads has its own key, so {keys} is wrong: leave it out",
        )


FALCON = DecoderForward(
    casts_token_logits=False,
    layer=layer,
    embeddings=partial(embed, name="transformer.word_embeddings"),
    tables=_tables,
    passes_bounds=False,
    transform_mask=_biased,
    final_norm=final(norms.layer_norm, "transformer.ln_f"),
    always_masked=True,
    returns_weights=True,
    refuses_flash=_refused,
    unsupported_fields=_fails,
)
