"""PaliGemma: SigLIP, a projection of each patch to a token, and a prefix whose tokens all attend to each other.

Source: transformers/models/paligemma/modeling_paligemma.py.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from calculator.common.errors import refusal
from calculator.engine.module_calls import enter, leave
from calculator.families.gemma.forward import GEMMA
from calculator.families.gemma3.forward import embed_words, refuses_flash
from calculator.layers import image_encoder, masks, norms
from calculator.layers.decoder_forward import Tower, final
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

TOWER, PROJECTOR, TEXT_MODEL = "model.vision_tower", "model.multi_modal_projector", "model.language_model"


def _process(config: Config, images: Images) -> Processed:
    """Resize an image to the tower's size, without keeping its proportions."""
    vision = config["vision_config"]
    no_limits(images)
    if vision["vision_use_head"]:
        message = "must be false: the step of SigLIP's pooling head, which PaliGemma does not use, is not modeled"
        raise refusal("model.config.vision_config.vision_use_head", message, value=True)
    side = int(vision["image_size"])
    patches = side // int(vision["patch_size"])
    return Processed(height=side, width=side, rows=patches, columns=patches, tokens=patches**2)


def _batch(config: Config, training: Training, _image: Processed) -> list[BatchTensor]:
    """Return the tensors that images add to a batch, and those that separate the prefix from the suffix."""
    return [image_encoder.pixels(config, training.image_count), token_types("token_type_ids", training)]


def _project(context: Context, vision_outputs: Tensor) -> Tensor:
    """Project each patch: (images, patches, hidden_size) to (images, tokens, hidden_size of the text model)."""
    return leave(PROJECTOR, context.outer(f"{PROJECTOR}.linear")(enter(PROJECTOR, vision_outputs)))


def _masks(context: Context) -> dict[MixerType, Tensor | None]:
    """Return the mask (batch, 1, sequence, sequence): causal or bidirectional in the prefix, without padding."""
    tape, batch, length = context.tape, context.batch, context.length
    context.decoder_locals.append(tape.new((batch, length), "int64", "the prefix, by number"))
    mask = masks.causal_or_of_one_image(context)
    if context.training.passes_mask:
        mask = tape.new((batch, length, length), "bool", "and not padding")
    return {"full_attention": mask}


PALIGEMMA = replace(
    GEMMA,
    embeddings=embed_words,
    final_norm=final(norms.offset_rms_norm, f"{TEXT_MODEL}.norm"),
    refuses_flash=refuses_flash,
    changes_positions=True,
    tower=Tower(
        process=_process,
        batch=_batch,
        kept=image_encoder.nothing_kept,
        encode=partial(image_encoder.projected, path=TOWER, project=_project),
        place=image_encoder.placed,
        chunks=image_encoder.one_chunk,
        masks=_masks,
        follows_positions=True,
        source="transformers/models/paligemma/processing_paligemma.py",
    ),
)
