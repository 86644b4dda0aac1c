"""Gemma 4's vision tower: padded patches with learned positions, layers as in the text model, and pooling by products.

Source: transformers/models/gemma4/modeling_gemma4.py, Gemma4VisionModel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements, named
from calculator.engine import indexing, products
from calculator.engine import operations as ops
from calculator.engine.tape import Tensor
from calculator.families.gemma4 import clipped
from calculator.families.gemma4.norms import rms_norm, unscaled_rms_norm
from calculator.families.gemma4.processor import most_patches, process
from calculator.layers import attention, image_encoder, masks, rotary
from calculator.layers.activation import activation
from calculator.layers.decoder_forward import Tower
from calculator.layers.tower import token_types
from calculator.layers.tower_layers import run_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import MixerType
    from calculator.common.dtype import DType
    from calculator.inputs.training import Training
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules
    from calculator.layers.tower import BatchTensor, Processed

_TOWER, _EMBEDDER = "model.vision_tower", "model.embed_vision"


def _batch(config: Config, training: Training, _image: Processed) -> list[BatchTensor]:
    images, patches = named(training.image_count, "images"), named(most_patches(config), "patches")
    pixels = named(3 * int(config["vision_config"]["patch_size"]) ** 2, "pixels of a patch")
    return [
        ("pixel_values", (images, patches, pixels), "float32"),
        ("image_position_ids", (images, patches, 2), "int64"),
        token_types("mm_token_type_ids", training),
    ]


def _encode(context: Context) -> list[Tensor]:
    """Run the tower, and project its tokens."""
    last_hidden_state = _tower(context, context.images[0])
    context.set_scope(f"{_EMBEDDER}.embedding_pre_projection_norm: ")
    normed = unscaled_rms_norm(last_hidden_state)
    pooler_output = context.outer(f"{_EMBEDDER}.embedding_projection")(normed)
    context.image_outputs = [(last_hidden_state, 1), (pooler_output, 1)]
    return [pooler_output]


def _scatter_image_tokens(context: Context, inputs_embeds: Tensor, encoded: list[Tensor]) -> Tensor:
    """Replace the embeddings of the placeholders by the tokens."""
    context.set_scope("images: ")
    image_features = ops.cast(ops.cat(encoded, encoded[0].shape, "tokens"), inputs_embeds.dtype, "cast")
    mask, number = context.decoder_locals[0], context.tape.new((), "int64", "number of tokens")
    context.decoder_locals += [image_features, number]
    replaced = indexing.masked_elements(inputs_embeds, named(elements(image_features.shape), "elements"), "replaced")
    del replaced
    return indexing.fill_masked(inputs_embeds, mask, image_features, "words and images")


def _tower(context: Context, pixel_values: Tensor) -> Tensor:
    """Run the tower: (images, patches, pixels) to (tokens of all images, hidden_size).

    The code keeps the first layer's input and the last layer's output alive until it returns.
    """
    images, patches, _ = pixel_values.shape
    context.set_scope(f"{_TOWER}: ")
    padding = context.tape.new((images, patches), "bool", "padding")
    inputs_embeds = _patches(context, pixel_values, padding)
    last_hidden_state = _encoded(context, [inputs_embeds])
    hidden_states = _pooled(context, last_hidden_state, padding)
    hidden_states = ops.cast(hidden_states, inputs_embeds.dtype, "tokens, cast")
    del last_hidden_state
    return hidden_states


def _encoded(context: Context, inputs: list[Tensor]) -> Tensor:
    """Run the layers on their input, which is removed from the list.

    The caller keeps the argument of the mask alive.
    """
    images, patches, _ = inputs[0].shape
    context.set_scope(f"{_TOWER}.encoder: ")
    _attention_mask = context.tape.new((images, patches), "bool", "no padding")
    mask = _mask(context, images, patches)
    tables = _tables(context, images, patches, inputs[0].dtype)

    def run(_index: int, modules: LayerModules, _given: Sequence[Tensor], x: Tensor) -> Tensor:
        return _layer(context, modules, x, tables)

    captured = [*tables, mask] if mask is not None else [*tables]
    dropout = float(context.config["vision_config"]["attention_dropout"] or 0)
    return run_layers(
        context, f"{_TOWER}.encoder.layers", inputs, run, lambda _index: captured, dropout=dropout, mask=mask
    )


def _patches(context: Context, pixel_values: Tensor, padding: Tensor) -> Tensor:
    """Project scaled pixels, and add the embeddings of each patch's row and column. Those of padding are zero."""
    path = f"{_TOWER}.patch_embedder"
    project, position_table = context.outer(f"{path}.input_proj"), context.outer(path).own["position_embedding_table"]
    context.set_scope(f"{path}: ")
    pixel_values = ops.scale(ops.shift(pixel_values, "pixels - 0.5"), "pixels, scaled")
    if project.module_spec.quantization is None:
        pixel_values = ops.cast(pixel_values, project.own["weight"].dtype, "pixels, cast")
    hidden_states = project(pixel_values)
    context.set_scope(f"{path}: ")
    places = context.tape.new((*padding.shape, 2), "int64", "positions, at least 0")
    table = (position_table.shape[1], position_table.shape[2])
    rows = [
        products.embedding(
            ops.narrow(places, padding.shape), ops.narrow(position_table, table), table[1], f"embeddings of {name}"
        )
        for name in ("columns", "rows")
    ]
    positions = ops.add(rows[0], rows[1], "embeddings of positions")
    del rows, places
    by_patch = ops.view(padding, (*padding.shape, 1))
    positions = ops.where(by_patch, positions, positions.shape, "embeddings of positions, no padding")
    return ops.add(hidden_states, positions, "patches with positions")


def _mask(context: Context, images: int, patches: int) -> Tensor | None:
    """Return a mask of padding (images, 1, patches, patches), or None without padding."""
    if context.image.patches == patches:
        return None
    tape = context.tape
    every = tape.new((1, patches, 1), "bool", "every patch")
    valid = tape.new((images, 1, patches), "bool", "no padding, by patches")
    mask = tape.new((images, patches, patches), "bool", "patches that are seen")
    del every, valid
    return mask


def _tables(context: Context, images: int, patches: int, dtype: DType) -> list[Tensor]:
    """Return cos and sin of every patch. Half of a head encodes the column, half the row."""
    head = int(context.config["vision_config"]["head_dim"])
    context.set_scope(f"{_TOWER}.encoder.rotary_emb: ")
    freqs = context.tape.new((images, patches, 2, head // 4), "float32", "freqs")
    tables = [ops.scale(ops.unary(freqs, name, saves="input"), f"{name}, scaled") for name in ("cos", "sin")]
    del freqs
    for index, name in enumerate(("cos", "sin")):
        tables[index] = ops.cat((tables[index],), (images, patches, head), f"{name}, whole")
    return [ops.cast(table, dtype, "cast") for table in tables]


def _layer(context: Context, modules: LayerModules, x: Tensor, tables: Sequence[Tensor]) -> Tensor:
    normed = rms_norm(modules["input_layernorm"], x)
    attended = _attention(context, modules, normed, tables)
    del normed
    attended = rms_norm(modules["post_attention_layernorm"], attended)
    x = ops.add(x, attended, "residual after attention")
    del attended
    normed = rms_norm(modules["pre_feedforward_layernorm"], x)
    output = _mlp(context, modules, normed)
    del normed
    output = rms_norm(modules["post_feedforward_layernorm"], output)
    return ops.add(x, output, "residual after MLP")


def _attention(context: Context, modules: LayerModules, x: Tensor, tables: Sequence[Tensor]) -> Tensor:
    """Attend among the patches of each image: (images, patches, hidden_size) to the same shape."""
    query, key = (_rotated(modules, _heads(context, modules, x, name), name, tables) for name in ("q", "k"))
    value = _heads(context, modules, x, "v")
    context.set_scope(f"{modules.prefix}self_attn.v_norm: ")
    value = unscaled_rms_norm(value)
    context.set_scope(f"{modules.prefix}self_attn: ")
    return clipped.run(context, modules, "self_attn.o_proj", attention.attend(context, query, key, value))


def _heads(context: Context, modules: LayerModules, x: Tensor, name: str) -> Tensor:
    head = context.config["vision_config"]["head_dim"]
    x = clipped.run(context, modules, f"self_attn.{name}_proj", x)
    return ops.view(x, (x.shape[0], x.shape[2] // head, x.shape[1], head))


def _rotated(modules: LayerModules, x: Tensor, name: str, tables: Sequence[Tensor]) -> Tensor:
    """Normalize heads, and rotate their halves by the column and the row (apply_multidimensional_rope)."""
    x = rms_norm(modules[f"self_attn.{name}_norm"], x)
    x.tape.scope = f"{modules.prefix}self_attn: "
    half = (*x.shape[:-1], x.shape[-1] // 2)
    cos, sin = (ops.view(table, (table.shape[0], 1, *table.shape[1:])) for table in tables)
    parts = [
        rotary.rotate(
            ops.narrow(x, half), ops.narrow(cos, _half_shape(cos)), ops.narrow(sin, _half_shape(sin)), f"{name}, part"
        )
        for _ in range(2)
    ]
    rotated = ops.cat(parts, x.shape, f"{name}, rotated")
    rotated.merged = False  # its memory has the patches before the heads
    return rotated


def _half_shape(table: Tensor) -> tuple[int, ...]:
    return (*table.shape[:-1], table.shape[-1] // 2)


def _mlp(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
    """Return down(act(gate(x)) · up(x)), with the tower's activation."""
    gate = clipped.run(context, modules, "mlp.gate_proj", x)
    context.set_scope(f"{modules.prefix}mlp: ")
    act_gate = activation(context.config["vision_config"]["hidden_act"])(gate)
    del gate
    up = clipped.run(context, modules, "mlp.up_proj", x)
    context.set_scope(f"{modules.prefix}mlp: ")
    product = ops.mul(act_gate, up, "activated gate · up")
    del act_gate, up
    return clipped.run(context, modules, "mlp.down_proj", product)


def _pooled(context: Context, hidden_states: Tensor, padding: Tensor) -> Tensor:
    """Average the patches of each token, scale, and drop padding: (tokens of all images, hidden_size)."""
    tape, (images, patches, width) = context.tape, hidden_states.shape
    vision, dtype = context.config["vision_config"], hidden_states.dtype
    context.set_scope(f"{_TOWER}.pooler: ")
    hidden_states = indexing.masked_fill(hidden_states, ops.view(padding, (images, patches, 1)), "patches")
    length = named(patches // int(vision["pooling_kernel_size"]) ** 2, "tokens")
    weights = tape.new((images, patches, length), "float32", "weights")
    hidden_states = ops.cast(hidden_states, "float32", "patches in float32")
    weights = ops.view(weights, (images, length, patches))
    hidden_states = products.bmm(weights, hidden_states, (images, length, width), "tokens")
    hidden_states = ops.cast(hidden_states, dtype, "tokens, cast back")
    mask = tape.new((images, length), "bool", "tokens that are no padding")
    del weights
    hidden_states = ops.scale(ops.cast(hidden_states, "float32", "tokens in float32"), "tokens, scaled")
    context.set_scope(f"{_TOWER}: ")
    count = named(context.image.tokens * int(images), "image tokens")
    hidden_states = indexing.masked_rows(hidden_states, mask, count, "tokens, without padding")
    return _standardized(context, hidden_states) if vision["standardize"] else hidden_states


def _standardized(context: Context, hidden_states: Tensor) -> Tensor:
    """Subtract a buffer and multiply by another one, both cast to float32."""
    bias, scale = (
        ops.cast(Tensor(context.tape, None, hidden_states.shape[-1:], context.buffer_dtype, None), "float32", name)
        for name in ("std_bias in float32", "std_scale in float32")
    )
    return ops.mul(ops.subtract(hidden_states, bias, "tokens, shifted"), scale, "tokens, standardized")


def _masks(context: Context) -> dict[MixerType, Tensor | None]:
    """Return the decoder's masks. In windows, an image's tokens attend to each other if the config sets `vision`."""
    masks_by_type = masks.text_masks(context)
    if context.config["use_bidirectional_attention"] != "vision":
        return masks_by_type
    tape, shape = context.tape, (context.batch, context.length)
    context.decoder_locals.append(tape.new(shape, "int64", "images by number"))
    return {**masks_by_type, "sliding_attention": _sliding_mask(context)}


def _sliding_mask(context: Context) -> Tensor:
    """Return a mask (batch, 1, sequence, sequence): causal or bidirectional in an image, in the window, no padding."""
    tape, batch, length = context.tape, context.batch, context.length
    mask = masks.causal_or_of_one_image(context)
    mask = tape.new((batch, length, length), "bool", "and in the window")
    if context.training.padding:
        mask = tape.new((batch, length, length), "bool", "and not padding")
    return mask


GEMMA4_IMAGES = Tower(
    process=process,
    batch=_batch,
    kept=image_encoder.nothing_kept,
    encode=_encode,
    place=_scatter_image_tokens,
    types_new_tokens=False,
    grads_patches=False,
    chunks=image_encoder.one_chunk,
    convolves=False,
    masks=_masks,
    source="transformers/models/gemma4/image_processing_gemma4.py",
)
