"""The forward pass of image encoders as in SigLIP and CLIP: patches with learned positions, layers with a plain MLP.

Source: transformers/models/siglip/modeling_siglip.py and transformers/models/clip/modeling_clip.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import indexing, products
from calculator.engine import operations as ops
from calculator.engine.module_calls import begin, enter, leave, leave_with, reads
from calculator.engine.tape import Tensor
from calculator.layers import attention, norms
from calculator.layers.activation import activation
from calculator.layers.tower_layers import convolve, run_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from calculator.architecture.config import Config
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules
    from calculator.layers.tower import BatchTensor


def pixels(config: Config, count: int) -> BatchTensor:
    """Return the pixels of `count` images of the encoder's own size, as a tensor of the batch."""
    vision = config["vision_config"]
    side = named(vision["image_size"], "image_size")
    return "pixel_values", (named(count, "images"), vision["num_channels"], side, side), "float32"


def nothing_kept(_: Training) -> tuple[BatchTensor, ...]:
    """Return nothing: the model keeps no tensors from step to step because of images."""
    return ()


def one_chunk(_config: Config, _image: object) -> int:
    """Return 1: a layer attends once, for all images together."""
    return 1


def siglip(context: Context, path: str, pixel_values: Tensor) -> Tensor:
    """Run SiglipVisionModel without its head: (images, channels, height, width) to (images, patches, hidden_size)."""
    begin(context.tape, path)
    hidden_states = _embeddings(context, f"{path}.embeddings", pixel_values)
    return leave(path, _encoded_patches(context, path, hidden_states))


def projected(context: Context, path: str, project: Callable[[Context, Tensor], Tensor]) -> list[Tensor]:
    """Run SigLIP and a projector, and return the image tokens."""
    last_hidden_state = siglip(context, path, context.images[0])
    pooler_output = project(context, last_hidden_state)
    context.image_outputs = [(last_hidden_state, 1), (pooler_output, 1)]
    return [pooler_output]


def placed(context: Context, inputs_embeds: Tensor, encoded: list[Tensor]) -> Tensor:
    """Write the image tokens over the placeholders."""
    context.set_scope("images: ")
    image_features = ops.cast(encoded[0], inputs_embeds.dtype, "tokens, cast")
    mask = context.tape.new((context.batch, context.length), "bool", "places of images")
    context.decoder_locals = [*context.decoder_locals[1:], image_features, mask]
    return indexing.fill_masked(inputs_embeds, mask, image_features, "words and images")


def _encoded_patches(context: Context, path: str, hidden_states: Tensor) -> Tensor:
    """Run the encoder's layers and the norm after them.

    The sums between layers keep the layout of the transposed patches, which every norm copies.
    """
    _, patches, width = hidden_states.shape
    norm = norms.transposed_layer_norm if patches > 1 and width > 1 else norms.layer_norm
    last_hidden_state = encode(context, f"{path}.encoder.layers", hidden_states, [], norm=norm)
    return norm(context.outer(f"{path}.post_layernorm"), last_hidden_state)


def clip(context: Context, path: str, pixel_values: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Run CLIPVisionModel. Return the output of layer `number`, counted from 1, the last output, and the class token.

    The first two are (images, 1 + patches, hidden_size). The third is (images, hidden_size), after a norm.
    """
    begin(context.tape, path)
    hidden_states = _embeddings(context, f"{path}.embeddings", pixel_values, with_class=True)
    hidden_states = norms.layer_norm(context.outer(f"{path}.pre_layrnorm"), hidden_states)
    outputs: list[Tensor] = []
    last_hidden_state = encode(context, f"{path}.encoder.layers", hidden_states, outputs, number)
    context.set_scope(f"{path}: ")
    images, _, width = last_hidden_state.shape
    pooled = ops.slice_from_end(last_hidden_state, (images, width))
    pooled = norms.layer_norm(context.outer(f"{path}.post_layernorm"), pooled)
    selected, last, pooled = leave_with(path, outputs.pop(), last_hidden_state, pooled)
    return selected, last, pooled


def encode_masked_pixels(context: Context, path: str, pixel_values: Tensor) -> Tensor:
    """Run Idefics3VisionTransformer: (images, channels, height, width) to (images, patches, hidden_size).

    The positions are computed for each image. enable_input_require_grads sees the sum of patches and positions.
    """
    embeddings = f"{path}.embeddings"
    begin(context.tape, path)
    begin(context.tape, embeddings)
    patch_embeds = embed_patches(context, embeddings, pixel_values, is_input=False)
    table = context.outer(f"{embeddings}.position_embedding")
    context.set_scope(f"{embeddings}: ")
    ids, computed = _position_ids(context, patch_embeds.shape[0])
    begin(context.tape, table.name)
    rows = products.embedding(ids, context.method.embedding_weight(table), table.module.out_features, "positions")
    rows = leave(table.name, rows)
    hidden_states = ops.add(patch_embeds, rows, "patches with positions")
    del patch_embeds, rows, ids, computed
    if context.training.gradient_checkpointing and not hidden_states.edge:
        hidden_states = context.input_requiring_grad(hidden_states, "patches with positions")
    hidden_states = leave(embeddings, hidden_states)
    return leave(path, _encoded_patches(context, path, hidden_states))


def _position_ids(context: Context, tiles: int) -> tuple[Tensor, list[Tensor]]:
    """Return the positions of patches as fractions of a tile's sides, and what the code keeps that computes them.

    Source: Idefics3VisionEmbeddings.forward.
    """
    tape, vision = context.tape, context.config["vision_config"]
    side = int(vision["image_size"]) // int(vision["patch_size"])
    tile_shape, side_shape, patch_shape = (tiles,), (tiles, side), (tiles, named(side**2, "patches"))
    kept = [tape.new((side,), "float32", "boundaries of positions")]
    zeros = tape.new(patch_shape, "int64", "positions, zeros")
    kept += [tape.new(tile_shape, "int64", f"patches of {name}") for name in ("columns", "rows")]
    for name in ("rows", "columns"):
        reciprocal = tape.new(tile_shape, "float32", f"1 / patches of {name}")
        kept.append(tape.new(tile_shape, "float32", f"step of {name}"))
        del reciprocal
    kept += [tape.new((side,), "float32", f"indices of {name}") for name in ("rows", "columns")]
    fractions = [tape.new(side_shape, "float32", f"fractions of {name}") for name in ("rows", "columns")]
    while fractions:
        kept.append(tape.new(side_shape, "float32", "fractions, limited"))
        fractions.pop(0)
    kept += [tape.new(side_shape, "int64", f"positions of {name}") for name in ("rows", "columns")]
    times_side = tape.new(side_shape, "int64", "positions of rows · side")
    kept.append(tape.new(patch_shape, "int64", "positions"))
    del times_side
    ids = tape.new(patch_shape, "int64", "position_ids")
    del zeros
    return ids, kept


def _embeddings(context: Context, path: str, pixel_values: Tensor, *, with_class: bool = False) -> Tensor:
    """Embed patches by a convolution, prepend the class token, and add positions."""
    pixel_values, name = enter(path, pixel_values), f"{path}.patch_embedding"
    reads(context.tape, path, f"{name}.weight")
    context.set_scope(f"{path}: ")
    pixel_values = ops.cast(pixel_values, context.outer(name).own["weight"].dtype, "pixel values, cast")
    embeddings = patch_embeds = embed_patches(context, path, pixel_values)
    if with_class:
        context.set_scope(f"{path}: ")
        images, patches, width = patch_embeds.shape
        class_embeds = ops.expand(context.outer(path).own["class_embedding"], (images, 1, width))
        embeddings = ops.cat((class_embeds, patch_embeds), (images, patches + 1, width), "class token and patches")
    return leave(path, ops.add(embeddings, positions(context, path), "patches with positions"))


def embed_patches(context: Context, path: str, pixel_values: Tensor, *, is_input: bool = True) -> Tensor:
    """Embed patches by a convolution: (images, patches, hidden_size)."""
    name, table = f"{path}.patch_embedding", context.model.outer[f"{path}.position_embedding"]
    vision = context.config["vision_config"]
    patches = named((int(vision["image_size"]) // int(vision["patch_size"])) ** 2, "patches")
    shape = (pixel_values.shape[0], patches, table.out_features)
    return convolve(context, name, pixel_values, shape, is_input=is_input, transposed=True)


def positions(context: Context, path: str) -> Tensor:
    """Look up the learned positions, whose indices are a buffer: (1, positions, hidden_size)."""
    table = context.outer(f"{path}.position_embedding")
    context.set_scope(f"{table.name}: ")
    weight = context.method.embedding_weight(table)
    ids = Tensor(context.tape, None, (1, weight.shape[0]), "int64", None)
    begin(context.tape, table.name)
    return leave(table.name, products.embedding(ids, weight, table.module.out_features, "output"))


def encode(
    context: Context,
    name: str,
    inputs_embeds: Tensor,
    outputs: list[Tensor],
    number: int = 0,
    *,
    norm: Callable[[BoundModule, Tensor], Tensor] = norms.layer_norm,
) -> Tensor:
    """Run the encoder's layers, whose norms run `norm`, and store the output of layer `number`, counted from 1.

    The code keeps the first layer's input alive.
    """
    path = name.removesuffix(".layers")
    dropout = float(context.config["vision_config"]["attention_dropout"] or 0)

    def run(_index: int, modules: LayerModules, _given: Sequence[Tensor], x: Tensor) -> Tensor:
        return _layer(context, modules, x, norm)

    def after(index: int, x: Tensor) -> None:
        if index + 1 == number:
            outputs.append(x)

    begin(context.tape, path)
    return leave(path, run_layers(context, name, [inputs_embeds], run, lambda _index: (), after, dropout=dropout))


def _layer(context: Context, modules: LayerModules, x: Tensor, norm: Callable[[BoundModule, Tensor], Tensor]) -> Tensor:
    normed = norm(modules["layer_norm1"], x)
    attended = _attention(context, modules, normed)
    del normed
    context.set_scope(modules.prefix)
    x = ops.add(x, attended, "residual after attention")
    del attended
    normed = norm(modules["layer_norm2"], x)
    output = _mlp(context, modules, normed)
    del normed
    context.set_scope(modules.prefix)
    return ops.add(x, output, "residual after MLP")


def _attention(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
    """Attend among the patches of each image: (images, patches, hidden_size) to the same shape."""
    path, (images, patches, width) = f"{modules.prefix}self_attn", x.shape
    begin(context.tape, path)
    unit = context.tower_unit.attention()
    x = unit.receive(unit.before(x))
    heads = context.config["vision_config"]["num_attention_heads"]
    shape = (images, heads, patches, int(width) // int(heads))
    query, key, value = (ops.view(modules[f"self_attn.{name}_proj"](x), shape) for name in ("q", "k", "v"))
    context.set_scope(f"{path}: ")
    attn_output = attention.attend(context, query, key, value)
    return leave(path, unit.after(modules["self_attn.out_proj"](attn_output)))


def _mlp(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
    path = f"{modules.prefix}mlp"
    hidden_states = modules["mlp.fc1"](enter(path, x))
    context.set_scope(f"{path}: ")
    hidden_states = activation(context.config["vision_config"]["hidden_act"])(hidden_states)
    return leave(path, modules["mlp.fc2"](hidden_states))
