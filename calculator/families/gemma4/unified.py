"""Gemma 4 12B with images: two linear layers and learned positions embed patches of pixels, without a tower.

Source: transformers/models/gemma4_unified/modeling_gemma4_unified.py, Gemma4UnifiedModel.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements, named
from calculator.engine import indexing
from calculator.engine import operations as ops
from calculator.families.gemma4.norms import unscaled_rms_norm
from calculator.families.gemma4.processor import MOST_TOKENS, process_unified
from calculator.families.gemma4.with_images import GEMMA4
from calculator.layers import image_encoder, masks, norms
from calculator.layers.decoder_forward import Tower
from calculator.layers.tower import token_types

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import MixerType
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.context import Context
    from calculator.layers.tower import BatchTensor, Processed

_PATH = "model.embed_vision"


def _batch(config: Config, training: Training, _image: Processed) -> list[BatchTensor]:
    images, tokens = named(training.image_count, "images"), named(MOST_TOKENS, "tokens")
    return [
        ("pixel_values", (images, tokens, named(config["vision_config"]["patch_pixels"], "pixels")), "float32"),
        ("image_position_ids", (images, tokens, 2), "int64"),
        token_types("mm_token_type_ids", training),
    ]


def _encode(context: Context) -> list[Tensor]:
    """Embed the patches and drop padding. Return the tokens of each image."""
    last_hidden_state, projected = _embedded(context, context.images[0])
    images, tokens, width = projected.shape
    context.set_scope("images: ")
    no_padding = context.tape.new((images, tokens), "bool", "no padding")
    count = named(context.image.tokens * int(images), "image tokens")
    rows = indexing.masked_rows(projected, no_padding, count, "tokens, without padding")
    del projected, no_padding
    parts = ops.split(rows, [(context.image.tokens, width) for _ in range(images)])
    del rows
    context.image_outputs = [(last_hidden_state, 1), *((part, 1) for part in parts)]
    return parts


def _scatter_image_tokens(context: Context, inputs_embeds: Tensor, encoded: list[Tensor]) -> Tensor:
    """Replace the embeddings of the placeholders by the tokens."""
    context.set_scope("images: ")
    shape = (named(len(encoded) * int(encoded[0].shape[0]), "image tokens"), encoded[0].shape[1])
    image_features = ops.cast(ops.cat(encoded, shape, "tokens"), inputs_embeds.dtype, "tokens, cast")
    mask, number = context.decoder_locals[0], context.tape.new((), "int64", "number of tokens")
    context.decoder_locals += [image_features, number]
    replaced = indexing.masked_elements(inputs_embeds, named(elements(image_features.shape), "elements"), "replaced")
    del replaced
    return indexing.fill_masked(inputs_embeds, mask, image_features, "words and images")


def _embedded(context: Context, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
    """Embed (images, tokens, pixels) as (images, tokens, mm_embed_dim), and project that to hidden_size."""
    project = context.outer(f"{_PATH}.patch_dense")
    context.set_scope(f"{_PATH}: ")
    if project.module_spec.quantization is None:
        pixel_values = ops.cast(pixel_values, project.own["weight"].dtype, "pixels, cast")
    hidden_states = norms.layer_norm(context.outer(f"{_PATH}.patch_ln1"), pixel_values)
    hidden_states = project(hidden_states)
    hidden_states = norms.layer_norm(context.outer(f"{_PATH}.patch_ln2"), hidden_states)
    _clamped, _valid, positions = _positions(context, pixel_values)
    context.set_scope(f"{_PATH}: ")
    hidden_states = ops.add(hidden_states, positions, "patches with positions")
    hidden_states = norms.layer_norm(context.outer(f"{_PATH}.pos_norm"), hidden_states)
    return hidden_states, _projected(context, hidden_states)


def _positions(context: Context, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum of the embeddings of each patch's column and row, after their indices and their mask."""
    tape, places = context.tape, (*pixel_values.shape[:2], 2)
    context.set_scope(f"{_PATH}: ")
    table = context.outer(_PATH).own["pos_embedding"]
    clamped = tape.new(places, "int64", "positions, at least 0")
    valid = tape.new((*places, 1), table.dtype, "no padding")
    axes = tape.new((2,), "int64", "axes")
    rows = indexing.index_pairs(table, clamped, axes, "embeddings of columns and rows")
    rows = ops.mul(rows, valid, "embeddings of columns and rows, no padding")
    return clamped, valid, ops.sum_over(rows, (*places[:2], table.shape[2]), "embeddings of positions")


def _projected(context: Context, inputs_embeds: Tensor) -> Tensor:
    """Run Gemma4UnifiedMultimodalEmbedder."""
    project = context.outer(f"{_PATH}.multimodal_embedder.embedding_projection")
    context.set_scope(f"{_PATH}.multimodal_embedder: ")
    if project.module_spec.quantization is None:
        inputs_embeds = ops.cast(inputs_embeds, project.own["weight"].dtype, "embeddings, cast")
    return project(unscaled_rms_norm(inputs_embeds))


def _masks(context: Context) -> dict[MixerType, Tensor | None]:
    """Return the masks, also for text. The tokens of an image attend to each other if the config sets `vision`."""
    if context.config["use_bidirectional_attention"] != "vision":
        return masks.text_masks(context)
    blocks = context.tape.new((context.batch, context.length), "int64", "images by number")
    context.decoder_locals.append(blocks)
    return {kind: _mask(context, kind) for kind in sorted(masks.attention_types(context.layers))}


def _mask(context: Context, kind: MixerType) -> Tensor:
    """Return a mask (batch, 1, sequence, keys), causal in the window or bidirectional in an image, without padding."""
    width = context.length + masks.cached_tokens(context, kind)
    shape = (context.batch, context.length, width)
    mask = context.tape.new(shape, "bool", "causal or of one image")
    if context.training.passes_mask:
        mask = context.tape.new(shape, "bool", "and not padding")
    if context.attention != "eager":
        return mask
    return context.tape.new((context.batch, 1, *shape[1:]), context.dtype, "additive")


GEMMA4_UNIFIED = replace(
    GEMMA4,
    masks_of_batch=_masks,
    tower=Tower(
        process=process_unified,
        batch=_batch,
        kept=image_encoder.nothing_kept,
        encode=_encode,
        place=_scatter_image_tokens,
        types_new_tokens=False,
        chunks=image_encoder.one_chunk,
        convolves=False,
        source="transformers/models/gemma4_unified/image_processing_gemma4_unified.py",
    ),
)
