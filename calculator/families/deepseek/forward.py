"""DeepSeek V2 and V3: keys and values from a cached latent, and experts with a shared MLP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.engine import indexing
from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.engine.layout import strided
from calculator.engine.module_calls import passed
from calculator.engine.tape import ComplexTensor
from calculator.layers import attention, mlp, norms, rotary, routers
from calculator.layers.decoder_forward import DecoderForward
from calculator.layers.decoder_layer import SequentialLayer
from calculator.layers.experts import experts
from calculator.layers.mixture import Mixture, in_sparse_layers

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules
    from calculator.layers.self_attention import Rotate


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-AI 2024). Only a part of each head is rotated. All keys share that part."""

    rotate: Rotate

    def __call__(self, context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
        """Run the module: (batch, sequence, hidden_size) to the same shape."""
        config = context.config
        q_pass, q_rot = _queries(context, modules, hidden_states)
        compressed_kv = modules["self_attn.kv_a_proj_with_mqa"](hidden_states)
        batch, length, _ = compressed_kv.shape
        rank, rope = config["kv_lora_rank"], config["qk_rope_head_dim"]
        kv_nope, k_rot = ops.split(compressed_kv, [(batch, length, rank), (batch, length, rope)])
        kv_nope = ops.view(norms.rms_norm(modules["self_attn.kv_a_layernorm"], kv_nope), (batch, 1, length, rank))
        k_rot = ops.view(k_rot, (batch, 1, length, rope))
        context.set_scope(f"{modules.prefix}self_attn: ")
        q_rot, k_rot = self.rotate(context, q_rot, k_rot)
        kv_nope, k_rot = context.update_cache(kv_nope, k_rot)
        heads = (batch, config["num_attention_heads"], length, config["qk_head_dim"])
        query_states = ops.cat((q_pass, q_rot), heads, "query, whole again")
        key_states, value_states = _expanded(context, modules, kv_nope, k_rot)
        attn_output = attention.attend(context, query_states, key_states, value_states)
        return modules["self_attn.o_proj"](attn_output)


def _queries(context: Context, modules: LayerModules, hidden_states: Tensor) -> list[Tensor]:
    """Project to queries, directly or in two low-rank steps, and split off the part that is rotated."""
    config = context.config
    if "self_attn.q_proj" in modules:
        q = modules["self_attn.q_proj"](hidden_states)
    else:
        q = norms.rms_norm(modules["self_attn.q_a_layernorm"], modules["self_attn.q_a_proj"](hidden_states))
        q = modules["self_attn.q_b_proj"](q)
    heads = (q.shape[0], config["num_attention_heads"], q.shape[1])
    q = ops.view(q, (*heads, config["qk_head_dim"]))
    return ops.split(q, [(*heads, config["qk_nope_head_dim"]), (*heads, config["qk_rope_head_dim"])])


def _expanded(context: Context, modules: LayerModules, kv_nope: Tensor, k_rot: Tensor) -> tuple[Tensor, Tensor]:
    """Project the latent to the keys and values of every head. The rotated part of the keys is copied to each head."""
    config = context.config
    heads = (kv_nope.shape[0], config["num_attention_heads"], kv_nope.shape[2])
    nope, rope, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    kv_nope = ops.view(modules["self_attn.kv_b_proj"](kv_nope), (*heads, nope + value))
    context.set_scope(f"{modules.prefix}self_attn: ")
    k_nope, value_states = ops.split(kv_nope, [(*heads, nope), (*heads, value)])
    k_rot = ops.expand(k_rot, (*heads, rope))
    return indexing.fill_slices((k_nope, k_rot), (*heads, nope + rope), "key, whole"), value_states


def _complex_tables(context: Context, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
    """Return rotations as complex numbers, which count as two float32 each, and position_ids."""
    passed(context.tape, "model.rotary_emb")
    context.set_scope("model.")
    tape, length, width = context.tape, hidden_states.shape[1], context.config["qk_rope_head_dim"]
    position_ids = context.position_ids(length)
    rows = position_ids.shape[0]
    freqs = tape.new((rows, length, width // 2), "float32", "rotary: freqs")
    tape.multiply_angles()
    ones = tape.new((rows, length, width // 2), "float32", "rotary: ones")
    freqs_cis = tape.new((rows, length, width), "float32", "rotary: turns")
    del ones
    freqs_cis = tape.new((rows, length, width), "float32", "rotary: turns, scaled")
    del freqs
    return ComplexTensor(tape, freqs_cis.storage, freqs_cis.shape, "float32", None), position_ids


def _apply_rotary_emb(context: Context, q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
    """Multiply pairs by their rotations, as complex numbers (V2's apply_rotary_emb)."""
    freqs_cis = context.position_tables[0]
    xq_, xk_ = ops.cast(q, "float32", "query in float32"), ops.cast(k, "float32", "key in float32")
    xq_out = ops.cast(_product(xq_, freqs_cis, "query, rotated"), q.dtype, "query, cast back")
    xk_out = ops.cast(_product(xk_, freqs_cis, "key, rotated"), k.dtype, "key, cast back")
    return xq_out, xk_out


def _product(x: Tensor, turns: Tensor, name: str) -> Tensor:
    node = Node(x.tape, _product_back, (x.edge,)) if x.edge else None
    if node is not None:
        node.save(turns)
    return x.tape.new(x.shape, "float32", name, node)


def _product_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    """Multiply by the conjugates of the rotations, which are newly allocated."""
    conjugate = grad.tape.new(node.saved[0].shape, "float32", "turns, conjugated")
    out = grad.tape.new(grad.shape, "float32", "rotation: gradient")
    del conjugate
    return (out,)


def _rotated(context: Context, q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
    """Rotate halves, or interleaved pairs without a copy (V3's apply_rotary_pos_emb_interleave)."""
    cos, sin = context.position_tables[:2]
    if context.config["rope_interleave"]:
        return _rotate_pairs(q, cos, sin, "query"), _rotate_pairs(k, cos, sin, "key")
    return rotary.rotate(q, cos, sin, "query, rotated"), rotary.rotate(k, cos, sin, "key, rotated")


def _rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor, name: str) -> Tensor:
    half = (*x.shape[:-1], x.shape[-1] // 2)
    cos, sin = (strided(ops.narrow(x, (*x.shape[:-1], half[-1]))) for x in (cos, sin))
    x1, x2 = ops.narrow(x, half), ops.narrow(x, half, part=1)
    first = ops.subtract(ops.mul(x1, cos, "x1 · cos"), ops.mul(x2, sin, "x2 · sin"), "x1 · cos - x2 · sin")
    second = ops.add(ops.mul(x2, cos, "x2 · cos"), ops.mul(x1, sin, "x1 · sin"), "x2 · cos + x1 · sin")
    return ops.cat((first, second), x.shape, f"{name}, rotated")


@dataclass(frozen=True, slots=True, kw_only=True)
class WithSharedExperts(Mixture):
    """A mixture of experts with a shared MLP. The output of the router stays alive while the shared MLP runs."""

    def __call__(self, context: Context, modules: LayerModules, x: Tensor) -> Tensor:
        """Run the module: (batch, sequence, hidden_size) to the same shape."""
        tokens = ops.view(x, (x.shape[0] * x.shape[1], x.shape[2]))
        weights, indices, *_alive = self.chosen(context, modules, tokens)
        hidden_states = ops.view(experts(context, modules[self.experts], tokens, indices, weights), x.shape)
        shared = mlp.called(context, modules, x, "mlp.shared_experts")
        context.set_scope(f"{modules.prefix}mlp: ")
        return ops.add(hidden_states, shared, "experts + shared experts")


def _refused(config: Config) -> str | None:
    """Return why FlashAttention is refused if values are wider than keys.

    transformers then truncates the values (integrations/flash_attention.py).
    """
    width, value = config["qk_head_dim"], config["v_head_dim"]
    return f"transformers cuts v_head_dim {value} to the keys' {width} there: use sdpa" if value > width else None


DEEPSEEK_V2 = DecoderForward(
    tables=_complex_tables,
    layer=SequentialLayer(
        attention=LatentAttention(rotate=_apply_rotary_emb),
        mlp=in_sparse_layers(WithSharedExperts(router=routers.greedy_by_group)),
    ),
    refuses_flash=_refused,
)

DEEPSEEK_V3 = DecoderForward(
    layer=SequentialLayer(
        attention=LatentAttention(rotate=_rotated),
        mlp=in_sparse_layers(WithSharedExperts(router=routers.sigmoid_with_correction)),
    ),
    refuses_flash=_refused,
)

YOUTU = DecoderForward(
    layer=SequentialLayer(attention=LatentAttention(rotate=_rotated)),
    refuses_flash=_refused,
)
