"""A family's code for the step: its layer, and what stands before and after the layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.engine import operations as ops
from calculator.engine.tape import Tensor
from calculator.layers import masks, norms, rotary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from calculator.architecture.config import Config
    from calculator.common.dtype import DType
    from calculator.layers.context import Context, LayerModules


def looked_up(context: Context, ids: Tensor, name: str = "model.embed_tokens", *, scaled: bool = False) -> Tensor:
    """The word embeddings of the ids: (batch, sequence, hidden_size).

    `scaled` says that the table's module multiplies them with a buffer in the model's dtype.
    """
    embed = context.outer(name)
    context.scoped(f"{name}: ")
    rows = ops.embedding(ids, embed.own["weight"], embed.module.out_features, "output")
    scale = Tensor(context.tape, None, (), context.training.dtype, None) if scaled else None
    if scale is not None:
        rows = ops.mul(rows, ops.cast(scale, rows.dtype, "scale in the table's dtype"), "output, scaled")
    if not embed.added:
        return rows
    if context.training.gradient_checkpointing:
        rows = context.input_requiring_grad(rows)
    return context.method.looked_up(embed, ids, rows, scale)


def unchanged(context: Context, hidden_states: Tensor) -> Tensor:  # noqa: ARG001  the shape of every such hook
    """Nothing in between."""
    return hidden_states


def rotary_tables(context: Context, hidden_states: Tensor, dtype: DType | None = None) -> tuple[Tensor, ...]:
    """cos, sin and position_ids, shared by all layers; in the hidden states' dtype where no other is told."""
    context.scoped("model.")
    position_ids = _position_ids(context, hidden_states)
    return (*_cos_and_sin(context, hidden_states, dtype), position_ids)


def rotary_tables_per_type(context: Context, hidden_states: Tensor, dtype: DType | None = None) -> tuple[Tensor, ...]:
    """cos and sin for each attention type that layers have, full attention first, and position_ids."""
    context.scoped("model.")
    position_ids = _position_ids(context, hidden_states)
    types = masks.types(context.layers)
    tables = [table for _ in types for table in _cos_and_sin(context, hidden_states, dtype)]
    return *tables, position_ids


def tables_of_type(tables: tuple[Tensor, ...], attends: str) -> tuple[Tensor, ...]:
    """One attention type's part of `rotary_tables_per_type`."""
    *pairs, position_ids = tables
    return (*(pairs[:2] if attends == masks.FULL else pairs[-2:]), position_ids)


def _position_ids(context: Context, hidden_states: Tensor) -> Tensor:
    return context.tape.new((1, hidden_states.shape[1]), "int64", "position_ids")


def _cos_and_sin(context: Context, hidden_states: Tensor, dtype: DType | None) -> tuple[Tensor, Tensor]:
    width = context.config.get("rotary_dim") or context.config["head_dim"]
    return rotary.cos_and_sin(context.tape, 1, hidden_states.shape[1], width, dtype or hidden_states.dtype)


def all_tables(tables: tuple[Tensor, ...], attends: str) -> tuple[Tensor, ...]:  # noqa: ARG001  as every such hook
    """The same for all."""
    return tables


def rms_normed(context: Context, hidden_states: Tensor) -> Tensor:
    """The final RMSNorm of most decoders."""
    return norms.rms_norm(context.outer("model.norm"), hidden_states)


def as_made(context: Context, mask: Tensor | None) -> Tensor | None:  # noqa: ARG001  as every such hook
    """The mask that transformers makes for every family."""
    return mask


def accepted(_: Config) -> None:
    """Nothing against it."""


def nothing(_: Config) -> tuple[()]:
    """No field that the code fails on."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderForward:
    """A decoder's step. The defaults are llama's.

    `embeddings`: ids to word embeddings. `enter`: word embeddings to the first layer's input. `keeps`: what the
    decoder's code holds while its layers run: the word embeddings, that input, or neither. `tables`: what all
    layers share of positions; tensors that a checkpointed layer is given keep it alive. `share`: which of them an
    attention type gets. `layer`: one layer. `leave`: the last layer's output to the head's input. `logits`: what
    follows the head. `masks`: the attention types whose masks are made even where no layer is of that type. `sdpa`:
    what runs where that is asked for. `boolean_masks`: whether eager masks are made boolean again. `biased`: a mask to
    what the family's own code makes of it. `returns_weights`: whether a layer hands the attention's weights to the
    decoder's code, which keeps them until the next has run. `always_masked`: whether a mask is made where the kernel
    would need none. `masks_both_ways`: whether it makes one where the config asks for attention in both directions.
    `rotates_part`: whether the code rotates a part of each head where the config says so. `bounded`:
    whether the code fails on more than max_position_embeddings. `router_loss`: whether the routers' loss is added where
    the config asks for their logits. `refuses_flash`: why flash_attention_2 cannot be asked for, if so. `fails`: the
    fields of a config that the code fails on in its forward pass, and why. `source`: the file of transformers that the
    code follows.
    """

    source: str
    layer: Callable[[Context, LayerModules, Tensor], Tensor]
    embeddings: Callable[[Context, Tensor], Tensor] = looked_up
    enter: Callable[[Context, Tensor], Tensor] = unchanged
    keeps: Literal["words", "input", "neither"] = "words"
    tables: Callable[[Context, Tensor], tuple[Tensor, ...]] = rotary_tables
    share: Callable[[tuple[Tensor, ...], str], tuple[Tensor, ...]] = all_tables
    leave: Callable[[Context, Tensor], Tensor] = rms_normed
    logits: Callable[[Context, Tensor], Tensor] = unchanged
    masks: tuple[str, ...] = ()
    sdpa: str = "sdpa"
    boolean_masks: bool = False
    biased: Callable[[Context, Tensor | None], Tensor | None] = as_made
    returns_weights: bool = False
    always_masked: bool = False
    masks_both_ways: bool = False
    rotates_part: bool = False
    bounded: bool = False
    router_loss: bool = False
    refuses_flash: Callable[[Config], str | None] = accepted
    fails: Callable[[Config], Iterable[tuple[str, str]]] = nothing
