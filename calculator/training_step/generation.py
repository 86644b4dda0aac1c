"""The passes of `generate`: a family's code over a cache, without autograd, every layer by itself.

The reference, with a request's model in eval mode and under torch.no_grad(), is what greedy search does
(transformers/generation/utils.py, GenerationMixin._sample):

    outputs = model(input_ids=ids, attention_mask=mask_if_padding, use_cache=True, logits_to_keep=1)
    while True:
        mask_if_padding = torch.cat([mask_if_padding, ones], dim=-1)
        next_token_logits = outputs.logits[:, -1].to(copy=True, dtype=torch.float32)
        next_tokens = torch.argmax(next_token_logits, dim=-1)
        ids = torch.cat([ids, next_tokens[:, None]], dim=-1)
        cache = outputs.cache
        del outputs
        if enough tokens: break
        outputs = model(input_ids=ids[:, -1:].clone(), attention_mask=mask_if_padding, cache=cache, logits_to_keep=1)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.architecture.dimension import Dim
from calculator.engine import operations as ops
from calculator.engine.lifetimes import Lifetimes
from calculator.engine.recording import Recording
from calculator.engine.repetition import Repetition
from calculator.families import forward_of
from calculator.layers import masks
from calculator.layers.cache import Cache
from calculator.layers.context import Context
from calculator.training_step.causal_lm import decoder
from calculator.training_step.router_loss import router_loss

if TYPE_CHECKING:
    from calculator.architecture.model import Layer
    from calculator.common.dtype import DType
    from calculator.engine.memory_curve import Moment
    from calculator.engine.tape import Tensor
    from calculator.methods.prepared_model import PreparedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One pass: its peak in a recording, the operation that reached it, and the cache that it leaves."""

    recording: Recording
    moment: Moment
    operation: str
    cache: Cache


#: A single position, where a prompt has S.
ONE = Dim(1, "1")


@dataclass(slots=True, kw_only=True)
class Given:
    """What the loop around the passes holds: all ids, and of the token before, its logits and itself; a mask."""

    ids: Tensor
    logits: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None


class Generation:
    """A model under a method, whose `training` tells a batch of prompts' sizes, dtypes and kernels."""

    __slots__ = ("prepared",)

    def __init__(self, prepared: PreparedModel) -> None:
        self.prepared = prepared

    def prefill(self) -> Pass:
        """The whole prompt at once."""
        context = self._context()
        tape, shape = context.tape, (context.batch, context.length)
        given = Given(ids=tape.new(shape, "int64", "input_ids"))
        if context.training.padding:
            given.mask = tape.new(shape, "int64", "attention_mask")
        context.cache = Cache(windowed=True, component="kv_cache")
        return _run(context, [given.ids], given)

    def decode(self, past: Dim, prefilled: Cache, *, first: bool) -> Pass:
        """One token more over a cache that has seen `past` tokens, virtual ones too; `first` is right after prefill."""
        context = self._context()
        context.past, context.length = past, ONE
        windows = [context.tape.new((), "int64", "window") for _ in prefilled.windows]
        context.cache = Cache(windowed=prefilled.windowed, given=windows, component="kv_cache")
        del windows
        context.cache.before = [
            [_lying(context, layer, tensor, first=first) for tensor in pair]
            for layer, pair in zip(context.layers, prefilled.kept, strict=True)
        ]
        given = self._given(context)
        return _run(context, [context.tape.new((context.batch, 1), "int64", "input_ids")], given)

    def _context(self) -> Context:
        context = Context(self.prepared, forward_of(self.prepared.model), trains=False)
        count = len(context.layers)
        context.repetition = Repetition(numbers=tuple(range(count)), start=count, end=count, copies=0)
        return context

    def _given(self, context: Context) -> Given:
        """What the caller holds while a token is decoded: the ids so far, the last token and its logits, a mask."""
        tape, virtual = context.tape, context.method.virtual_tokens
        seen = context.past + 1
        given = Given(
            ids=tape.new((context.batch, int(seen) - virtual), "int64", "ids"),
            logits=_in_float32(context),
            tokens=tape.new((context.batch,), "int64", "next_tokens"),
        )
        if context.training.padding:
            given.mask = tape.new((context.batch, seen), "float32" if virtual else "int64", "attention_mask")
        return given


def _lying(context: Context, layer: Layer, like: Tensor, *, first: bool) -> Tensor:
    """What a layer's cache holds: all tokens, or a window's, which lie in the copy that the pass before made."""
    batch, heads, _, width = like.shape
    seen = masks.cached_tokens(context, layer.kind.attention)
    lying = context.past if first else min(context.past, seen + 1)
    whole = context.tape.new((batch, heads, lying, width), like.dtype, "cached before", component="kv_cache")
    return ops.narrow(whole, (batch, heads, seen, width))


def _run(context: Context, ids: list[Tensor], given: Given) -> Pass:
    """The model's forward, to which the ids are handed over, and the choice of the next token."""
    tape, start = context.tape, len(context.tape.events)
    if not context.past:
        context.method.begin(context)
    outputs = _forward(context, ids.pop())
    context.forward_locals = []
    _choose(context, given)
    del outputs
    recording = Recording(tape, Lifetimes(tape.events, tape.rows))
    moment = recording.curve.peak(start, len(tape.events))
    event = tape.events[moment.event - 1]
    assert context.cache is not None
    operation = tape.rows[event if event >= 0 else ~event][0]
    return Pass(recording=recording, moment=moment, operation=operation, cache=context.cache)


def _forward(context: Context, ids: Tensor) -> tuple[Tensor | None, ...]:
    """The logits of the last position, and the routers' loss where there is one."""
    hidden_states = decoder(context, ids)
    context.release()
    context.tape.component = "logits_and_loss"
    last = ops.narrow(hidden_states, (hidden_states.shape[0], 1, hidden_states.shape[2]))
    logits = context.forward.logits(context, context.bind(context.model.output)(last))
    return logits, router_loss(context)


def _choose(context: Context, given: Given) -> None:
    """What greedy search makes of the logits, each in the place of what it had from the token before."""
    tape, batch = context.tape, context.batch
    context.set_scope("")
    if given.mask is not None:
        given.mask = _lengthened(context, given.mask, context.past + context.length)
        given.mask = _lengthened(context, given.mask, context.past + context.length + 1)
    given.logits = _in_float32(context)
    given.tokens = tape.new((batch,), "int64", "next_tokens")
    given.ids = tape.new((batch, given.ids.shape[1] + 1), "int64", "ids")


def _in_float32(context: Context) -> Tensor:
    shape = (context.batch, context.model.output.out_features)
    return context.tape.new(shape, "float32", "next_token_logits", component="logits_and_loss")


def _lengthened(context: Context, mask: Tensor, tokens: int) -> Tensor:
    """A mask with ones for more tokens, if there are any; PEFT's for its virtual tokens are float32."""
    more = tokens - mask.shape[1]
    if not more:
        return mask
    dtype: DType = mask.dtype if more == 1 else "float32"
    ones = context.tape.new((context.batch, more), dtype, "ones")
    return ops.cat((ones, mask), (context.batch, tokens), "attention_mask")
