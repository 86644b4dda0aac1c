"""Gemma 4 with its towers.

Source: transformers/models/gemma4/modeling_gemma4.py, Gemma4Model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import selection
from calculator.families.gemma4.forward import GEMMA4_TEXT, LayerInputs, project_inputs, rows_of_layers
from calculator.families.gemma4.images import GEMMA4_IMAGES
from calculator.families.gemma4.norms import rms_norm
from calculator.layers.decoder_forward import embed, final

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context

_PATH = "model.language_model"


def _refused(_: Config) -> str:
    """Return why FlashAttention is refused: it has no mask in which an image's tokens attend to each other."""
    return "transformers refuses it for a model that reads images: use sdpa"


def _embeddings(context: Context, ids: Tensor) -> Tensor:
    """Look up word embeddings, with padding in place of placeholders, and the embeddings of the per-layer inputs.

    The code keeps these ids and both kinds of embeddings alive until the decoder returns. If PEFT has looked the
    embeddings up, it receives them instead of ids.
    """
    if context.method.embeds_inputs and not context.past:
        context.passed = LayerInputs(None)
        return embed(context, ids, f"{_PATH}.embed_tokens", scaled=True)
    places = _placeholders(context)
    given = context.tape.new(ids.shape, "int64", "ids, copied")
    ids = context.tape.new(ids.shape, "int64", "ids of words")
    del given
    context.decoder_locals.append(ids)
    inputs_embeds = embed(context, ids, f"{_PATH}.embed_tokens", scaled=True)
    if context.config["hidden_size_per_layer_input"]:
        context.set_scope("model: ")
        table = context.outer(f"{_PATH}.embed_tokens").own["weight"]
        padding = ops.view(ops.narrow(table, (1, table.shape[1])), (1, 1, table.shape[1]))
        context.decoder_locals.append(selection.where(places, padding, inputs_embeds, "words and padding"))
    rows = rows_of_layers(context, ids, _PATH)
    context.passed = LayerInputs(rows)
    context.decoder_locals += [rows] if rows is not None else []
    return inputs_embeds


def _placeholders(context: Context) -> Tensor:
    """Make the masks of placeholders, and return the mask of any placeholder.

    The code keeps all of them alive. The mask of images comes first.
    """
    shape = (context.batch, context.length)
    context.set_scope("model: ")
    masks = [context.tape.new(shape, "bool", f"places of {name}") for name in ("images", "videos", "sounds")]
    visual = context.tape.new(shape, "bool", "places of images and videos")
    places = context.tape.new(shape, "bool", "places of any")
    del visual
    context.decoder_locals += [*masks, places]
    return places


def _before_layers(context: Context, inputs_embeds: Tensor) -> Tensor:
    """Project embeddings to per-layer inputs.

    If the model receives embeddings, it makes the masks of placeholders here.
    """
    if context.method.embeds_inputs and not context.past:
        _placeholders(context)
    return project_inputs(context, inputs_embeds, _PATH)


GEMMA4 = replace(
    GEMMA4_TEXT,
    embeddings=_embeddings,
    before_layers=_before_layers,
    final_norm=final(rms_norm, f"{_PATH}.norm"),
    masks=(),
    refuses_flash=_refused,
    passes_labels=True,
    tower=GEMMA4_IMAGES,
)
