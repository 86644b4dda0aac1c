"""The replacement of image placeholders by the tokens of images in Qwen's models.

Source: transformers/models/qwen2_5_vl/modeling_qwen2_5_vl.py, Qwen2_5_VLModel.forward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import indexing
from calculator.engine import operations as ops
from calculator.engine.module_calls import begin, leave_with
from calculator.layers.tower import token_types

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.architecture.config import Config
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.context import Context
    from calculator.layers.tower import BatchTensor, Processed

    #: A function that runs a tower. It returns the last hidden states, the tokens of all images, and those of earlier
    #: layers.
    RunTower = Callable[[Context, Tensor, Processed, int], tuple[Tensor, Tensor, list[Tensor]]]


_TOWER = "model.visual"


def batch(config: Config, training: Training, image: Processed) -> list[BatchTensor]:
    """Return the tensors that images add to a batch."""
    vision, count = config["vision_config"], training.image_count
    patch = int(vision["patch_size"])
    width = int(vision["in_channels"]) * int(vision["temporal_patch_size"]) * patch**2
    patches = named(count * image.patches, "patches")
    return [
        ("pixel_values", (patches, named(width, "pixels of a patch")), "float32"),
        ("image_grid_thw", (named(count, "images"), 3), "int64"),
        token_types("mm_token_type_ids", training),
    ]


def rope_deltas(training: Training) -> tuple[BatchTensor, ...]:
    """Return the offsets between the tokens and the positions of each sequence, which the model keeps."""
    return (("model.rope_deltas", (named(training.micro_batch_size, "B"), 1), "int64"),)


def encode(context: Context, *, tower: RunTower) -> list[Tensor]:
    """Run the tower. Return the tokens of all images, and those of its earlier layers."""
    image, count = context.image, context.image_count
    weight = context.outer("model.visual.patch_embed.proj").own["weight"]
    pixel_values = ops.cast(context.images[0], weight.dtype, "model.visual: pixel values, cast")
    begin(context.tape, _TOWER)
    hidden_states, merged, features = tower(context, pixel_values, image, count)
    hidden_states, merged, *features = leave_with(_TOWER, hidden_states, merged, *features)
    del pixel_values
    context.image_outputs = [(hidden_states, 1), *((output, count) for output in (merged, *features))]
    return [merged, *features]


def scatter_image_tokens(context: Context, inputs_embeds: Tensor, encoded: list[Tensor]) -> Tensor:
    """Replace the embeddings of the placeholders by the tokens of images."""
    merged, *features = encoded
    context.set_scope("images: ")
    image_embeds = ops.cast(ops.cat((merged,), merged.shape, "tokens"), inputs_embeds.dtype, "tokens, cast")
    masks = [
        context.tape.new((context.batch, context.length), "bool", f"places of {name}") for name in ("images", "videos")
    ]
    context.decoder_locals += [image_embeds, *masks]
    out = indexing.fill_masked(inputs_embeds, masks[0], image_embeds, "words and images")
    context.set_scope("images: ")
    context.image_features = [
        (masks[0], ops.cat((feature,), feature.shape, "tokens of an earlier layer")) for feature in features
    ]
    return out
