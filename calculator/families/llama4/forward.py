"""Llama 4's text model: attention in chunks, rotation by complex numbers, and experts that all run on every token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import in_place, indexing, products
from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.engine.module_calls import enter, leave, leave_with, passed, reads
from calculator.engine.tape import ComplexTensor
from calculator.layers import attention, mlp, norms
from calculator.layers.activation import activation
from calculator.layers.decoder_forward import DecoderForward, embed, final
from calculator.layers.decoder_layer import run_sublayer
from calculator.layers.routers import compute_logits

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


def _words(context: Context, ids: Tensor) -> Tensor:
    """Look up word embeddings. The decoder's code moves ids to the device of their weight, which it reads."""
    if not context.method.embeds_inputs:
        reads(context.tape, "decoder", "model.embed_tokens.weight")
    return embed(context, ids)


def _tables(context: Context, hidden_states: Tensor, dtype: DType | None = None) -> tuple[Tensor, ...]:  # noqa: ARG001  the signature of such hooks
    """Return the complex numbers that rotate pairs, stored as two float32 each, and the positions."""
    context.set_scope("model.")
    length = hidden_states.shape[1]
    position_ids = context.position_ids(length)
    passed(context.tape, "model.rotary_emb")
    rows, pairs = position_ids.shape[0], context.config["head_dim"] // 2
    freqs = context.tape.new((rows, length, pairs), "float32", "rotary: freqs")
    context.tape.multiply_angles()
    ones = context.tape.new((rows, length, pairs), "float32", "rotary: ones")
    complex_shape = (rows, length, 2 * pairs)
    freqs_cis = context.tape.new(complex_shape, "float32", "rotary: complex numbers")
    del ones
    freqs_cis = context.tape.new(complex_shape, "float32", "rotary: complex numbers, scaled")
    del freqs
    return ComplexTensor(context.tape, freqs_cis.storage, complex_shape, "float32", None), position_ids


def _attend(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Run Llama4TextAttention."""
    config, (batch, length, _) = context.config, hidden_states.shape
    heads, groups, head = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    query = ops.view(modules["self_attn.q_proj"](hidden_states), (batch, length, heads, head))
    key = ops.view(modules["self_attn.k_proj"](hidden_states), (batch, length, groups, head))
    value = ops.view(modules["self_attn.v_proj"](hidden_states), (batch, groups, length, head))
    context.set_scope(f"{modules.prefix}self_attn: ")
    kept: list[Tensor] = []
    if modules.kind.rotated:
        query, key = _rotated(query, key, context.position_tables[0])
        if config["use_qk_norm"]:
            path = f"{modules.prefix}self_attn.qk_norm"
            context.set_scope(f"{path}: ")
            query, key = (leave(path, norms.l2_norm(enter(path, x))) for x in (query, key))
            context.set_scope(f"{modules.prefix}self_attn: ")
    elif config["attn_temperature_tuning"]:
        query, *kept = _scaled_by_position(query)
    query, key = ops.view(query, (batch, heads, length, head)), ops.view(key, (batch, groups, length, head))
    key, value = context.update_cache(key, value)
    out = attention.attend(context, query, key, value, _eager)
    del kept
    return modules["self_attn.o_proj"](out)


def _rotated(query: Tensor, key: Tensor, freqs_cis: Tensor) -> tuple[Tensor, Tensor]:
    """Multiply pairs as complex numbers, and cast back (apply_rotary_emb)."""
    pairs = [ops.cast(x, "float32", f"{name} in float32") for x, name in ((query, "query"), (key, "key"))]
    rotated = [_multiplied(x, freqs_cis, f"{name}, rotated") for x, name in zip(pairs, ("query", "key"), strict=True)]
    return (
        ops.cast(rotated[0], query.dtype, "query, cast back"),
        ops.cast(rotated[1], key.dtype, "key, cast back"),
    )


def _multiplied(x: Tensor, freqs_cis: Tensor, name: str) -> Tensor:
    node = Node(x.tape, _multiplied_back, (x.edge,)) if x.edge else None
    if node is not None:
        node.save(freqs_cis)
    return x.tape.new(x.shape, "float32", name, node)


def _multiplied_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    """Return the gradient times the conjugate, which is copied."""
    conjugate = grad.tape.new(node.saved[0].shape, "float32", "rotary: conjugate")
    out = grad.tape.new(grad.shape, grad.dtype, "rotary: gradient")
    del conjugate
    return (out,)


def _scaled_by_position(query: Tensor) -> tuple[Tensor, ...]:
    """Scale queries by a factor of their position. Return them, and the local variables that stay alive with them."""
    tape, (_, length, *_) = query.tape, query.shape
    positions = tape.new((length,), "int64", "positions")
    positions = tape.new((length,), "int64", "positions + past")
    scales = tape.new((length,), "float32", "scales of positions")
    scaled = ops.mul(query, ops.view(scales, (1, length, 1, 1)), "query · scale")
    return ops.cast(scaled, query.dtype, "query, scaled"), positions, scales


def _eager(context: Context, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Run attention whose softmax has the data type of the scores. Under autocast it is in float32."""
    key = attention.repeat_kv(query, key, "key, repeated")
    value = attention.repeat_kv(query, value, "value, repeated")
    return attention.eager_without_casts(context, query, key, value)


def _feed_forward(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
    """Run a gated MLP, or a mixture of all experts and a shared one (Llama4TextMoe)."""
    if "feed_forward.router" not in modules:
        return mlp.gated(context, modules, x, "feed_forward")
    hidden_states = ops.view(x, (x.shape[0] * x.shape[1], x.shape[2]))
    router = modules["feed_forward.router"]
    scores, logits = leave_with(router.name, *_scores(context, router, enter(router.name, hidden_states)))
    context.set_scope(f"{modules.prefix}feed_forward: ")
    among, (tokens, hidden) = context.config["num_experts"], hidden_states.shape
    routed_in = ops.repeat(hidden_states, among, "tokens for every expert", (among * tokens, hidden))
    by_expert = ops.contiguous(ops.view(scores, (among, tokens)), "scores by experts")
    routed_in = ops.mul(routed_in, ops.view(by_expert, (among * tokens, 1)), "tokens · scores")
    del by_expert
    routed_out = _experts(context, modules, routed_in)
    out = mlp.called(context, modules, hidden_states, "feed_forward.shared_expert")
    context.set_scope(f"{modules.prefix}feed_forward: ")
    # The sum's gradient is expanded, so it is copied to be the gradient of all experts' rows.
    reshape = ops.permute if among > 1 and tokens > 1 else ops.view
    total = ops.sum_over(reshape(routed_out, (among, tokens, hidden)), (tokens, hidden), "sum of the experts")
    out = in_place.add_(out, total)
    context.record_router_logits(logits)
    return ops.view(out, x.shape)


def _scores(context: Context, router: BoundModule, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
    """Run Llama4Router. Return the sigmoid of the chosen experts' logits, 0 for other experts, and the logits."""
    logits = compute_logits(context, router, hidden_states)
    values, indices = indexing.top_k(logits, context.config["num_experts_per_tok"], "chosen logits")
    scores = indexing.scatter_(hidden_states.tape.new(logits.shape, logits.dtype, "scores"), indices, values)
    in_float32 = ops.unary(ops.cast(scores, "float32", "scores in float32"), "sigmoid", saves="result")
    return ops.cast(in_float32, logits.dtype, "scores"), logits


def _experts(context: Context, modules: LayerModules, routed_in: Tensor) -> Tensor:
    """Run Llama4TextExperts: every expert on every token."""
    bound = modules["feed_forward.experts"]
    routed_in = enter(bound.name, routed_in)
    context.set_scope(f"{bound.name}: ")
    gate_up_proj, down_proj = bound.own["gate_up_proj"], bound.own["down_proj"]
    among, width, gate_up_width = gate_up_proj.shape
    tokens = routed_in.shape[0] // among
    x = ops.view(routed_in, (among, tokens, width))
    gate_up = products.bmm(x, gate_up_proj, (among, tokens, gate_up_width), "gate_up_proj")
    half = (among, tokens, gate_up_width // 2)
    gate, up = ops.split(gate_up, [half, half])
    product = ops.mul(up, activation(context.config["hidden_act"])(gate), "up · activated gate")
    out = products.bmm(product, down_proj, x.shape, "down_proj")
    return leave(bound.name, ops.view(out, routed_in.shape))


def _layer(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Run Llama4TextDecoderLayer. Its local variables keep the output of attention alive while the MLP runs."""
    residual = hidden_states
    hidden_states = norms.scaled_rms_norm(modules["input_layernorm"], hidden_states)
    attention_states = run_sublayer(context, modules, "attention", _attend, hidden_states)
    hidden_states = ops.add(residual, attention_states, "residual after attention")
    residual = hidden_states
    hidden_states = norms.scaled_rms_norm(modules["post_attention_layernorm"], hidden_states)
    hidden_states = run_sublayer(context, modules, "mlp", _feed_forward, hidden_states)
    out = ops.add(residual, hidden_states, "residual after MLP")
    del attention_states
    return out


def _no_flash(_config: Config) -> str:
    return "transformers has no FlashAttention 2 for Llama 4: use sdpa"


LLAMA4 = DecoderForward(
    embeddings=_words,
    layer=_layer,
    tables=_tables,
    final_norm=final(norms.scaled_rms_norm),
    chunked=True,
    flattens=False,
    refuses_flash=_no_flash,
)
