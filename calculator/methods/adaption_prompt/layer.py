"""Attention to a prompt in addition to a layer's own attention (peft.tuners.adaption_prompt.layer).

Each class wraps the attention of a family. It recomputes the queries, which the wrapped attention does not return.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.autocast import cast_to
from calculator.engine.layout import by_positions, mergeable
from calculator.layers import attention, rotary
from calculator.layers.self_attention import split_heads

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


def rotary_attention(
    context: Context, modules: LayerModules, x: Tensor, output: Tensor, prompt: Tensor, gate: Tensor
) -> Tensor:
    """Run AdaptedAttention.forward, of Llama and Mistral.

    `x` is the input of the attention, and `output` is its output.
    """
    key = modules["self_attn.k_proj"](prompt)
    value = modules["self_attn.v_proj"](prompt)
    adapter_k = _repeated(context, key, "prompt's key")
    adapter_v = _repeated(context, value, "prompt's value")
    adapter_k = _interleaved(context, adapter_k, "prompt's key")
    adapter_v = _interleaved(context, adapter_v, "prompt's value")
    query_states = _rotated_queries(context, modules, x)
    weighed = _attend(query_states, adapter_k, adapter_v, gate)
    adapter_output = modules["self_attn.o_proj"](weighed)
    del weighed
    context.set_scope(f"{modules.prefix}self_attn: ")
    output = ops.add(output, adapter_output, "output + that of the prompt")
    return ops.cast(output, query_states.dtype, "output, cast back")


def gpt2_attention(
    context: Context, modules: LayerModules, x: Tensor, output: Tensor, prompt: Tensor, gate: Tensor
) -> Tensor:
    """Run AdaptedAttentionGPT.forward.

    The queries are a part of the fused projection. There is no output projection.
    """
    # Conv1D multiplies a view of the prompt, and autocast does not cache copies of views.
    autocast = prompt.tape.autocast
    _, key, value = _split(modules, prompt if autocast is None else cast_to(prompt, autocast.dtype, "prompt"))
    adapter_k = _repeated(context, key, "prompt's key")
    adapter_v = _repeated(context, value, "prompt's value")
    query_states = split_heads(context, _split(modules, x)[0], context.config["num_attention_heads"])
    context.set_scope(f"{modules.prefix}attn: ")
    adapter_output = _attend(query_states, adapter_k, adapter_v, gate)
    hidden_state = ops.add(output, adapter_output, "output + that of the prompt")
    return ops.cast(hidden_state, query_states.dtype, "output, cast back")


def _split(modules: LayerModules, x: Tensor) -> list[Tensor]:
    return ops.split(modules["attn.c_attn"](x), [x.shape] * 3)


def _repeated(context: Context, x: Tensor, name: str) -> Tensor:
    """Return a prompt's keys or values by heads, copied for each sequence: (batch, heads, adapter_len, head_dim)."""
    _, length, width = x.shape
    head_dim = context.config["head_dim"]
    heads = width // head_dim
    by_heads = ops.view(x, (1, length, heads, head_dim))
    copies = ops.repeat(by_heads, context.batch, f"{name} of each sequence")
    return ops.view(copies, (context.batch, heads, length, head_dim))


def _interleaved(context: Context, x: Tensor, name: str) -> Tensor:
    """Run torch.repeat_interleave over the heads. It copies even if each head is taken once."""
    batch, heads, length, head_dim = x.shape
    factor = context.config["num_attention_heads"] // heads
    one = ops.view(x, (batch, heads, 1, length, head_dim))
    copied = ops.contiguous(ops.expand(one, (batch, heads, factor, length, head_dim)), f"{name}, repeated")
    return ops.view(copied, (batch, heads * factor, length, head_dim))


def _rotated_queries(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
    """Run llama_compute_query_states. The values that it computes are not used."""
    query_states = split_heads(context, modules["self_attn.q_proj"](x), context.config["num_attention_heads"])
    _unused = modules["self_attn.v_proj"](x)
    context.set_scope(f"{modules.prefix}self_attn: ")
    cos, sin = context.position_tables[:2]
    return rotary.rotate(query_states, cos, sin, "query for the prompt")


def _attend(query_states: Tensor, adapter_k: Tensor, adapter_v: Tensor, gate: Tensor) -> Tensor:
    """Weigh the prompt's values: (batch, heads, sequence, head_dim) to (batch, sequence, hidden_size)."""
    dtype = query_states.dtype
    keys = ops.cast(adapter_k, dtype, "prompt's key, cast")
    scores = ops.scale(attention.scores(query_states, keys), "scores, scaled")
    del keys
    scores = ops.mul(gate, attention.softmax(scores, dtype), "gate · probabilities")
    batch, heads, length, head_dim = query_states.shape
    weights = scores
    if scores.tape.autocast is not None:
        weights, adapter_v = scores.tape.autocast.cast_factors(scores, adapter_v, ("probabilities", "value"))
    values = mergeable(adapter_v, "value, contiguous")
    weighed = products.bmm(weights, values, (batch, heads, length, head_dim), "values, weighed")
    del weights, values
    return ops.view(by_positions(weighed, "values, weighed, transposed"), (batch, length, heads * head_dim))
