"""Idefics 3 and SmolVLM: images in tiles, an encoder as in SigLIP, and a connector that shuffles patches into tokens.

Source: transformers/models/idefics3/modeling_idefics3.py and transformers/models/smolvlm/modeling_smolvlm.py.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import indexing
from calculator.engine import operations as ops
from calculator.engine.module_calls import enter, leave
from calculator.families.idefics3.images import process
from calculator.families.llama.forward import LLAMA
from calculator.layers import image_encoder, norms
from calculator.layers.decoder_forward import Tower, embed, final

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.architecture.dimension import Shape
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.context import Context
    from calculator.layers.tower import BatchTensor, Processed

TOWER, CONNECTOR, TEXT_MODEL = "model.vision_model", "model.connector", "model.text_model"


def _batch(config: Config, training: Training, image: Processed) -> list[BatchTensor]:
    """Return the tensors that images add to a batch: their pixels, and a mask of the pixels."""
    name, (_, channels, *sides), dtype = image_encoder.pixels(config, training.image_count)
    batch = named(training.micro_batch_size, "B")
    tiles = named(training.image_count // int(batch) * image.tiles, "tiles")
    return [
        (name, (batch, tiles, channels, *sides), dtype),
        ("pixel_attention_mask", (batch, tiles, *sides), "int64"),
    ]


def _encode(context: Context) -> list[Tensor]:
    """Run the tower and the connector. Return the tokens of each sequence."""
    tiles = named(context.image_count * context.image.tiles, "tiles")
    pixel_values, *masks = _real_tiles(context, tiles)
    last_hidden_state = image_encoder.encode_masked_pixels(context, TOWER, pixel_values)
    del pixel_values
    image_features = _connected(context, last_hidden_state)
    del masks
    context.set_scope("images: ")
    _, tokens, width = image_features.shape
    batch, tiles_per_row = int(context.batch), int(tiles) // int(context.batch)
    parts = ops.split(image_features, [(tiles_per_row * int(tokens), width) for _ in range(batch)])
    context.image_outputs = [(output, 1) for output in (last_hidden_state, *parts)]
    return parts


def _scatter_image_tokens(context: Context, inputs_embeds: Tensor, encoded: list[Tensor]) -> Tensor:
    """Replace the embeddings of the placeholders by the tokens."""
    context.set_scope("images: ")
    tokens, width = len(encoded) * int(encoded[0].shape[0]), encoded[0].shape[1]
    joined = ops.cat(encoded, (named(tokens, "image tokens"), width), "tokens")
    weight = context.outer(f"{TOWER}.embeddings.patch_embedding").own["weight"]
    joined = ops.cast(joined, weight.dtype, "tokens, cast")
    mask = context.tape.new((context.batch, context.length), "bool", "places of images")
    # SmolVLM's forward keeps the mask, which is local to a function of Idefics 3 (inputs_merger).
    context.decoder_locals += [joined, mask] if context.model.model_type == "smolvlm" else [joined]
    return indexing.fill_masked(inputs_embeds, mask, joined, "words and images")


def _real_tiles(context: Context, tiles: int) -> list[Tensor]:
    """Return the tiles that are not all zeros, which here are all tiles, their masks, and the mask of their patches."""
    tape, (pixel_values, pixel_mask) = context.tape, context.images
    weight = context.outer(f"{TOWER}.embeddings.patch_embedding").own["weight"]
    context.set_scope("model: ")
    pixel_values = ops.cast(pixel_values, weight.dtype, "pixel values, cast")
    shape: Shape = (tiles, *pixel_values.shape[2:])
    zeros = tape.new(shape, "bool", "pixels that are zero")
    del zeros
    real = tape.new((tiles,), "bool", "tiles that are not empty")
    row_tiles = tape.new((context.batch,), "int64", "tiles of each sequence")
    pixel_values = indexing.masked_rows(ops.view(pixel_values, shape), real, tiles, "pixel values of the tiles")
    tile_mask = ops.view(pixel_mask, (tiles, *pixel_mask.shape[2:]))
    pixel_mask = indexing.masked_rows(tile_mask, real, tiles, "mask of the pixels")
    del tile_mask
    vision = context.config["vision_config"]
    side = int(vision["image_size"]) // int(vision["patch_size"])
    summed = tape.new((tiles, side, side), "int64", "pixels of each patch")
    patch_mask = tape.new((tiles, side, side), "bool", "mask of the patches")
    del summed
    return [pixel_values, real, row_tiles, pixel_mask, patch_mask]


def _connected(context: Context, x: Tensor) -> Tensor:
    """Merge the patches of a square into the channels of one token, and project them (pixel_shuffle).

    A reshape does not copy if one token has all patches, or if each token has one patch.
    """
    (tiles, patches, width), projection = x.shape, f"{CONNECTOR}.modality_projection"
    x = enter(CONNECTOR, x)
    factor = int(context.config["scale_factor"])
    side, wide = int(int(patches) ** 0.5) // factor, int(width) * factor**2
    shapes: list[Shape] = [(tiles, side, side, wide), (tiles, named(side**2, "tokens"), wide)]
    context.set_scope(f"{CONNECTOR}: ")
    for shape, name in zip(shapes, ("rows", "columns"), strict=True):
        copies = side > 1 and factor > 1
        x = ops.contiguous(ops.permute(x, shape), f"{name}, shuffled") if copies else ops.view(x, shape)
    x = enter(projection, x)
    return leave(CONNECTOR, leave(projection, context.outer(f"{projection}.proj")(x)))


IDEFICS3 = replace(
    LLAMA,
    embeddings=partial(embed, name=f"{TEXT_MODEL}.embed_tokens"),
    final_norm=final(norms.rms_norm, f"{TEXT_MODEL}.norm"),
    tower=Tower(
        process=process,
        batch=_batch,
        kept=image_encoder.nothing_kept,
        encode=_encode,
        place=_scatter_image_tokens,
        chunks=image_encoder.one_chunk,
        source="transformers/models/idefics3/image_processing_idefics3.py",
    ),
)
