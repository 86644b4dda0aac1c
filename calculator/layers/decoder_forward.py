"""The forward pass of a decoder family: its layer, and the functions that run before and after the layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.module_calls import enter, leave, passed
from calculator.engine.tape import Tensor
from calculator.layers import masks, norms, rotary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import MixerType
    from calculator.common.dtype import DType
    from calculator.inputs.images import Images
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules
    from calculator.layers.tower import BatchTensor, Processed


def embed(context: Context, ids: Tensor, name: str = "model.embed_tokens", *, scaled: bool = False) -> Tensor:
    """Look up the embeddings of ids: (batch, sequence, hidden_size).

    `scaled`: whether the embedding's module multiplies them with a buffer in the dtype that the model is loaded in.
    """
    embed = context.outer(name)
    context.set_scope(f"{name}: ")
    table = context.method.embedding_weight(embed)
    adapted = bool(embed.added) and table is embed.own["weight"]
    path = f"{name}.base_layer"
    rows = products.embedding(enter(path, ids) if adapted else ids, table, embed.module.out_features, "output")
    scale = Tensor(context.tape, None, (), context.buffer_dtype, None) if scaled else None
    if scale is not None:
        rows = ops.mul(rows, ops.cast(scale, rows.dtype, "scale in the table's dtype"), "output, scaled")
    if not adapted:
        return rows
    # Trainers of TRL wrap the model first. So enable_input_require_grads sees the adapter's output.
    if context.training.gradient_checkpointing and not (context.training.trainer or "").startswith("trl"):
        rows = context.input_requiring_grad(rows)
    rows = leave(path, rows)
    return context.method.embedding_forward(embed, ids, rows, scale)


def identity(context: Context, hidden_states: Tensor) -> Tensor:  # noqa: ARG001  the signature of such hooks
    """Return the hidden states."""
    return hidden_states


def rotary_tables(context: Context, hidden_states: Tensor, dtype: DType | None = None) -> tuple[Tensor, ...]:
    """Return cos, sin and position_ids, which all layers share.

    They have the hidden states' dtype unless another is given.
    """
    context.set_scope("model.")
    position_ids = _position_ids(context, hidden_states)
    if "tables_of_every_layer" in context.older:
        return (position_ids,)
    passed(context.tape, "model.rotary_emb")
    return (*_cos_and_sin(context, hidden_states.shape[1], dtype or hidden_states.dtype), position_ids)


def own_tables(context: Context, value: Tensor) -> tuple[Tensor, ...]:
    """Return the tables of a layer that computes its own, in the values' dtype, or those of all layers."""
    if "tables_of_every_layer" not in context.older:
        return context.position_tables
    return _cos_and_sin(context, value.shape[2], value.dtype)


def rotary_tables_per_type(context: Context, hidden_states: Tensor, dtype: DType | None = None) -> tuple[Tensor, ...]:
    """Return cos and sin for each attention type of the layers, full attention first, and position_ids."""
    context.set_scope("model.")
    position_ids = _position_ids(context, hidden_states)
    types = sorted(masks.attention_types(context.layers))
    for attention in types:
        passed(context.tape, f"model.rotary_emb, {attention}")
    widths, length = context.config.get("rotary_dim_by_type"), hidden_states.shape[1]
    tables = [
        table
        for attention in types
        for table in _cos_and_sin(context, length, dtype or hidden_states.dtype, widths and widths[attention])
    ]
    return *tables, position_ids


def tables_of_type(tables: tuple[Tensor, ...], attention: MixerType) -> tuple[Tensor, ...]:
    """Return the part of `rotary_tables_per_type` for one attention type."""
    *pairs, position_ids = tables
    return (*(pairs[:2] if attention == "full_attention" else pairs[-2:]), position_ids)


def _position_ids(context: Context, hidden_states: Tensor) -> Tensor:
    return context.position_ids(hidden_states.shape[1])


def _cos_and_sin(context: Context, length: int, dtype: DType, width: int | None = None) -> tuple[Tensor, Tensor]:
    rows = context.batch if context.gives_positions else 1
    width = width or context.config.get("rotary_dim") or context.config["head_dim"]
    cos, sin = rotary.cos_and_sin(context.tape, rows, length, width, dtype)
    return (cos, sin) if rows == 1 else (for_every_head(cos), for_every_head(sin))


def for_every_head(table: Tensor) -> Tensor:
    """Return a view of a table, (rows, sequence, width), that broadcasts over heads like a table of a single row."""
    return ops.narrow(table, (1, *table.shape[1:]))


def spread_table(context: Context, table: Tensor) -> Tensor:
    """Return a copy of a table of all rows, in which each number occurs twice, once per element of a pair."""
    name = "rotary: table, spread over pairs"
    if context.gives_positions:
        return for_every_head(context.tape.new((context.batch, *table.shape[1:]), table.dtype, name))
    return ops.contiguous(table, name)


def same_tables(tables: tuple[Tensor, ...], attention: MixerType) -> tuple[Tensor, ...]:  # noqa: ARG001  the signature of such hooks
    """Return the same tables for every attention type."""
    return tables


def final(
    norm: Callable[[BoundModule, Tensor], Tensor], name: str = "model.norm"
) -> Callable[[Context, Tensor], Tensor]:
    """Return a decoder's final norm, which is the module with that name."""
    return lambda context, hidden_states: norm(context.outer(name), hidden_states)


_RMS_NORM = final(norms.rms_norm)


def scaled_logits(context: Context, logits: Tensor) -> Tensor:
    """Multiply or divide the logits by a number."""
    context.set_scope("logits: ")
    return ops.scale(logits, "scaled")


def unchanged_mask(context: Context, mask: Tensor | None) -> Tensor | None:  # noqa: ARG001  the signature of such hooks
    """Return the mask that transformers creates for every family."""
    return mask


def never_refused(_: Config) -> None:
    """Refuse nothing."""


def never(_: Config) -> bool:
    """Return False for every config."""
    return False


def no_unsupported_fields(_: Config) -> tuple[()]:
    """Return no unsupported field."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """The forward pass of a family with images."""

    #: Takes an image of the request, and returns it as its processor passes it on. Raises PlanError if the processor
    #: refuses it.
    process: Callable[[Config, Images], Processed]

    #: Returns the tensors that a batch has because of its images, the pixels first.
    batch: Callable[[Config, Training, Processed], list[BatchTensor]]

    #: Returns what the model keeps from step to step because of images.
    kept: Callable[[Training], tuple[BatchTensor, ...]]

    #: Runs the tower, and returns the tokens of images.
    encode: Callable[[Context], list[Tensor]]

    #: Takes the embeddings of words and the tokens of images, and returns the embeddings of both.
    place: Callable[[Context, Tensor, list[Tensor]], Tensor]

    #: Returns the number of chunks of patches of one image that a layer attends within.
    chunks: Callable[[Config, Processed], int]

    #: The file of transformers that contains the processor's arithmetic.
    source: str

    #: Whether a convolution embeds the patches.
    convolves: bool = True

    #: Whether enable_input_require_grads gives the patches a gradient, because the tower's class names its input
    #: embeddings.
    grads_patches: bool = True

    #: Returns the masks of the decoder's attention types. None for those of text.
    masks: Callable[[Context], dict[MixerType, Tensor | None]] | None = None

    #: Whether the model creates its positions before it runs the tower.
    follows_positions: bool = False

    #: Whether `generate` passes the type of each new token to the model, if a batch has types of tokens.
    types_new_tokens: bool = True

    #: How many of the decoder's first layers add features of images to the hidden states, and the operations of each.
    featured_layers: Callable[[Config], int] = lambda _config: 0
    after_layer: Callable[[Context, int, Tensor], Tensor] = lambda _context, _number, hidden_states: hidden_states


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderForward:
    """The forward pass of a decoder, as functions and flags. The defaults are Llama's.

    It follows the file of transformers that `Family.source` names.
    """

    #: Runs one layer: (batch, sequence, hidden_size) to the same shape.
    layer: Callable[[Context, LayerModules, Tensor], Tensor]

    #: Takes ids, and returns word embeddings.
    embeddings: Callable[[Context, Tensor], Tensor] = embed

    #: Takes word embeddings, and returns the input of the first layer.
    before_layers: Callable[[Context, Tensor], Tensor] = identity

    #: Which tensors the decoder's code keeps alive while its layers run: the word embeddings, the first layer's input,
    #: or neither.
    retained: Literal["words", "input", "neither"] = "words"

    #: Returns the position tensors that all layers share. Those that a checkpointed layer receives stay alive with it.
    tables: Callable[[Context, Tensor], tuple[Tensor, ...]] = rotary_tables

    #: Returns which of these tensors a layer of an attention type receives.
    tables_for: Callable[[tuple[Tensor, ...], MixerType], tuple[Tensor, ...]] = same_tables

    #: Takes the last layer's output, and returns the input of the output head.
    final_norm: Callable[[Context, Tensor], Tensor] = _RMS_NORM

    #: Takes the final norm's output, and returns the scores of sequences, in a model that classifies them. None for the
    #: scores of the last token from the head `score`.
    scores: Callable[[Context, Tensor], Tensor] | None = None

    #: Takes scores and labels, and returns the loss of a model that classifies sequences by one label. Only for
    #: families whose own code computes it in another way if the config has no problem_type.
    default_loss: Callable[[Context, Tensor, Tensor], Tensor] | None = None

    #: Whether the code keeps the output of every layer while the layers run.
    keeps_hidden_states: bool = False

    #: Whether layers with a window attend within chunks of its size instead.
    chunked: bool = False

    #: Whether the family's own code creates the masks.
    own_masks: bool = False

    #: The function that a model for token classification runs on the final norm's output, before its head's dropout.
    before_token_head: Callable[[Context, Tensor], Tensor] = identity

    #: Whether the loss of a model that classifies tokens uses logits in float32, whatever their dtype.
    casts_token_logits: bool = True

    #: For an encoder-decoder: takes the output of the encoder's last layer, and returns that of the encoder.
    encoded: Callable[[Context, Tensor], Tensor] = identity

    #: Takes the ids of the decoder's tokens, and returns the input of its first layer. None if there is no encoder.
    target: Callable[[Context, Tensor], Tensor] | None = None

    #: The tokens of the generation config for which `generate` has tensors, and whether it forces the last one.
    special_tokens: tuple[str, ...] = ("bos", "eos", "pad")
    forces_eos: bool = False

    #: Whether attention is causal.
    is_causal: bool = True

    #: The tower that reads images. None if the model reads none, or if that is not modeled.
    tower: Tower | None = None

    #: Takes the final norm's output, and returns the output head's input, in a language model's own code.
    head_input: Callable[[Context, Tensor], Tensor] = identity

    #: The operations after the output head.
    logits: Callable[[Context, Tensor], Tensor] = identity

    #: The attention types whose masks are created even if no layer is of that type.
    masks: tuple[MixerType, ...] = ()

    #: The config's names of the probabilities of torch.nn.Dropout modules. Other dropout is a function.
    dropout_modules: tuple[str, ...] = ()

    #: Whether layers share tensors that need a gradient, in addition to the hidden states. Every layer is then
    #: interpreted.
    couples_layers: Callable[[Config], bool] = never

    #: The input of layers that reuse keys and values, if only the logits of the last position are computed.
    last_position: Callable[[Context, Tensor], Tensor] = identity

    #: Whether a layer's output is in float32 whatever the dtype of the embeddings.
    raises_dtype: Callable[[Config], bool] = never

    #: The implementation that runs if sdpa is requested.
    sdpa: Literal["sdpa", "eager"] = "sdpa"

    #: Whether eager masks are converted back to bool.
    boolean_masks: bool = False

    #: Changes a mask in the way that the family's own code does.
    transform_mask: Callable[[Context, Tensor | None], Tensor | None] = unchanged_mask

    #: Returns the masks of every batch, if the family's code creates them in another way. None for the usual ones.
    masks_of_batch: Callable[[Context], dict[MixerType, Tensor | None]] | None = None

    #: Whether a layer returns the attention weights to the decoder, which keeps them until the next layer has run.
    returns_weights: bool = False

    #: Whether a layer receives its mask as a positional argument. Re-entrant checkpointing then saves it with the
    #: layer's input.
    saves_mask: bool = False

    #: Whether a mask is created even if the kernel would not need one.
    always_masked: bool = False

    #: Whether a mask is created if the config sets use_bidirectional_attention.
    bidirectional_masks: bool = False

    #: Whether the code rotates only a part of each head if the config sets partial_rotary_factor.
    partial_rotary: bool = False

    #: Whether the model passes the labels to its layers, whose checkpoints keep them.
    passes_labels: bool = False

    #: Whether rows of several samples, whose positions restart, are modeled. `passes_bounds` is whether layers receive
    #: the bounds of samples that such a batch may include.
    flattens: bool = True
    passes_bounds: bool = True

    #: Whether the model's forward has a parameter `position_ids`, which `generate` creates.
    takes_positions: bool = True

    #: Whether the model creates a cache under checkpointing too, which its layers do not get. Source:
    #: merge_with_config_defaults in transformers/utils/generic.py, which reads `gradient_checkpointing` of the model.
    caches_if_checkpointed: bool = False

    #: Whether the model makes positions of its own from those that `generate` passes.
    changes_positions: bool = False

    #: How many positions `generate` creates for a token. It is more than one if the model creates those of the text and
    #: one for each axis, and keeps rope_deltas. Source: _prepare_position_ids_for_generation of Qwen's models that read
    #: images.
    positions_of_token: int = 1

    #: Whether the code fails on inputs longer than max_position_embeddings.
    limited_to_max_positions: bool = False

    #: The largest number of positions for which layers that process positions one by one are modeled. None without
    #: such layers.
    positions_followed: int | None = None

    #: Returns why flash_attention_2 is refused for a config, or None.
    refuses_flash: Callable[[Config], str | None] = never_refused

    #: Returns the fields of a config that make the forward pass fail, each with the reason.
    unsupported_fields: Callable[[Config], Iterable[tuple[str, str]]] = no_unsupported_fields

    @property
    def has_tables_of_types(self) -> bool:
        """Whether the layers of each attention type have position tables of their own."""
        return self.tables_for is not same_tables
