"""InternVL: images in tiles, a tower with scaled residuals, merged patches, and the text models of Qwen.

Source: transformers/models/internvl/modeling_internvl.py.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import indexing
from calculator.engine import operations as ops
from calculator.engine.autograd import AccumulateGrad
from calculator.engine.module_calls import begin, enter, leave
from calculator.families.internvl.tiles import process
from calculator.families.qwen.forward import QWEN3, QWEN3_MOE
from calculator.layers import attention, image_encoder, masks, norms
from calculator.layers.activation import activation
from calculator.layers.decoder_forward import Tower, embed, final
from calculator.layers.decoder_layer import SequentialLayer
from calculator.layers.self_attention import SelfAttention, norm_each_projection, project_qkv
from calculator.layers.tower_layers import convolve_in, run_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import MixerType
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules
    from calculator.layers.tower import BatchTensor, Processed

TOWER, PROJECTOR, TEXT_MODEL = "model.vision_tower", "model.multi_modal_projector", "model.language_model"

_NORMED = norm_each_projection(norms.rms_norm)


def _batch(config: Config, training: Training, image: Processed) -> list[BatchTensor]:
    """Return the tensors that images add to a batch: the pixels of all tiles."""
    return [image_encoder.pixels(config, training.image_count * image.tiles)]


def _encode(context: Context) -> list[Tensor]:
    """Run the tower and the projector, and return the tokens."""
    encoded, last_hidden_state, pooler_output = _features(context)
    context.image_outputs = [(last_hidden_state, 1), (pooler_output, 1)]
    context.image_outputs += [] if encoded is last_hidden_state else [(encoded, 1)]
    return [pooler_output]


def _scatter_image_tokens(context: Context, inputs_embeds: Tensor, encoded: list[Tensor]) -> Tensor:
    """Replace the embeddings of the placeholders by the tokens."""
    context.set_scope("images: ")
    image_features = ops.cast(encoded[0], inputs_embeds.dtype, "tokens, cast")
    mask = context.tape.new((context.batch, context.length), "bool", "places of images")
    context.decoder_locals += [image_features, mask]
    return indexing.fill_masked(inputs_embeds, mask, image_features, "words and images")


def _features(context: Context) -> tuple[Tensor, Tensor, Tensor]:
    """Return the outputs of the last layer, of the tower and of the projector. The code keeps the cast pixels alive."""
    embeddings = context.outer(f"{TOWER}.embeddings").own
    context.set_scope("model: ")
    pixel_values = ops.cast(context.images[0], embeddings["cls_token"].dtype, "pixel values, cast")
    begin(context.tape, TOWER)
    encoded = _encoded(context, [_embeddings(context, pixel_values)])
    if context.config["vision_config"]["use_mean_pooling"]:
        last_hidden_state = leave(f"{TOWER}.layernorm", enter(f"{TOWER}.layernorm", encoded))
    else:
        last_hidden_state = norms.layer_norm(context.outer(f"{TOWER}.layernorm"), encoded)
    last_hidden_state = leave(TOWER, last_hidden_state)
    images, tokens, width = last_hidden_state.shape
    patches = ops.sliced_rows(last_hidden_state, (images, tokens - 1, width))
    return encoded, last_hidden_state, _project(context, _shuffled(context, patches))


def _embeddings(context: Context, pixel_values: Tensor) -> Tensor:
    """Embed patches by a convolution, prepend the class token, add positions, and apply dropout."""
    vision, path = context.config["vision_config"], f"{TOWER}.embeddings"
    parameters, pixel_values = context.outer(path).own, enter(path, pixel_values)
    images, width = pixel_values.shape[0], parameters["cls_token"].shape[2]
    patches = named((int(vision["image_size"]) // int(vision["patch_size"])) ** 2, "patches")
    shape, module = (images, patches, width), f"{path}.patch_embeddings"
    embeddings = convolve_in(context, module, "projection", pixel_values, shape, is_input=True, transposed=True)
    context.set_scope(f"{path}: ")
    cls_tokens = ops.expand(parameters["cls_token"], (images, 1, width))
    embeddings = ops.cat((cls_tokens, embeddings), (images, patches + 1, width), "class token and patches")
    if vision["use_absolute_position_embeddings"]:
        positions = parameters["position_embeddings"]
        if positions.edge is not None and images == 1 and isinstance(positions.edge[0], AccumulateGrad):
            positions.edge[0].copies = True  # the gradient is that of the patches too, and not summed over images
        embeddings = ops.add(embeddings, positions, "with positions")
    return leave(path, _dropped(path + ".dropout", embeddings, vision["hidden_dropout_prob"], "dropped"))


def _dropped(path: str, x: Tensor, probability: float, name: str) -> Tensor:
    """Call a module of dropout."""
    return leave(path, ops.dropout(enter(path, x), probability, name))


def _encoded(context: Context, inputs: list[Tensor]) -> Tensor:
    """Run the tower's layers on their input, which is removed from the list."""
    dropout = float(context.config["vision_config"]["attention_dropout"])

    def run(_index: int, modules: LayerModules, _given: Sequence[Tensor], x: Tensor) -> Tensor:
        return _layer(context, modules, x)

    inputs.append(enter(f"{TOWER}.encoder", inputs.pop()))
    encoded = run_layers(context, f"{TOWER}.encoder.layer", inputs, run, lambda _index: (), dropout=dropout)
    return leave(f"{TOWER}.encoder", encoded)


def _norm(context: Context) -> Callable[[BoundModule, Tensor], Tensor]:
    return norms.layer_norm if context.config["vision_config"]["norm_type"] == "layer_norm" else norms.rms_norm


def _layer(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Run one layer, which scales the outputs of its sublayers. The code keeps the output of attention alive."""
    norm, parameters = _norm(context), modules[""].own
    normed = norm(modules["layernorm_before"], hidden_states)
    attention_output = _attention(context, modules, normed)
    del normed
    context.set_scope(modules.prefix)
    attention_output = ops.mul(parameters["lambda_1"], attention_output, "attention, scaled")
    hidden_states = ops.add(attention_output, hidden_states, "residual after attention")
    layer_output = norm(modules["layernorm_after"], hidden_states)
    layer_output = _mlp(context, modules, layer_output)
    context.set_scope(modules.prefix)
    probability = context.config["vision_config"]["hidden_dropout_prob"]
    layer_output = _dropped(f"{modules.prefix}dropout", layer_output, probability, "MLP, dropped")
    layer_output = ops.mul(parameters["lambda_2"], layer_output, "MLP, scaled")
    return ops.add(layer_output, hidden_states, "residual after MLP")


def _attention(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
    """Attend among the patches of each tile. Queries, keys and values stay alive until the module returns."""
    vision, (images, patches, width) = context.config["vision_config"], x.shape
    path = f"{modules.prefix}attention"
    x = enter(path, x)
    heads = vision["num_attention_heads"]
    shape = (images, heads, patches, int(width) // int(heads))
    query, key, value = (modules[f"attention.{name}_proj"](x) for name in ("q", "k", "v"))
    query, key = (_normed(modules, f"attention.{name}_norm", tensor) for name, tensor in (("q", query), ("k", key)))
    query, key, value = (ops.view(states, shape) for states in (query, key, value))
    context.set_scope(f"{path}: ")
    attn_output = attention.attend(context, query, key, value)
    output = modules["attention.projection_layer"](attn_output)
    context.set_scope(f"{path}: ")
    probability = vision["projection_dropout"]
    return leave(path, _dropped(f"{path}.projection_dropout", output, probability, "output, dropped"))


def _normed(modules: LayerModules, name: str, x: Tensor) -> Tensor:
    """Call the norm of queries or keys, which is torch.nn.Identity where the config has none."""
    if name in modules:
        return norms.rms_norm(modules[name], x)
    path = f"{modules.prefix}{name}"
    return leave(path, enter(path, x))


def _mlp(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    path = f"{modules.prefix}mlp"
    hidden_states = modules["mlp.fc1"](enter(path, hidden_states))
    context.set_scope(f"{path}: ")
    hidden_states = activation(context.config["vision_config"]["hidden_act"])(hidden_states)
    return leave(path, modules["mlp.fc2"](hidden_states))


def _shuffled(context: Context, x: Tensor) -> Tensor:
    """Move the patches of a square into the channels of one token: (tiles, patches, width) to (tiles, tokens, ...).

    Each of the two transposed views is copied unless it is contiguous. It is contiguous if one of the transposed
    dimensions is 1 and the first one is not a slice of several tiles.
    """
    tiles, patches, width = x.shape
    side, factor = int(int(patches) ** 0.5), int(1 / context.config["downsample_ratio"])
    reduced, wide = side // factor, int(width) * factor**2
    context.set_scope("model: ")
    rows, tokens = (tiles, reduced, side, int(width) * factor), (tiles, named(reduced**2, "tokens"), wide)
    copies = tiles > 1 or (side > 1 and reduced > 1)
    x = ops.contiguous(ops.permute(x, rows), "rows, shuffled") if copies else ops.view(x, rows)
    return ops.contiguous(ops.permute(x, tokens), "columns, shuffled") if reduced > 1 else ops.view(x, tokens)


def _project(context: Context, image_features: Tensor) -> Tensor:
    """Run InternVLMultiModalProjector: (tiles, tokens, ...) to (tiles, tokens, hidden_size)."""
    hidden_states = norms.layer_norm(context.outer(f"{PROJECTOR}.layer_norm"), enter(PROJECTOR, image_features))
    hidden_states = context.outer(f"{PROJECTOR}.linear_1")(hidden_states)
    context.set_scope(f"{PROJECTOR}: ")
    hidden_states = activation(context.config["projector_act"])(hidden_states)
    return leave(PROJECTOR, context.outer(f"{PROJECTOR}.linear_2")(hidden_states))


def _projections(context: Context, modules: LayerModules, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Project to queries, keys and values, with Qwen 3's norms if the text model has them."""
    return (_NORMED if "self_attn.q_norm" in modules else project_qkv)(context, modules, hidden_states)


def _masks(context: Context) -> dict[MixerType, Tensor | None]:
    """Return the masks of the text model. With experts, there is only the mask of the layers' attention type."""
    masks_by_type = masks.text_masks(context)
    types = masks.attention_types(context.layers)
    return {
        kind: masks_by_type[kind]
        for kind in masks_by_type
        if kind in types or context.config["text_model_type"] != "qwen3_moe"
    }


assert isinstance(QWEN3_MOE.layer, SequentialLayer)

INTERNVL = replace(
    QWEN3,
    layer=replace(QWEN3_MOE.layer, attention=SelfAttention(project=_projections)),
    embeddings=partial(embed, name=f"{TEXT_MODEL}.embed_tokens"),
    final_norm=final(norms.rms_norm, f"{TEXT_MODEL}.norm"),
    masks_of_batch=_masks,
    tower=Tower(
        process=process,
        batch=_batch,
        kept=image_encoder.nothing_kept,
        encode=_encode,
        place=_scatter_image_tokens,
        chunks=image_encoder.one_chunk,
        source="transformers/models/got_ocr2/image_processing_got_ocr2.py",
    ),
)
