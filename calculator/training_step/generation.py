"""The passes of `generate`: a family's forward pass with a cache, without autograd. Every layer is run.

The reference, with a request's model in eval mode and under torch.no_grad(), is the loop of greedy search
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
from calculator.engine.copies import Copies
from calculator.engine.frame_snapshots import without_frame_snapshots
from calculator.engine.kinds import storages_of
from calculator.engine.lifetimes import Lifetimes
from calculator.engine.recording import Recording
from calculator.engine.repetition import every_layer
from calculator.families import forward_of
from calculator.layers import masks
from calculator.layers.cache import Cache, entries_by_layer
from calculator.layers.context import Context
from calculator.layers.router_loss import router_loss
from calculator.training_step.causal_lm import decoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.model import Layer
    from calculator.common.dtype import DType
    from calculator.engine.memory_curve import Moment
    from calculator.engine.tape import Sizes, Tape, Tensor
    from calculator.layers.decoder_forward import DecoderForward
    from calculator.methods.prepared_model import PreparedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class PassPeak:
    """The peak of one pass: its recording, its moment, and the operation that reaches it.

    `start` is the position of the pass's first event. Everything allocated before is an input of the pass.
    """

    recording: Recording
    moment: Moment
    operation: str
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass(PassPeak):
    """One pass with its peak, and the cache after it."""

    cache: Cache


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedPass:
    """The events of one pass, which are those of its tape from `start` to `end`.

    Attributes:
        tape: The events, and the rows that they allocate and free.
        given: The rows that the previous pass left. They are allocated before `start`. None for the prompt.
        left: The rows of what the pass leaves: the cache, the ids, the logits, the token, the mask. The next pass is
            given as many, in the same order. Of the prompt's pass, it is given no window twice.
        cache: The cache after the pass.
    """

    tape: Tape
    start: int
    end: int
    given: tuple[int, ...]
    left: tuple[int, ...]
    cache: Cache


#: The length of a pass that decodes one token.
ONE = Dim(1, "1")


@dataclass(slots=True, kw_only=True)
class LoopTensors:
    """Tensors of the loop around the passes."""

    #: The ids of all tokens so far.
    ids: Tensor

    #: The last token and its logits.
    logits: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None

    def tensors(self, cache: Cache, pairs: Sequence[Sequence[Tensor | None]]) -> tuple[int, ...]:
        """Return the rows of the loop's tensors, of a cache's windows, and of its pairs of keys and values."""
        kept = [
            self.ids,
            self.logits,
            self.tokens,
            self.mask,
            *cache.windows,
            *(tensor for pair in pairs for tensor in pair),
        ]
        return tuple(tensor.storage.row for tensor in kept if tensor is not None and tensor.storage is not None)


class Generation:
    """Generation with a prepared model.

    Its `training` has the batch size, the prompt's length and the dtypes.
    """

    __slots__ = ("prepared",)

    def __init__(self, prepared: PreparedModel) -> None:
        self.prepared = prepared

    def prefill(self) -> Pass:
        """Run the whole prompt."""
        return measured(self.traced_prefill())

    @without_frame_snapshots
    def traced_prefill(self) -> TracedPass:
        """Trace the whole prompt."""
        context = self._context()
        tape, shape = context.tape, (context.batch, context.length)
        loop = LoopTensors(ids=tape.new(shape, "int64", "input_ids"))
        if context.training.padding:
            loop.mask = tape.new(shape, "int64", "attention_mask")
        windowed = "cache_without_copies" not in context.older
        context.cache = Cache(windowed=windowed, component="kv_cache")
        return _run(context, [loop.ids], loop)

    def decode(self, past: Dim, prefilled: Cache, *, first: bool) -> Pass:
        """Run the model on one more token with a cache of `past` tokens, including virtual tokens.

        `first`: whether this is the first token after the prompt.
        """
        return measured(self.traced_decode(past, prefilled, first=first))

    @without_frame_snapshots
    def traced_decode(self, past: Dim, prefilled: Cache, *, first: bool, sizes: Sizes | None = None) -> TracedPass:
        """Trace the pass of `decode`. `sizes` are those of a trace in which `past` is symbolic."""
        context = self._context()
        if sizes is not None:
            context.tape.sizes = sizes
        context.past, context.length = past, ONE
        windows = [context.tape.new((), "int64", "window") for _ in prefilled.windows]
        context.cache = Cache(windowed=prefilled.windowed, given=windows, component="kv_cache")
        del windows
        entries = entries_by_layer(context.layers, prefilled.kept)
        context.cache.before = [
            entry
            for layer, layer_entries in zip(context.layers, entries, strict=True)
            for entry in cached_before(context, layer, layer_entries, first=first)
        ]
        loop = self._loop_tensors(context)
        return _run(context, [context.tape.new((context.batch, 1), "int64", "input_ids")], loop)

    def _context(self) -> Context:
        context = Context(self.prepared, forward_of(self.prepared.model), trains=False)
        count = len(context.layers)
        context.repetition = every_layer(count)
        return context

    def _loop_tensors(self, context: Context) -> LoopTensors:
        """Return the loop's tensors while a token is decoded."""
        tape, virtual = context.tape, context.method.virtual_tokens
        seen = context.past + 1
        loop = LoopTensors(
            ids=tape.new((context.batch, seen - virtual), "int64", "ids"),
            logits=_float32_logits(context),
            tokens=tape.new((context.batch,), "int64", "next_tokens"),
        )
        if context.training.padding:
            loop.mask = tape.new((context.batch, seen), "float32" if virtual else "int64", "attention_mask")
        return loop


def cached_before(
    context: Context, layer: Layer, entries: Sequence[Sequence[Tensor]], *, first: bool
) -> list[list[Tensor | None]]:
    """Return a layer's entries of the cache before a pass, in the shape of those of another pass."""
    return [
        [_pair_before(context, layer, tensor, first=first) for tensor in entry]
        if len(entry) > 1
        else [context.tape.new(entry[0].shape, entry[0].dtype, "state, cached before", component="kv_cache")]
        for entry in entries
    ]


def _pair_before(context: Context, layer: Layer, like: Tensor, *, first: bool) -> Tensor:
    """Return the keys or values of all tokens, or of a window, as a view of the copy that the previous pass made."""
    batch, heads, _, width = like.shape
    seen = masks.cached_tokens(context, layer.kind.attention)
    stored = context.past if first else min(context.past, seen + 1)
    whole = context.tape.new((batch, heads, stored, width), like.dtype, "cached before", component="kv_cache")
    return ops.narrow(whole, (batch, heads, seen, width))


def _run(context: Context, ids: list[Tensor], loop: LoopTensors) -> TracedPass:
    """Run the model, which gets the only reference to the ids, and choose the next token."""
    tape, start = context.tape, len(context.tape.events)
    assert context.cache is not None
    given = loop.tensors(context.cache, context.cache.before) if context.past else ()
    if not context.past:
        context.method.before_forward(context)
    outputs = _forward(context, ids.pop())
    context.forward_locals = []
    _choose(context, loop)
    del outputs
    left = loop.tensors(context.cache, context.cache.kept)
    return TracedPass(tape=tape, start=start, end=len(tape.events), given=given, left=left, cache=context.cache)


def measured(traced: TracedPass) -> Pass:
    """Return a pass with its peak."""
    tape = traced.tape
    storages = storages_of(tape)
    recording = Recording(Copies(tape, Lifetimes(tape.events, len(tape.rows)), storages.kinds), storages)
    moment = recording.curve.peak(traced.start, traced.end)
    operation = recording.operation(moment.event)
    return Pass(recording=recording, moment=moment, operation=operation, start=traced.start, cache=traced.cache)


def _forward(context: Context, ids: Tensor) -> tuple[Tensor | None, ...]:
    """Return the logits of the last position, and the routers' loss if the model computes one."""
    logits = last_logits(context, ids, context.forward)
    return logits, router_loss(context)


def last_logits(context: Context, ids: Tensor, family: DecoderForward) -> Tensor:
    """Return the logits of the last position from the model's own head."""
    context.hooks.begin(context.parameters)
    context.keeps_last = True
    hidden_states = decoder(context, ids)
    context.release()
    context.tape.component = "logits_and_loss"
    last = ops.slice_from_end(hidden_states, (hidden_states.shape[0], 1, hidden_states.shape[2]))
    head = context.hooks.module("head")
    logits = head.after(family.logits(context, context.bind(context.model.output)(head.before(last))))
    return context.hooks.end(logits, [])[0]


def _choose(context: Context, loop: LoopTensors) -> None:
    """Choose the next token by greedy search.

    Each result replaces the result for the previous token.
    """
    tape, batch = context.tape, context.batch
    context.set_scope("")
    if loop.mask is not None:
        loop.mask = _lengthen(context, loop.mask, context.past + context.length)
        loop.mask = _lengthen(context, loop.mask, context.past + context.length + 1)
    loop.logits = _float32_logits(context)
    loop.tokens = tape.new((batch,), "int64", "next_tokens")
    loop.ids = tape.new((batch, loop.ids.shape[1] + 1), "int64", "ids")


def _float32_logits(context: Context) -> Tensor:
    shape = (context.batch, context.model.output.out_features)
    return context.tape.new(shape, "float32", "next_token_logits", component="logits_and_loss")


def _lengthen(context: Context, mask: Tensor, tokens: int) -> Tensor:
    """Append ones for new tokens to a mask.

    PEFT's ones for virtual tokens are float32.
    """
    more = tokens - mask.shape[1]
    if not more:
        return mask
    dtype: DType = mask.dtype if more == 1 else "float32"
    ones = context.tape.new((context.batch, more), dtype, "ones")
    return ops.cat((ones, mask), (context.batch, tokens), "attention_mask")
