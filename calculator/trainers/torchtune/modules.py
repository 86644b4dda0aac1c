"""torchtune's modules: RMSNorm, rotary embeddings, attention, the MLP and a layer, with their local variables.

Source: torchtune/modules/rms_norm.py, position_embeddings.py, attention.py, feed_forward.py and transformer.py; and
torchtune/models/qwen2/_positional_embeddings.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.tape import Tensor
from calculator.layers import rotary
from calculator.layers.attention import attend, repeat_kv
from calculator.layers.self_attention import split_heads

if TYPE_CHECKING:
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


def rms_norm(norm: BoundModule, x: Tensor) -> Tensor:
    """Compute F.rms_norm of a float32 copy with a weight in half precision, as separate operations.

    Source: aten/src/ATen/native/layer_norm.cpp, rms_norm_composite.
    """
    x.tape.scope = f"{norm.name}: "
    wide = ops.cast(x, "float32", "input in float32")
    squared = ops.unary(wide, "squared", saves="input", temporaries=2)
    variance = ops.mean(squared, "variance")
    root = ops.unary(variance, "rsqrt", saves="result", temporaries=2)
    del squared, variance
    normalized = ops.mul(wide, root, "normalized in float32")
    del wide, root
    out = ops.mul(normalized, norm.own["weight"], "output in float32")
    del normalized
    return ops.cast(out, x.dtype, "output")


def rotate(context: Context, x: Tensor, name: str) -> Tensor:
    """Rotate pairs of dimensions in float32: (batch, heads, sequence, head_dim) to the same."""
    table = Tensor(context.tape, None, (1, 1, x.shape[2], x.shape[3] // 2), "float32", None)
    wide = ops.cast(x, "float32", f"{name} in float32")
    half = (*x.shape[:-1], x.shape[-1] // 2)
    first = ops.subtract(
        ops.mul(ops.slice_from_end(wide, half), table, f"{name}: even · cos"),
        ops.mul(ops.slice_from_end(wide, half), table, f"{name}: odd · sin"),
        f"{name}: even, rotated",
    )
    second = ops.add(
        ops.mul(ops.slice_from_end(wide, half), table, f"{name}: odd · cos"),
        ops.mul(ops.slice_from_end(wide, half), table, f"{name}: even · sin"),
        f"{name}: odd, rotated",
    )
    whole = ops.cat((first, second), x.shape, f"{name}, rotated in float32")
    del first, second
    out = ops.cast(whole, x.dtype, f"{name}, rotated")
    del wide, whole
    return out


def rotate_halves(context: Context, x: Tensor, name: str) -> Tensor:
    """Rotate the halves of each head in its own dtype, with a copy of the tables (Qwen2RotaryPositionalEmbeddings)."""
    table = Tensor(context.tape, None, (1, 1, x.shape[2], x.shape[3]), "float32", None)
    cos = ops.cast(table, x.dtype, f"{name}: cos")
    sin = ops.cast(table, x.dtype, f"{name}: sin")
    rotated = rotary.rotate_half(x)
    even = ops.mul(x, cos, f"{name} · cos")
    return ops.add(even, ops.mul(rotated, sin, f"{name}, rotated · sin"), f"{name}, rotated")


#: The rotation function of each family.
ROTATIONS = {"llama": rotate, "mistral": rotate, "qwen2": rotate_halves}


def attention(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
    """Compute grouped-query attention. Keys and values are repeated for every head."""
    config, scope = context.config, f"{modules.prefix}self_attn: "
    query = split_heads(context, modules["self_attn.q_proj"](x), config["num_attention_heads"])
    context.set_scope(scope)
    rotation = ROTATIONS[context.model.model_type]
    query = rotation(context, query, "query")
    key = split_heads(context, modules["self_attn.k_proj"](x), config["num_key_value_heads"])
    value = split_heads(context, modules["self_attn.v_proj"](x), config["num_key_value_heads"])
    context.set_scope(scope)
    key = rotation(context, key, "key")
    key = repeat_kv(query, key, "key, repeated")
    value = repeat_kv(query, value, "value, repeated")
    output = attend(context, query, key, value)
    return modules["self_attn.o_proj"](output)


def mlp(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
    """Return w2(silu(w1(x)) · w3(x))."""
    context.set_scope(f"{modules.prefix}mlp: ")
    h = ops.unary(modules["mlp.gate_proj"](x), "silu", saves="input")
    up = modules["mlp.up_proj"](x)
    context.set_scope(f"{modules.prefix}mlp: ")
    h = ops.mul(h, up, "activated gate · up")
    del up
    return modules["mlp.down_proj"](h)


def layer(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
    """Run TransformerSelfAttentionLayer, whose local variables keep the outputs of attention and of the MLP."""
    h = rms_norm(modules["input_layernorm"], x)
    attn_out = attention(context, modules, h)
    context.set_scope(f"{modules.prefix}")
    h = ops.add(attn_out, x, "residual after attention")
    mlp_out = _normed_mlp(context, modules, h)
    context.set_scope(f"{modules.prefix}")
    out = ops.add(h, mlp_out, "residual after MLP")
    del attn_out, mlp_out
    return out


def _normed_mlp(context: Context, modules: LayerModules, h: Tensor) -> Tensor:
    return mlp(context, modules, rms_norm(modules["post_attention_layernorm"], h))
