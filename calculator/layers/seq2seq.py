"""The parts that encoder-decoders share: the decoder's input, cross-attention, and the loss.

Source: transformers/models/bart/modeling_bart.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import operations as ops
from calculator.layers import masks
from calculator.layers.decoder_forward import identity
from calculator.layers.loss import cross_entropy

if TYPE_CHECKING:
    from calculator.architecture.dimension import Dim
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.decoder_forward import DecoderForward


def target_length(context: Context) -> Dim:
    """Return the number of tokens of a target."""
    training = context.training
    return named(training.sequence_length if training.target_length is None else training.target_length, "T")


def shift_labels(context: Context) -> None:
    """Compute the ids of the decoder's input, which are the labels, shifted right. `generate` has no labels."""
    if context.generates:
        return
    tape, batch, length = context.tape, context.batch, target_length(context)
    context.set_scope("shift_tokens_right: ")
    context.decoder_ids = tape.new((batch, length), "int64", "decoder_input_ids")
    copied = tape.new((batch, named(length - 1, "(T - 1)")), "int64", "labels, copied")
    del copied
    ignored = tape.new((batch, length), "bool", "labels that are ignored")
    del ignored


def decode(context: Context, hidden_states: Tensor) -> Tensor:
    """Return the input of the decoder's first layer, from the output of the encoder's last one."""
    encoded = context.forward.encoded(context, hidden_states)
    del hidden_states
    _start_decoder(context, encoded)
    if context.decoder_ids is None:
        shift_labels(context)
    assert context.decoder_ids is not None
    assert context.forward.target is not None
    return context.forward.target(context, context.decoder_ids)


def encoder_forward(forward: DecoderForward) -> DecoderForward:
    """Return the forward pass of the encoder alone."""
    return replace(forward, final_norm=forward.encoded)


def decoder_forward(forward: DecoderForward) -> DecoderForward:
    """Return the forward pass of the decoder alone, whose input are ids."""
    assert forward.target is not None
    return replace(forward, embeddings=forward.target, before_layers=identity, retained="neither")


def encoder_pair(context: Context) -> tuple[Tensor, ...] | None:
    """Return a layer's keys and values of the encoder's output, if an earlier pass has cached them."""
    return context.cache.encoder_pair() if context.cache is not None else None


def _start_decoder(context: Context, encoded: Tensor) -> None:
    """Keep the encoder's output until the model's forward pass ends, and create the mask of its tokens."""
    source = context.length
    context.release()
    context.forward_locals.append(encoded)
    context.length = target_length(context)
    attend_to(context, encoded, source)
    context.cache, context.past = context.decoder_cache, context.decoder_past
    context.decoder_cache = None


def attend_to(context: Context, encoded: Tensor, source: Dim) -> None:
    """Let the decoder's layers attend to the encoder's output, which has `source` tokens and a mask."""
    context.encoder_states = encoded
    context.set_scope("encoder's attention mask: ")
    context.encoder_mask = masks.bidirectional(context, source)
    context.is_causal = True


class Seq2SeqLoss:
    """The output head of an encoder-decoder, and its loss in the dtype of the logits."""

    __slots__ = ("labels",)

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels

    def __call__(self, context: Context, hidden_states: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the loss, and the logits and the encoder's output, which the model's output refers to."""
        context.forward_locals.append(hidden_states)
        logits = context.forward.logits(context, context.bind(context.model.output)(hidden_states))
        context.set_scope("loss: ")
        rows = named(logits.shape[0] * logits.shape[1], "B × T")
        loss = cross_entropy(ops.view(logits, (rows, logits.shape[2])), self.labels)
        return loss, [logits, *filter(None, (context.encoder_states,))]
