"""The forward passes of Qwen 2 VL's and Qwen 2.5 VL's vision towers: patches, layers, and the merger.

Source: transformers/models/qwen2_5_vl/modeling_qwen2_5_vl.py, Qwen2_5_VisionTransformerPretrainedModel, and
transformers/models/qwen2_vl/modeling_qwen2_vl.py, Qwen2VisionTransformerPretrainedModel.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import indexing
from calculator.engine import operations as ops
from calculator.engine.module_calls import enter, leave, passed
from calculator.families.qwen_vl import placeholders
from calculator.families.qwen_vl.images import processor
from calculator.layers import norms
from calculator.layers.activation import activation
from calculator.layers.decoder_forward import Tower
from calculator.layers.tower_layers import Chunks, convolve_in, run_layers, tower_attention

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from calculator.architecture.config import Config
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules
    from calculator.layers.tower import Processed

_PATH = "model.visual"


def windows(config: Config, image: Processed) -> list[int]:
    """Return the patches of each window of an image, from top to bottom and from left to right."""
    merge = int(config["spatial_merge_size"])
    side = int(config["window_size"]) // merge // int(config["patch_size"])

    def window_sides(tokens: int) -> list[int]:
        return [min(side, tokens - start) for start in range(0, tokens, side)]

    heights, widths = window_sides(image.rows // merge), window_sides(image.columns // merge)
    return [height * width * merge**2 for height in heights for width in widths]


def _unwindowed(
    context: Context, pixel_values: Tensor, image: Processed, count: int
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Run Qwen 2 VL's tower, in which each layer attends within whole images. The result is that of `_windowed`."""
    tape, patches = context.tape, pixel_values.shape[0]
    context.set_scope(f"{_PATH}: ")
    position_ids = tape.new((patches, 2), "int64", "position_ids")
    chunks = Chunks((image.patches,), count)
    bounds = tape.new((count + 1,), "int32", "cu_seqlens")
    shape = (patches, context.config["vision_config"]["hidden_size"])
    inputs = [convolve_in(context, f"{_PATH}.patch_embed", "proj", pixel_values, shape, is_input=True)]
    given = [*whole_tables(context, patches), bounds]

    def run(_index: int, modules: LayerModules, given: Sequence[Tensor], x: Tensor) -> Tensor:
        return plain_layer(context, modules, x, given, chunks, ("mlp.fc1", "mlp.fc2"))

    hidden_states = run_layers(context, f"{_PATH}.blocks", inputs, run, lambda _: given)
    merged = _merger(context, hidden_states, image.tokens * count, norms.layer_norm)
    del position_ids
    return hidden_states, merged, []


def _windowed(
    context: Context, pixel_values: Tensor, image: Processed, count: int
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return the output of the last layer, the tokens that the merger makes of it, and no tokens of earlier layers."""
    tape, config = context.tape, context.config["vision_config"]
    hidden_size = config["hidden_size"]
    context.set_scope(f"{_PATH}: ")
    patches = pixel_values.shape[0]
    position_ids = tape.new((patches, 2), "int64", "position_ids")
    images, window_chunks = Chunks((image.patches,), count), Chunks((*windows(config, image),), count)
    bounds = tape.new((images.number + 1,), "int32", "cu_seqlens")
    cu_window_seqlens = tape.new((window_chunks.number + 1,), "int32", "cu_window_seqlens")
    shape = (patches, hidden_size)
    embedded = convolve_in(context, f"{_PATH}.patch_embed", "proj", pixel_values, shape, is_input=True)
    context.set_scope(f"{_PATH}: ")
    inputs = [indexing.reorder(embedded, "patches, by windows")]
    del embedded
    tables = [
        indexing.reorder(table, f"rotary: {name}, by windows")
        for table, name in zip(whole_tables(context, patches), ("cos", "sin"), strict=True)
    ]

    def sees_all(index: int) -> bool:
        return index in config["fullatt_block_indexes"]

    def run(index: int, modules: LayerModules, given: Sequence[Tensor], x: Tensor) -> Tensor:
        return _layer(context, modules, x, given[:2], images if sees_all(index) else window_chunks, given[2])

    def captured(index: int) -> list[Tensor]:
        return [*tables, bounds if sees_all(index) else cu_window_seqlens]

    hidden_states = run_layers(context, f"{_PATH}.blocks", inputs, run, captured)
    merged = _merger(context, hidden_states, image.tokens * count, norms.rms_norm)
    context.set_scope(f"{_PATH}: ")
    merged = indexing.reorder(merged, "tokens, in order")
    del position_ids
    return hidden_states, merged, []


def whole_tables(context: Context, patches: int) -> list[Tensor]:
    """Return cos and sin of every patch. Half of the pairs encode the row, half the column."""
    tape, config = context.tape, context.config["vision_config"]
    head_dim = int(config["hidden_size"]) // int(config["num_attention_heads"])
    passed(tape, f"{_PATH}.rotary_pos_emb")
    context.set_scope(f"{_PATH}: ")
    freqs = tape.new((patches, 2, head_dim // 4), "float32", "rotary: freqs")
    cos = ops.scale(ops.unary(freqs, "rotary: cos", saves="input"), "rotary: cos, scaled")
    sin = ops.scale(ops.unary(freqs, "rotary: sin", saves="input"), "rotary: sin, scaled")
    cos = _joined(cos, head_dim, "cos")
    return [cos, _joined(sin, head_dim, "sin")]


def _joined(table: Tensor, head_dim: int, name: str) -> Tensor:
    """Join the pairs of rows and columns, and repeat the result for both halves."""
    pairs = ops.cat((table,), (table.shape[0], head_dim // 2), f"rotary: {name}, of rows and columns")
    return ops.cat((pairs, pairs), (table.shape[0], head_dim), f"rotary: {name}, whole")


def _layer(
    context: Context, modules: LayerModules, x: Tensor, tables: Sequence[Tensor], chunks: Chunks, bounds: Tensor
) -> Tensor:
    normed = norms.rms_norm(modules["norm1"], x)
    x = ops.add(x, tower_attention(context, modules, normed, tables, chunks, bounds), "residual after attention")
    del normed
    normed = norms.rms_norm(modules["norm2"], x)
    return ops.add(x, _mlp(context, modules, normed), "residual after MLP")


def plain_layer(
    context: Context,
    modules: LayerModules,
    x: Tensor,
    given: Sequence[Tensor],
    chunks: Chunks,
    linears: tuple[str, str],
) -> Tensor:
    """Run a layer with LayerNorm and a plain MLP. `given` contains cos, sin and the bounds of the chunks."""
    normed = norms.layer_norm(modules["norm1"], x)
    x = ops.add(x, tower_attention(context, modules, normed, given[:2], chunks, given[2]), "residual after attention")
    del normed
    path = f"{modules.prefix}mlp"
    normed = norms.layer_norm(modules["norm2"], x)
    hidden = modules[linears[0]](enter(path, normed))
    context.set_scope(f"{path}: ")
    hidden = activation(context.config["vision_config"]["hidden_act"])(hidden)
    return ops.add(x, leave(path, modules[linears[1]](hidden)), "residual after MLP")


def _mlp(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
    """Return down(act(gate(x)) · up(x)), with the tower's activation."""
    path = f"{modules.prefix}mlp"
    x = enter(path, x)
    gate = modules["mlp.gate_proj"](x)
    context.set_scope(f"{modules.prefix}mlp: ")
    act_gate = activation(context.config["vision_config"]["hidden_act"])(gate)
    del gate
    up = modules["mlp.up_proj"](x)
    context.set_scope(f"{modules.prefix}mlp: ")
    product = ops.mul(act_gate, up, "activated gate · up")
    del act_gate, up
    return leave(path, modules["mlp.down_proj"](product))


def _merger(context: Context, x: Tensor, tokens: int, norm: Callable[[BoundModule, Tensor], Tensor]) -> Tensor:
    path = f"{_PATH}.merger"
    inner, wide = f"{path}.mlp", context.outer(f"{path}.mlp.0")
    normed = norm(context.outer(f"{path}.ln_q"), enter(path, x))
    hidden = wide(enter(inner, ops.view(normed, (named(tokens, "image tokens"), wide.module.in_features))))
    context.set_scope(f"{path}: ")
    hidden = leave(f"{inner}.1", ops.unary(enter(f"{inner}.1", hidden), "gelu", saves="input"))
    return leave(path, leave(inner, context.outer(f"{path}.mlp.2")(hidden)))


#: The limits of pixels in the preprocessor_config.json of Qwen's checkpoints.
QWEN2 = Tower(
    process=processor(min_pixels=3136, max_pixels=12_845_056),
    batch=placeholders.batch,
    kept=placeholders.rope_deltas,
    encode=partial(placeholders.encode, tower=_unwindowed),
    place=placeholders.scatter_image_tokens,
    chunks=lambda _config, _image: 1,
    source="transformers/models/qwen2_vl/image_processing_qwen2_vl.py",
)

QWEN2_5 = replace(
    QWEN2,
    encode=partial(placeholders.encode, tower=_windowed),
    place=placeholders.scatter_image_tokens,
    chunks=lambda config, image: len(windows(config["vision_config"], image)),
)
