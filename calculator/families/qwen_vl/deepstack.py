"""The forward pass of Qwen 3 VL's vision tower, and of the text model's layers that add features of its layers.

Source: transformers/models/qwen3_vl/modeling_qwen3_vl.py, Qwen3VLVisionModel and Qwen3VLTextModel._deepstack_process.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import in_place, indexing, products
from calculator.engine import operations as ops
from calculator.engine.module_calls import begin, enter, leave
from calculator.families.qwen_vl import placeholders
from calculator.families.qwen_vl.images import processor
from calculator.families.qwen_vl.vision import plain_layer, whole_tables
from calculator.layers import norms
from calculator.layers.decoder_forward import Tower
from calculator.layers.tower_layers import Chunks, convolve_in, run_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules
    from calculator.layers.tower import Processed

_PATH = "model.visual"

#: The number of learned positions that are interpolated for each patch.
_TAPS = 4


def _tower(context: Context, pixel_values: Tensor, image: Processed, count: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return the output of the last layer, the tokens that the merger makes of it, and the tokens of earlier layers."""
    tape, config = context.tape, context.config["vision_config"]
    patches = pixel_values.shape[0]
    context.set_scope(f"{_PATH}: ")
    indices = tape.new((patches, _TAPS), "int64", "positions to interpolate")
    weights = tape.new((patches, _TAPS), "float32", "their weights")
    position_ids = tape.new((patches, 2), "int64", "position_ids")
    bounds = tape.new((count + 1,), "int32", "cu_seqlens")
    embedded = convolve_in(context, f"{_PATH}.patch_embed", "proj", pixel_values, (patches, config["hidden_size"]))
    positions = _interpolated(context, indices, weights)
    inputs = [ops.add(embedded, ops.cast(positions, embedded.dtype, "positions, cast"), "patches with positions")]
    del embedded
    tables = whole_tables(context, patches)
    chunks = Chunks((image.patches,), count)
    features: list[Tensor] = []

    def run(_index: int, modules: LayerModules, given: Sequence[Tensor], x: Tensor) -> Tensor:
        return plain_layer(context, modules, x, given, chunks, ("mlp.linear_fc1", "mlp.linear_fc2"))

    def merge(index: int, x: Tensor) -> None:
        indexes = config["deepstack_visual_indexes"]
        if index in indexes:
            place = f"{_PATH}.deepstack_merger_list.{indexes.index(index)}"
            features.append(_merger(context, place, x, image.tokens * count, shuffled=True))

    hidden_states = run_layers(context, f"{_PATH}.blocks", inputs, run, lambda _: [*tables, bounds], merge)
    merged = _merger(context, f"{_PATH}.merger", hidden_states, image.tokens * count)
    del position_ids, positions
    return hidden_states, merged, features


def _interpolated(context: Context, indices: Tensor, weights: Tensor) -> Tensor:
    """Return the learned position of every patch in float32: a weighted sum of four."""
    table = context.outer(f"{_PATH}.pos_embed")
    context.set_scope(f"{_PATH}.pos_embed: ")
    begin(context.tape, table.name)
    rows = products.embedding(indices, context.method.embedding_weight(table), table.module.out_features, "output")
    rows = leave(table.name, rows)
    weighted = ops.mul(rows, ops.view(weights, (*weights.shape, 1)), "positions, weighted")
    del rows
    return ops.sum_over(weighted, (weighted.shape[0], weighted.shape[2]), "positions")


def _merger(context: Context, path: str, x: Tensor, tokens: int, *, shuffled: bool = False) -> Tensor:
    """Join the patches of each token and project them.

    With `shuffled`, the norm follows the join; else it precedes it.
    """
    x, wide, act = enter(path, x), context.outer(f"{path}.linear_fc1"), f"{path}.act_fn"
    shape = (named(tokens, "image tokens"), wide.module.in_features)
    normed = norms.layer_norm(context.outer(f"{path}.norm"), ops.view(x, shape) if shuffled else x)
    hidden = wide(ops.view(normed, shape))
    context.set_scope(f"{path}: ")
    hidden = leave(act, ops.unary(enter(act, hidden), "gelu", saves="input"))
    return leave(path, context.outer(f"{path}.linear_fc2")(hidden))


def add_features(context: Context, number: int, hidden_states: Tensor) -> Tensor:
    """Add the features of an earlier tower layer to the image tokens, after each of the first text layers."""
    mask, features = context.image_features[number]
    context.set_scope("model.language_model: ")
    hidden_states = ops.clone(hidden_states, "hidden states, copied")
    rows = indexing.masked_rows(hidden_states, mask, features.shape[0], "hidden states of images")
    local_this = ops.add(rows, ops.cast(features, hidden_states.dtype, "features, cast"), "with features")
    del rows
    return in_place.put_rows_(hidden_states, mask, local_this)


#: The limits of pixels in the preprocessor_config.json of Qwen's checkpoints.
QWEN3 = Tower(
    process=processor(min_pixels=65_536, max_pixels=16_777_216),
    batch=placeholders.batch,
    kept=placeholders.rope_deltas,
    encode=partial(placeholders.encode, tower=_tower),
    place=placeholders.scatter_image_tokens,
    chunks=lambda _config, _image: 1,
    grads_patches=False,
    featured_layers=lambda config: len(config["vision_config"]["deepstack_visual_indexes"]),
    after_layer=add_features,
    source="transformers/models/qwen2_vl/image_processing_qwen2_vl.py",
)
