"""LLaVA 1.5: CLIP, a projector that turns patches into tokens, and Llama's or Mistral's text model.

Source: transformers/models/llava/modeling_llava.py.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import indexing
from calculator.engine import operations as ops
from calculator.engine.module_calls import enter, leave
from calculator.families.llama.forward import LLAMA
from calculator.layers import image_encoder, norms
from calculator.layers.activation import activation
from calculator.layers.decoder_forward import Tower, embed, final
from calculator.layers.fixed_images import no_limits
from calculator.layers.tower import Processed

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.engine.tape import Tensor
    from calculator.inputs.images import Images
    from calculator.inputs.training import Training
    from calculator.layers.context import Context
    from calculator.layers.tower import BatchTensor

TOWER, PROJECTOR, TEXT_MODEL = "model.vision_tower", "model.multi_modal_projector", "model.language_model"


def used_layers(config: Config) -> int:
    """Return the number of layers of the tower before the output that is used."""
    layer = int(config["vision_feature_layer"])
    return layer if layer > 0 else int(config["vision_config"]["num_hidden_layers"]) + 1 + layer


def _process(config: Config, images: Images) -> Processed:
    """Resize the shorter side to the tower's size, and crop a square from the centre.

    Source: transformers/models/llava/processing_llava.py, replace_image_token.
    """
    no_limits(images)
    vision = config["vision_config"]
    side = int(vision["image_size"])
    patches = side // int(vision["patch_size"])
    tokens = patches**2 + (config["vision_feature_select_strategy"] == "full")
    return Processed(height=side, width=side, rows=patches, columns=patches, tokens=tokens)


def _batch(config: Config, training: Training, _image: Processed) -> list[BatchTensor]:
    return [image_encoder.pixels(config, training.image_count)]


def _encode(context: Context) -> list[Tensor]:
    """Run the tower and the projector. Return the tokens of each image."""
    projected = projected_features(context, context.images[0])
    context.set_scope("images: ")
    images, tokens, width = projected.shape
    parts = ops.split(projected, [(tokens, width) for _ in range(images)], stacks=True)
    return with_outputs(context, parts)


def projected_features(context: Context, pixel_values: Tensor) -> Tensor:
    """Run the tower and project the output of one of its layers: (images, tokens, hidden_size)."""
    number = used_layers(context.config)
    selected, last_hidden_state, _pooled = image_encoder.clip(context, TOWER, pixel_values, number)
    context.image_outputs = [(last_hidden_state, 1), (selected, 1)]
    del last_hidden_state
    return _project(context, _without_class_token(context, selected))


def with_outputs(context: Context, parts: list[Tensor]) -> list[Tensor]:
    """Return the tokens (tokens, hidden_size) of each image, which the model returns too."""
    context.image_outputs[1:1] = [(part, 1) for part in parts]
    return parts


def scatter_image_tokens(context: Context, inputs_embeds: Tensor, encoded: list[Tensor]) -> Tensor:
    """Join the tokens of all images, and replace the embeddings of the placeholders by them."""
    context.set_scope("images: ")
    shape = (named(context.image.tokens * len(encoded), "image tokens"), encoded[0].shape[-1])
    image_features = ops.cat(encoded, shape, "tokens")
    image_features = ops.cast(image_features, inputs_embeds.dtype, "tokens, cast")
    mask = context.tape.new((context.batch, context.length), "bool", "places of images")
    context.decoder_locals += [image_features, mask]
    return indexing.fill_masked(inputs_embeds, mask, image_features, "words and images")


def _without_class_token(context: Context, selected: Tensor) -> Tensor:
    """Drop the class token, unless the config selects all tokens."""
    if context.config["vision_feature_select_strategy"] == "full":
        return selected
    images, tokens, width = selected.shape
    return ops.sliced_rows(selected, (images, tokens - 1, width))


def _project(context: Context, image_features: Tensor) -> Tensor:
    """Run LlavaMultiModalProjector: (images, tokens, hidden_size of the tower) to (images, tokens, hidden_size)."""
    hidden_states = context.outer(f"{PROJECTOR}.linear_1")(enter(PROJECTOR, image_features))
    context.set_scope(f"{PROJECTOR}: ")
    hidden_states = activation(context.config["projector_act"])(hidden_states)
    return leave(PROJECTOR, context.outer(f"{PROJECTOR}.linear_2")(hidden_states))


_IMAGES = Tower(
    process=_process,
    batch=_batch,
    kept=image_encoder.nothing_kept,
    encode=_encode,
    place=scatter_image_tokens,
    chunks=image_encoder.one_chunk,
    source="transformers/models/llava/processing_llava.py",
)

LLAVA = replace(
    LLAMA,
    embeddings=partial(embed, name=f"{TEXT_MODEL}.embed_tokens"),
    final_norm=final(norms.rms_norm, f"{TEXT_MODEL}.norm"),
    tower=_IMAGES,
)
