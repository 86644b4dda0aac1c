"""ViT: patches with a class token and learned positions, bidirectional attention, and a norm before each sublayer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.autograd import AccumulateGrad
from calculator.engine.tape import Tensor
from calculator.layers import attention, norms
from calculator.layers.activation import activation
from calculator.layers.decoder_forward import DecoderForward, final
from calculator.layers.decoder_layer import run_sublayer
from calculator.layers.encoder import first_token, no_tables
from calculator.layers.self_attention import split_heads

if TYPE_CHECKING:
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules

_EMBEDDINGS = "vit.embeddings"


def _patches(context: Context, pixel_values: Tensor) -> Tensor:
    """Embed patches by a convolution: (batch, channels, height, width) to (batch, patches, hidden_size)."""
    projection = context.outer(f"{_EMBEDDINGS}.patch_embeddings.projection")
    weight, bias = projection.own["weight"], projection.own["bias"]
    context.set_scope("vit: ")
    pixel_values = ops.cast(pixel_values, weight.dtype, "pixel values, cast")
    context.decoder_locals.append(pixel_values)
    context.set_scope(f"{_EMBEDDINGS}.patch_embeddings.projection: ")
    shape = (context.batch, named(context.length - 1, "patches"), weight.shape[0])
    out = products.convolution(pixel_values, weight, bias, shape, "output")
    if not context.prepared.grads_inputs or out.edge:
        return out
    leaf = AccumulateGrad(context.tape, "patches", "activations")
    leaf.context, leaf.copies = out, context.length > 2  # the code transposes the convolution's output
    return Tensor(context.tape, out.storage, out.shape, out.dtype, leaf)


def _before_layers(context: Context, embeddings: Tensor) -> Tensor:
    """Prepend the class token to the patches, add positions, and apply dropout."""
    parameters = context.outer(_EMBEDDINGS).own
    context.set_scope(f"{_EMBEDDINGS}: ")
    batch, _, width = embeddings.shape
    cls_tokens = ops.expand(parameters["cls_token"], (batch, 1, width))
    embeddings = ops.cat((cls_tokens, embeddings), (batch, context.length, width), "class token and patches")
    positions = parameters["position_embeddings"]
    if positions.edge is not None and batch == 1 and isinstance(positions.edge[0], AccumulateGrad):
        positions.edge[0].copies = True  # the gradient is that of the patches too, and not summed over images
    embeddings = ops.add(embeddings, positions, "with positions")
    return ops.dropout(embeddings, context.config["hidden_dropout_prob"], "dropped")


def _layer(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    residual = hidden_states
    hidden_states = norms.layer_norm(modules["layernorm_before"], hidden_states)
    hidden_states = run_sublayer(context, modules, "attention", _attention, hidden_states)
    hidden_states = _dropped(context, modules, hidden_states, "attention, dropped")
    hidden_states = ops.add(hidden_states, residual, "residual after attention")
    residual = hidden_states
    hidden_states = norms.layer_norm(modules["layernorm_after"], hidden_states)
    hidden_states = run_sublayer(context, modules, "mlp", _mlp, hidden_states)
    hidden_states = _dropped(context, modules, hidden_states, "MLP, dropped")
    return ops.add(hidden_states, residual, "residual after MLP")


def _dropped(context: Context, modules: LayerModules, x: Tensor, name: str) -> Tensor:
    context.set_scope(modules.prefix)
    return ops.dropout(x, context.config["hidden_dropout_prob"], name)


def _attention(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Run attention. Queries, keys and values stay alive until the module returns."""
    heads = context.config["num_attention_heads"]
    query_states, key_states, value_states = (
        split_heads(context, modules[f"attention.{name}_proj"](hidden_states), heads) for name in ("q", "k", "v")
    )
    context.set_scope(f"{modules.prefix}attention: ")
    attn_output = attention.attend(context, query_states, key_states, value_states)
    return modules["attention.o_proj"](attn_output)


def _mlp(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    hidden_states = modules["mlp.fc1"](hidden_states)
    context.set_scope(f"{modules.prefix}mlp: ")
    hidden_states = activation(context.config["hidden_act"])(hidden_states)
    return modules["mlp.fc2"](hidden_states)


def _scores(context: Context, sequence_output: Tensor) -> Tensor:
    """Classify the class token."""
    return context.outer("classifier")(first_token(sequence_output))


VIT = DecoderForward(
    layer=_layer,
    embeddings=_patches,
    before_layers=_before_layers,
    retained="input",
    tables=no_tables,
    final_norm=final(norms.layer_norm, "vit.layernorm"),
    scores=_scores,
    is_causal=False,
    dropout_modules=("hidden_dropout_prob",),
)
