"""Gemma 3 with images: SigLIP, a projector that pools patches, and masks in which tokens of an image attend mutually.

Source: transformers/models/gemma3/modeling_gemma3.py.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.common.errors import refusal
from calculator.engine import operations as ops
from calculator.engine import pooling, products
from calculator.engine.module_calls import enter, leave, transposed
from calculator.layers import image_encoder, masks, norms
from calculator.layers.decoder_forward import Tower
from calculator.layers.fixed_images import no_limits
from calculator.layers.tower import Processed, token_types

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import MixerType
    from calculator.engine.tape import Tensor
    from calculator.inputs.images import Images
    from calculator.inputs.training import Training
    from calculator.layers.context import Context
    from calculator.layers.tower import BatchTensor

_TOWER, _PROJECTOR = "model.vision_tower", "model.multi_modal_projector"

#: The number of tokens around an image. Before it are two line breaks, which are one token, and the image's start.
#: After it are its end and two line breaks.
#: Source: transformers/models/gemma3/processing_gemma3.py, full_image_sequence.
_AROUND = 4


def _pooled_side(config: Config) -> int:
    """Return the number of tokens along a side of an image (Gemma3MultiModalProjector.avg_pool)."""
    vision = config["vision_config"]
    patches = int(vision["image_size"]) // int(vision["patch_size"])
    kernel = patches // int(config["mm_tokens_per_image"] ** 0.5)
    return (patches - kernel) // kernel + 1


def _process(config: Config, images: Images) -> Processed:
    """Resize an image to the tower's size, without keeping its proportions. Pan and scan is off by default."""
    vision = config["vision_config"]
    no_limits(images)
    if vision["vision_use_head"]:
        message = "must be false: the step of SigLIP's pooling head, which Gemma 3 does not use, is not modeled"
        raise refusal("model.config.vision_config.vision_use_head", message, value=True)
    if config["sliding_window"] is None:
        message = "transformers fails without a window where there are images: set one, or leave training.images out"
        raise refusal("model.config.text_config.sliding_window", message)
    side, tokens = int(vision["image_size"]), _pooled_side(config)
    patches = side // int(vision["patch_size"])
    return Processed(height=side, width=side, rows=patches, columns=patches, tokens=tokens**2, around=_AROUND)


def _batch(config: Config, training: Training, _image: Processed) -> list[BatchTensor]:
    """Return the tensors that images add to a batch."""
    return [image_encoder.pixels(config, training.image_count), token_types("token_type_ids", training)]


def _project(context: Context, vision_outputs: Tensor) -> Tensor:
    """Average the patches of each token and project them: (images, patches, hidden_size) to (images, tokens, ...)."""
    images, _, width = vision_outputs.shape
    vision, side = context.config["vision_config"], _pooled_side(context.config)
    patches = int(vision["image_size"]) // int(vision["patch_size"])
    context.set_scope(f"{_PROJECTOR}: ")
    vision_outputs, pool = enter(_PROJECTOR, vision_outputs), f"{_PROJECTOR}.avg_pool"
    by_channels = ops.contiguous(ops.view(vision_outputs, (images, width, patches, patches)), "patches, by channels")
    pooled = pooling.average(enter(pool, by_channels), (images, width, side, side), "patches, pooled")
    pooled = leave(pool, pooled)
    pooled = ops.view(pooled, (images, named(side**2, "tokens"), width))
    normed = norms.offset_rms_norm(context.outer(f"{_PROJECTOR}.mm_soft_emb_norm"), pooled)
    weight = context.outer(_PROJECTOR).own["mm_input_projection_weight"]
    context.set_scope(f"{_PROJECTOR}: ")
    factor = normed
    if weight.edge is not None and images > 1:
        factor = ops.contiguous(normed, "tokens, contiguous")
    if weight.edge is None:
        weight = transposed(weight)
    # DeepSpeed replaces F.linear, not torch.matmul.
    projected = products.addmm(factor, weight, None, weight.shape[1], "tokens")
    return leave(_PROJECTOR, ops.cast(projected, vision_outputs.dtype, "tokens in the tower's dtype"))


def _masks(context: Context) -> dict[MixerType, Tensor | None]:
    """Return the masks of both attention types. The model makes both, whatever its layers are.

    Source: create_masks_for_vision_model; transformers/masking_utils.py.
    """
    tape, shape = context.tape, (context.batch, context.length)
    block_ids = tape.new(shape, "int64", "images by number")
    context.decoder_locals.append(block_ids)
    return {kind: _mask(context) for kind in ("full_attention", "sliding_attention")}


def _mask(context: Context) -> Tensor:
    """Return a mask (batch, 1, sequence, sequence): causal or bidirectional in an image, in the window, no padding."""
    tape, batch, length = context.tape, context.batch, context.length
    mask = masks.causal_or_of_one_image(context)
    if context.training.padding:
        mask = tape.new((batch, length, length), "bool", "and not padding")
    return mask


GEMMA3_IMAGES = Tower(
    process=_process,
    batch=_batch,
    kept=image_encoder.nothing_kept,
    encode=partial(image_encoder.projected, path=_TOWER, project=_project),
    place=image_encoder.placed,
    chunks=image_encoder.one_chunk,
    masks=_masks,
    types_new_tokens=False,
    source="transformers/models/gemma3/processing_gemma3.py",
)
