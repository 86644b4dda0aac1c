"""The passes of `generate` of an encoder-decoder by greedy search, inside the evaluation of its trainer.

The encoder runs once, outside the model's forward pass. So it is outside the autocast that accelerate wraps around that
pass. Each pass of the decoder reads the keys and values that the first pass computed from the encoder's output.

Source: transformers/generation/utils.py, GenerationMixin.generate (_prepare_text_encoder_decoder_kwargs_for_generation)
and _sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import autocast
from calculator.engine.copies import Copies
from calculator.engine.frame_snapshots import without_frame_snapshots
from calculator.engine.kinds import storages_of
from calculator.engine.lifetimes import Lifetimes
from calculator.engine.recording import Recording
from calculator.engine.repetition import Repetition
from calculator.engine.tape import Tape, Tensor
from calculator.families import forward_of
from calculator.layers import seq2seq
from calculator.layers.cache import Cache
from calculator.layers.context import Context
from calculator.trainers.transformers.loop import in_float32
from calculator.training_step.causal_lm import decoder
from calculator.training_step.generation import ONE, PassPeak
from calculator.training_step.next_token import GreedySearch, scores, special_tokens

if TYPE_CHECKING:
    from calculator.architecture.dimension import Dim, Shape
    from calculator.common.dtype import DType
    from calculator.methods.prepared_model import PreparedModel

    #: The shapes and dtypes of each layer's keys and values: of its self-attention, and of its cross-attention.
    Shapes = list[list[tuple[Shape, DType]]]


class Seq2SeqGeneration:
    """Greedy search for the target of a batch.

    `prepared` has the number of rows and the length of the source. `wrapped_dtype` is that of autocast around the
    model's forward pass. `prompt` is the number of tokens that the decoder starts with.
    """

    __slots__ = ("_cached", "_encoded", "encodes", "prepared", "prompt", "wrapped_dtype")

    def __init__(self, prepared: PreparedModel) -> None:
        training, source = prepared.training, prepared.training.sequence_length
        self.wrapped_dtype: DType | None = None if prepared.method.facts.config_class else training.autocast
        #: The model in the encoder's pass, and in the passes of the decoder.
        self.encodes = prepared.for_run(training.generating(source, None), prepared.device)
        self.prepared = prepared.for_run(training.generating(source, self.wrapped_dtype), prepared.device)
        self.prompt = ONE
        self._encoded: tuple[Shape, DType] = (), "float32"
        self._cached: Shapes = []

    def passes(self, tokens: int) -> tuple[PassPeak, ...]:
        """Return the encoder's pass, and the decoder's first, second and last pass for a number of tokens.

        The number includes the tokens that the decoder starts with.
        """
        first = int(self.prompt)
        ran = [self._encode(), self._decode(named(0, "0"), is_last=tokens == first + 1)]
        if tokens > first + 1:
            ran.append(self._decode(named(first, str(self.prompt)), is_last=tokens == first + 2))
        if tokens > first + 2:
            ran.append(self._decode(named(tokens - 2, "tokens - 2"), is_last=True))
        return tuple(ran)

    def kept(self, context: Context) -> list[Tensor]:
        """Allocate the tensors, other than the batch, that the callers of `generate` refer to."""
        return special_tokens(context)

    def loop(self, context: Context) -> TargetLoop:
        """Begin greedy search."""
        return TargetLoop(context)

    def source(self, context: Context) -> Tensor:
        """Return the encoder's input."""
        return Tensor(context.tape, None, (context.batch, context.length), "int64", None)

    @without_frame_snapshots
    def _encode(self) -> PassPeak:
        context = self._context(self.encodes)
        layers = self.encodes.model.encoder_layers
        context.repetition = Repetition(numbers=tuple(range(layers)), start=layers, end=layers, copies=0)
        source = self.source(context)
        kept = self.kept(context)
        context.forward = seq2seq.encoder_forward(context.forward)
        start = len(context.tape.events)
        encoded = decoder(context, source)
        self._encoded = encoded.shape, encoded.dtype
        context.release()
        measured = _measured(context.tape, start)
        del kept, encoded, source
        return measured

    @without_frame_snapshots
    def _decode(self, past: Dim, *, is_last: bool) -> PassPeak:
        context = self._context(self.prepared)
        tape, source = context.tape, context.length
        layers, count = self.prepared.model.encoder_layers, len(context.layers)
        context.repetition = Repetition(numbers=tuple(range(layers, count)), start=count - layers, end=count, copies=0)
        context.forward = seq2seq.decoder_forward(context.forward)
        inputs = self.source(context)
        loop = self.loop(context)
        loop.begin(context)
        encoded = tape.new(*self._encoded, "encoder's output")
        loop.starts(context, is_last=is_last)
        context.past, context.length = past, ONE if past else self.prompt
        context.cache = self._cache(context, past)
        if past:
            loop.after_first_token(context)
        start = len(tape.events)
        context.decoder_ids = tape.new((context.batch, context.length), "int64", "decoder_input_ids")
        with autocast.region(tape, self.wrapped_dtype):
            seq2seq.attend_to(context, encoded, source)
            logits = self._logits(context, context.decoder_ids)
        if self.wrapped_dtype is not None:
            logits = in_float32(logits)
        context.forward_locals = []
        if not past:
            context.decoder_ids = None
        loop.choose(context)
        context.decoder_ids = None
        del logits
        if not past:
            self._cached = [[(tensor.shape, tensor.dtype) for tensor in pair] for pair in context.cache.kept]
        measured = _measured(tape, start)
        del loop, encoded, inputs
        return measured

    def _cache(self, context: Context, past: Dim) -> Cache:
        """Return the keys and values that earlier passes cached for the two attentions of each layer."""
        target, source = self._cached[::2], self._cached[1::2]
        if not past:
            target, source = [], []
        before = [[_cached(context, (*shape[:2], past, shape[3]), dtype) for shape, dtype in pair] for pair in target]
        encoder_pairs = [tuple(_cached(context, shape, dtype) for shape, dtype in pair) for pair in source]
        return Cache(before, windowed=False, component="kv_cache", encoder_pairs=encoder_pairs)

    @staticmethod
    def _logits(context: Context, ids: Tensor) -> Tensor:
        hidden_states = decoder(context, ids)
        context.release()
        context.tape.component = "logits_and_loss"
        return context.forward.logits(context, context.bind(context.model.output)(hidden_states))

    @staticmethod
    def _context(prepared: PreparedModel) -> Context:
        tape = Tape(trains=False)
        tape.grad_enabled = False
        context = Context(prepared, forward_of(prepared.model), tape=tape)
        context.generates = True
        return context


class TargetLoop(GreedySearch):
    """Greedy search for a target. Every row starts with the same token."""

    __slots__ = ("first", "forced", "forces", "rows")

    def _kept(self, context: Context) -> list[Tensor]:  # noqa: ARG002  the signature of the base class
        return []

    def starts(self, context: Context, *, is_last: bool) -> None:
        """Allocate the first token of every row, and the token that ends a target if it is forced."""
        self.first = context.tape.new((context.batch, 1), "int64", "decoder_start_token_id of every row")
        self.forces = is_last and context.forward.forces_eos
        self.forced = context.tape.new((1,), "int64", "forced_eos_token_id") if context.forward.forces_eos else None

    def _choose(self, context: Context) -> None:
        before = self.logits if self.forces else None
        super()._choose(context)
        if self.forces:
            logits, self.logits = self.logits, scores(context, "next_token_scores")
            context.tape.new((), "float32", "score of the forced token")
            del logits
        del before


def _cached(context: Context, shape: Shape, dtype: DType) -> Tensor:
    return context.tape.new(shape, dtype, "cached before", component="kv_cache")


def _measured(tape: Tape, start: int) -> PassPeak:
    """Return the peak of the events from a position on."""
    end, storages = len(tape.events), storages_of(tape)
    recording = Recording(Copies(tape, Lifetimes(tape.events, len(tape.rows)), storages.kinds), storages)
    moment = recording.curve.peak(start, end)
    return PassPeak(recording=recording, moment=moment, operation=recording.operation(moment.event), start=start)
