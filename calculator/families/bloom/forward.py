"""BLOOM: ALiBi positions (Press et al. 2021), attention and GELU in own code, and a norm after the word embeddings."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.autograd import Node
from calculator.engine.layout import by_positions, mergeable
from calculator.engine.module_calls import enter, enter_with, leave
from calculator.engine.result_types import result_type
from calculator.layers import norms
from calculator.layers.decoder_forward import DecoderForward, embed, final
from calculator.layers.dropout import dropout

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


def layer(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Run one block: (batch, sequence, hidden_size) to the same shape. Each sublayer adds its own residual."""
    normed_first = context.config["apply_residual_connection_post_layernorm"]
    layernorm_output = norms.layer_norm(modules["input_layernorm"], hidden_states)
    residual = layernorm_output if normed_first else hidden_states
    attention_output = _run(context, modules, "attention", layernorm_output, residual)
    layernorm_output = norms.layer_norm(modules["post_attention_layernorm"], attention_output)
    residual = layernorm_output if normed_first else attention_output
    return _run(context, modules, "mlp", layernorm_output, residual)


def _run(context: Context, modules: LayerModules, name: Literal["attention", "mlp"], *inputs: Tensor) -> Tensor:
    """Run a sublayer of a normed input and a residual, and what the method adds after it."""
    own, function = ("self_attention", _attention) if name == "attention" else ("mlp", _mlp)
    path = f"{modules.prefix}{own}"
    for called in (*context.method.around_sublayer(modules, name), path):
        inputs = (*enter_with(called, *inputs),)
    output = leave(path, function(context, modules, *inputs))
    return context.method.after_sublayer(context, modules, name, output)


def _attention(context: Context, modules: LayerModules, hidden_states: Tensor, residual: Tensor) -> Tensor:
    query_layer, key_layer, value_layer, _fused_qkv = _heads(context, modules, hidden_states)
    key_layer, value_layer = context.update_cache(key_layer, value_layer)
    query_layer = mergeable(query_layer, "query, contiguous")
    key_layer = mergeable(key_layer, "key, contiguous")
    value_layer = mergeable(value_layer, "value, contiguous")
    shape = (*query_layer.shape[:3], key_layer.shape[2])
    attention_scores = products.bmm(query_layer, key_layer, shape, "ALiBi + scores")
    attn_weights = ops.add(attention_scores, context.mask, "scores + mask") if context.mask else attention_scores
    attention_probs = ops.cast(ops.softmax(attn_weights, "float32"), query_layer.dtype, "probabilities")
    context.set_scope(f"{modules.prefix}self_attention: ")
    attention_probs = dropout(attention_probs, context.config["attention_dropout"], "probabilities, dropped")
    context.attn_weights = attention_probs
    context_layer = products.bmm(attention_probs, value_layer, query_layer.shape, "attention output")
    context_layer = by_positions(context_layer, "heads, merged")
    output_tensor = modules["self_attention.dense"](ops.view(context_layer, hidden_states.shape))
    return _dropped_and_added(context, output_tensor, residual, "residual after attention")


def _heads(context: Context, modules: LayerModules, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Slice the fused projection, in which the query, key and value of each head are adjacent.

    Each slice creates a gradient of its own. The fused projection stays alive as a local variable.
    """
    fused_qkv = modules["self_attention.query_key_value"](hidden_states)
    context.set_scope(f"{modules.prefix}self_attention: ")
    batch, length, _ = hidden_states.shape
    head = (batch, context.config["num_attention_heads"], length, context.config["head_dim"])
    fused_qkv = ops.view(fused_qkv, (*head[:3], 3, head[3]))
    query, key, value = (ops.narrow(fused_qkv, head, part=part) for part in range(3))
    return query, key, value, fused_qkv


def _dropped_and_added(context: Context, x: Tensor, residual: Tensor, name: str) -> Tensor:
    out = ops.dropout(x, context.config["hidden_dropout"], "dropped")
    return ops.add(residual, out, name)


def _mlp(context: Context, modules: LayerModules, hidden_states: Tensor, residual: Tensor) -> Tensor:
    hidden_states = modules["mlp.dense_h_to_4h"](hidden_states)
    context.set_scope(f"{modules.prefix}mlp: ")
    gelu = f"{modules.prefix}mlp.gelu_impl"
    hidden_states = leave(gelu, _gelu(enter(gelu, hidden_states)))
    intermediate_output = modules["mlp.dense_4h_to_h"](hidden_states)
    context.set_scope(f"{modules.prefix}mlp: ")
    return _dropped_and_added(context, intermediate_output, residual, "residual after MLP")


def _gelu(x: Tensor) -> Tensor:
    """Run BloomGelu, an autograd function that saves its input.

    It runs five products and a tanh as separate operations.
    """
    tape = x.tape
    node = Node(tape, _gelu_back, (x.edge,)) if x.edge else None
    half = tape.new(x.shape, x.dtype, "half of x")
    inner = _tanh(x)
    shifted = tape.new(x.shape, x.dtype, "1 + tanh")
    del inner
    out = tape.new(x.shape, x.dtype, "activation", node)
    del half, shifted
    if node is not None:
        node.save(x)
    return out


def _tanh(x: Tensor) -> Tensor:
    """Compute tanh(c · x · (1 + d · x · x)). Each temporary is freed after its last use."""
    tape = x.tape
    scaled = tape.new(x.shape, x.dtype, "c · x")
    cubic = tape.new(x.shape, x.dtype, "d · x")
    cubic = tape.new(x.shape, x.dtype, "d · x · x")
    cubic = tape.new(x.shape, x.dtype, "1 + d · x · x")
    inner = tape.new(x.shape, x.dtype, "inner product")
    del scaled, cubic
    return tape.new(inner.shape, inner.dtype, "tanh")


def _gelu_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    x = node.saved[0]
    tape = grad.tape
    tanh_out = _tanh(x)
    half = tape.new(x.shape, x.dtype, "half of x")
    slope = tape.new(x.shape, x.dtype, "tanh · tanh")
    slope = tape.new(x.shape, x.dtype, "1 - tanh · tanh")
    poly = tape.new(x.shape, x.dtype, "e · x")
    poly = tape.new(x.shape, x.dtype, "e · x · x")
    poly = tape.new(x.shape, x.dtype, "c + e · x · x")
    product = tape.new(x.shape, x.dtype, "slope · polynomial")
    del slope, poly
    first = tape.new(x.shape, x.dtype, "half of x · product")
    del half, product
    second = tape.new(x.shape, x.dtype, "1 + tanh")
    second = tape.new(x.shape, x.dtype, "half of 1 + tanh")
    ff = tape.new(x.shape, x.dtype, "slope of the activation")
    del first, second, tanh_out
    out = tape.new(x.shape, result_type(ff.dtype, grad.dtype), "activation: gradient")
    return (out,)


def _before_layers(context: Context, inputs_embeds: Tensor) -> Tensor:
    norm = context.hooks.module("embeddings_norm")
    inputs_embeds = norm.before(inputs_embeds)
    return norm.after(norms.layer_norm(context.outer("transformer.word_embeddings_layernorm"), inputs_embeds))


def _alibi(context: Context, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Return the bias of each head and position, which is the same for all queries."""
    context.set_scope("transformer.ALiBi: ")
    tape, heads = context.tape, context.config["num_attention_heads"]
    batch, length = hidden_states.shape[0], hidden_states.shape[1] + context.past
    if not context.training.passes_mask:
        context.decoder_locals.append(tape.new((heads,), "float32", "slopes"))
    one = tape.new((batch if context.training.passes_mask else 1, heads, 1, length), "float32", "bias in float32")
    repeated = (
        one if context.training.passes_mask else tape.new((batch, heads, 1, length), "float32", "for every batch")
    )
    del one
    return (ops.cast(repeated, hidden_states.dtype, "bias"),)


def _refused(_: Config) -> str:
    return "transformers has no FlashAttention 2 for BLOOM: use sdpa, which runs eager"


BLOOM = DecoderForward(
    casts_token_logits=False,
    layer=layer,
    embeddings=partial(embed, name="transformer.word_embeddings"),
    before_layers=_before_layers,
    tables=_alibi,
    flattens=False,
    takes_positions=False,
    final_norm=final(norms.layer_norm, "transformer.ln_f"),
    dropout_modules=("attention_dropout",),
    sdpa="eager",
    returns_weights=True,
    refuses_flash=_refused,
)
