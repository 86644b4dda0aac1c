"""The passes of `generate` inside a training step, where a trainer samples completions from the model that it trains.

The model stays in training mode, under no_grad. The loop is that of sampling (transformers/generation/utils.py,
GenerationMixin.generate and _sample). Unlike in greedy search, the caller keeps the prompts, every sequence has its own
positions, and tokens are drawn from probabilities. `accelerate` wraps the forward pass of the prepared model. So
autocast applies unless PEFT's model calls the model inside it.

One layer of each repeating period represents the others (see `repetition`). Before a token is decoded, the cached keys
and values of all layers are alive. Each layer replaces its own.

Source: trl/trainer/grpo_trainer.py and rloo_trainer.py of TRL 1.16, _generate_single_turn.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.dimension import named
from calculator.engine import autocast
from calculator.engine.frame_snapshots import without_frame_snapshots
from calculator.engine.kinds import equal
from calculator.engine.lifetimes import Lifetimes
from calculator.engine.memory_curve import Window
from calculator.engine.sym_sizes import EvaluatedSizes
from calculator.engine.symbolic_sizes import SymInt
from calculator.engine.tape import Tape
from calculator.families import forward_of
from calculator.layers.cache import Cache, UnfilledCache, entries_by_layer
from calculator.layers.context import Context
from calculator.layers.sharding_hooks import NO_HOOKS
from calculator.sharding.registry import generation_hooks
from calculator.stack.releases import release
from calculator.trainers import image_batch, trainer_of
from calculator.trainers.liger import forward_for
from calculator.trainers.transformers.loop import images_in_float32, in_float32
from calculator.training_step.earlier_tokens import EarlierTokens
from calculator.training_step.first_period import leave_out, outputs_of
from calculator.training_step.generation import ONE, PassPeak, last_logits
from calculator.training_step.next_token import OlderSampling, Sampling, WarpedSampling
from calculator.training_step.rollout_cache import entries_before, entries_of_all
from calculator.training_step.run import Interpretation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from calculator.architecture.dimension import Dim, Shape
    from calculator.architecture.layer_kind import MixerType
    from calculator.architecture.model import Layer
    from calculator.common.dtype import DType
    from calculator.engine.repetition import Repetition
    from calculator.engine.symbolic_sizes import ShapeEnv
    from calculator.engine.tape import Sizes, Tensor
    from calculator.layers.sharding_hooks import Hooks
    from calculator.methods.prepared_model import PreparedModel
    from calculator.sharding.fsdp.generation import PassOf
    from calculator.trainers.loop import GenerationBatch
    from calculator.training_step.next_token import Loop
    from calculator.training_step.run import Run

#: The first release whose `generate` drops a mask that is all ones, and extends positions in its place.
CHOOSES_POSITIONS = (5,)


class RolloutPass(NamedTuple):
    """One pass: the events of its tape from `start` on, and the cache entries of the interpreted layers.

    `sizes` numbers the sizes of rows if they are symbolic. `inputs` are the rows of the ids and of what else the model
    is given. The next token is chosen after the event at `choice`. `earlier` are the rows of what earlier passes left.
    """

    interpretation: Interpretation
    sizes: Sizes
    start: int
    cache: Cache
    inputs: range
    choice: int
    earlier: range = range(0)

    def measured(self, run: Run) -> PassPeak:
        """Return the peak of the pass, from a run of it."""
        recording = run.recorded()
        moment = recording.curve.peak(self.start, recording.copies.lifetimes.end)
        operation = recording.operation(moment.event)
        return PassPeak(recording=recording, moment=moment, operation=operation, start=self.start)


def rolled_out(prepared: PreparedModel, *, trains: bool = True, is_first: bool = True) -> tuple[PassPeak, ...]:
    """Return the passes in which a trainer generates the completions of a step, or of a batch of its evaluation.

    A trainer that does not generate has none. `trains`: whether the model is in training mode. `is_first`: whether no
    other batch of the evaluation ran before.
    """
    batch = trainer_of(prepared.training).generation(prepared.training)
    passes = Rollout(prepared, batch, trains=trains, is_first=is_first).passes() if batch is not None else ()
    return tuple([ran.measured(ran.interpretation.run()) for ran in passes])


class Rollout:
    """The generation of the completions of a step.

    `prepared` has the number of rows and the length of the prompts.
    """

    __slots__ = (
        "batch",
        "classes",
        "encoded",
        "fills_cache",
        "grads_inputs",
        "is_first",
        "loop",
        "prepared",
        "shape_env",
        "skips_first_period",
        "trains",
        "wrapped_dtype",
    )

    def __init__(
        self,
        prepared: PreparedModel,
        batch: GenerationBatch,
        shape_env: ShapeEnv | None = None,
        *,
        trains: bool = True,
        loop: type[Loop] | None = None,
        is_first: bool = True,
    ) -> None:
        training = prepared.training
        is_fsdp = prepared.device.sharding == "fsdp"
        is_wrapped = not is_fsdp and not prepared.method.facts.config_class
        #: The dtype of autocast around the model's forward pass. The outputs are then copied to float32.
        self.wrapped_dtype: DType | None = training.autocast if is_wrapped else None
        # The mixed precision of FSDP2 belongs to each unit, whatever calls it. accelerate then wraps no forward pass.
        dtype = training.autocast if is_fsdp else self.wrapped_dtype
        is_older = release(prepared.stack.transformers) < CHOOSES_POSITIONS
        shortest = image_batch.shortest_prompt(prepared.model, training)
        generating = training.generating(batch.prompt, dtype, shortest, drops_mask=not is_older)
        if training.has_images:
            generating = generating.by_sequences(training.micro_batches)
        self.prepared = prepared.for_run(generating, prepared.device)
        self.batch = batch
        #: Records the sizes if they are symbolic.
        self.shape_env = shape_env
        #: Whether the model is in training mode.
        self.trains = trains
        #: The loop that chooses the next token.
        self.loop = loop or _loop(prepared, is_older=is_older)
        #: Whether the layers keep keys and values.
        self.fills_cache = not trains or prepared.trainer.fills_cache(prepared)
        grads = prepared.trainer.grads_inputs_of_all_passes(training, prepared.stack)
        #: Whether embeddings require a gradient, which autocast then caches a copy of.
        self.grads_inputs = grads and self.wrapped_dtype is not None
        #: Whether no batch of an evaluation ran before.
        self.is_first = is_first
        #: The classes of the layers, once a pass has found them, if they are the same in every pass.
        self.classes: tuple[int, ...] | None = None
        #: What the tower returns for the images of the prompts.
        self.encoded: list[tuple[Shape, DType, str]] = []
        #: Whether the first period of layers is not interpreted (see `first_period`).
        self.skips_first_period = not self.grads_inputs

    def passes(self) -> tuple[RolloutPass, ...]:
        """Return the passes of the prompts, of the second token and of the last token."""
        prefill = self.prefill()
        passes, tokens = [prefill], self.batch.completion
        if tokens > 1:
            passes.append(self.decode(self.batch.prompt, prefill, first=True))
        if tokens > 2:
            passes.append(self.decode(self.last_past, prefill, first=False))
        return tuple(passes)

    @property
    def last_past(self) -> Dim:
        """The tokens that the cache has before the last pass of three or more."""
        return self.batch.prompt + named(self.batch.completion - 2, "C - 2")

    @property
    def attention_types(self) -> set[MixerType]:
        """The attention types of the layers."""
        return {layer.kind.attention for stack in self.prepared.model.stacks for layer, _ in stack.distinct}

    @property
    def decodes_equally(self) -> bool:
        """Whether the passes of the second and of the last token run the same operations."""
        slides = "sliding_attention" in self.attention_types
        return self.batch.completion > 2 and self.fills_cache and not slides and self.hooks("later token") is NO_HOOKS

    @property
    def prompts_decode_equally(self) -> bool:
        """Whether the pass of the prompts runs the same operations too, if no size changes them.

        Each layer appends a pair of keys and values to the cache, and no mask or tensor depends on what is cached.
        """
        prepared, training = self.prepared, self.prepared.training
        if prepared.older or prepared.method.virtual_tokens or training.padding or training.has_images:
            return False
        kinds = [layer.kind for layer, _ in prepared.model.decoder.distinct]
        if any(kind.attention not in {"full_attention", "mlp"} or kind.shares == "reuse" for kind in kinds):
            return False
        return self.decodes_equally and not forward_of(prepared.model).changes_positions

    def hooks(self, which: PassOf) -> Hooks:
        """Return the hooks of a sharding in a pass."""
        return generation_hooks(self.prepared, which, is_first=self.is_first)

    @without_frame_snapshots
    def prefill(self) -> RolloutPass:
        """Return the pass of the prompts."""
        return self._unless_periods_differ(self._prefill)

    def _prefill(self) -> RolloutPass | None:
        context = self._context("prompts", self.shape_env)
        given = () if "windows_without_counters" in context.older else None
        cache = Cache(windowed=True, given=given, component="kv_cache")
        context.cache = cache if self.fills_cache else UnfilledCache()
        loop = self.loop(context)
        return self._run(context, loop)

    @without_frame_snapshots
    def decode(self, past: Dim, prefilled: RolloutPass, *, first: bool) -> RolloutPass:
        """Return the pass of a token after `past` tokens. With `first`, the pass of the prompts filled the cache."""
        return self._unless_periods_differ(partial(self._decode, past, prefilled, first=first))

    @without_frame_snapshots
    def later(self, past: SymInt, length: SymInt) -> RolloutPass:
        """Return the pass of one or more tokens after `past` ones, without a pass of the prompts before it."""
        return self._unless_periods_differ(partial(self._later_pass, past, length))

    def _later_pass(self, past: SymInt, length: SymInt) -> RolloutPass | None:
        context = self._context("later token", past.shape_env)
        loop = self.loop(context)
        context.past, context.length = past, length
        first = len(context.tape.rows)
        context.cache = cache = EarlierTokens(context)
        loop.after_first_token(context)
        earlier = range(first, len(context.tape.rows))
        ran = self._run(context, loop)
        if ran is None:
            return None
        cache.shape_others(ran.interpretation.tape.rows)
        return ran._replace(earlier=earlier)

    def _unless_periods_differ(self, run: Callable[[], RolloutPass | None]) -> RolloutPass:
        """Return a pass, in which the first period of layers is interpreted if the second one differs from it."""
        interpreted = run()
        if interpreted is None:
            self.skips_first_period = False
            interpreted = run()
        assert interpreted is not None
        return interpreted

    def _decode(self, past: Dim, prefilled: RolloutPass, *, first: bool) -> RolloutPass | None:
        shape_env = past.shape_env if isinstance(past, SymInt) else self.shape_env
        context = self._context("second token" if first else "later token", shape_env)
        windowed = _windowed(context.layers) if prefilled.cache.windows else 0
        windows = [context.tape.new((), "int64", "window") for _ in range(windowed)]
        cache = Cache(windowed=True, given=windows, component="kv_cache")
        context.cache = cache if self.fills_cache else UnfilledCache()
        del windows, cache
        loop = self.loop(context)
        context.past, context.length = past, ONE
        ran = prefilled.interpretation.repetition
        interpreted = [context.layers[number] for number in ran.numbers]
        like = entries_of_all(ran, entries_by_layer(interpreted, prefilled.cache.kept))
        context.cache.before = entries_before(context, like, first=first)
        loop.after_first_token(context)
        loop.kept += [context.tape.new(*output) for output in self.encoded]
        return self._run(context, loop)

    def _encode(self, context: Context, loop: Loop) -> None:
        """Run the tower on the images of the prompts. Its outputs stay until the last token.

        Source: transformers/generation/utils.py, _prepare_multimodal_encoder_kwargs_for_generation.
        """
        tower, tape = context.forward.tower, context.tape
        assert tower is not None
        context.images = [*loop.images]
        context.encoded_images = tower.encode(context)
        outputs = [output for output, _ in context.image_outputs]
        loop.kept += outputs
        rows = {output.storage.row: tape.rows[output.storage.row] for output in outputs if output.storage is not None}
        self.encoded = [(shape, dtype, f"{name}, returned") for name, shape, dtype, *_ in rows.values()]

    def _context(self, which: PassOf, shape_env: ShapeEnv | None) -> Context:
        tape = Tape(trains=self.trains, cuda=self.prepared.kernels.cuda)
        if shape_env is not None:
            tape.sizes = EvaluatedSizes()
        tape.grad_enabled = False
        hooks = self.hooks(which)
        forward = forward_for(self.prepared.model, self.prepared.training)
        context = Context(self.prepared, forward, hooks=hooks, tape=tape, classes=self.classes)
        context.router_logits = None
        context.grads_inputs = context.grads_inputs or self.grads_inputs
        context.gives_positions = context.forward.takes_positions
        context.batch, context.length = self.batch.rows, self.batch.prompt
        if self.classes is None:
            if len(self.attention_types) > 1:
                # A layer with a window caches other tokens than a layer without, even if their masks are the same.
                types = [layer.kind.attention for layer in context.layers]
                context.classes = equal(zip(context.classes, types, strict=True))
                context.repetition = hooks.repetition(context.classes)
            self.classes = context.classes if hooks is NO_HOOKS else None
        if self.skips_first_period:
            leave_out(context)
        return context

    def _run(self, context: Context, loop: Loop) -> RolloutPass | None:
        """Run the model on copies of the ids and positions, and choose the next token.

        Return None if the first period of layers is left out and differs from the second.
        """
        tape, start = context.tape, len(context.tape.events)
        assert context.cache is not None
        is_first = loop.is_first
        if loop.images and is_first:
            self._encode(context, loop)
        loop.begin(context)
        row = len(tape.rows)
        ids = tape.new((context.batch, context.length), "int64", "input_ids")
        inputs = [ids, *loop.given(context)]
        loop.enter(inputs)
        rows = range(row, len(tape.rows))
        seen = context.past
        context.past = seen if self.fills_cache else 0
        with autocast.region(tape, self.wrapped_dtype):
            logits = last_logits(context, ids, forward_of(self.prepared.model))
        image_tensors: list[Tensor] = []
        if self.wrapped_dtype is not None:
            tape.scope = "outputs: "
            logits = in_float32(logits)
            image_tensors = [*images_in_float32(context)]
            context.drop_outputs()
        context.forward_locals = []
        del ids
        if is_first:
            inputs.clear()
        choice, context.past = len(tape.events), seen
        loop.choose(context)
        context.drop_outputs()
        del inputs, logits, image_tensors
        if context.first_period_differs:
            return None
        interpretation = _interpretation(tape.copy(), context.repetition)
        return RolloutPass(interpretation, tape.sizes, start, context.cache, rows, choice)


def _interpretation(tape: Tape, layers: Repetition) -> Interpretation:
    """Return the events of a pass.

    Each repeated layer frees the cache entries that it replaces.
    """
    marks = {label: position for position, label in tape.marks}
    start, end = (marks[f"layer {place} forward"] for place in (layers.start, layers.end))
    window = Window(before=0, start=start, end=end, copies=layers.copies)
    return Interpretation(
        tape=tape,
        repetition=layers,
        lifetimes=Lifetimes(tape.events, len(tape.rows)),
        windows=(),
        shared_rows=0,
        hidden_states_row=None,
        first=None,
        no_grad=(window,) if window.copies else (),
        outputs=outputs_of(tape, [("", layers)]),
    )


def _loop(prepared: PreparedModel, *, is_older: bool) -> type[Loop]:
    """Return the loop that chooses the next token for a trainer. `is_older`: whether transformers is before 5.0."""
    if is_older and prepared.trainer.warps_scores(prepared.stack):
        return WarpedSampling
    return OlderSampling if is_older else Sampling


def _windowed(layers: Sequence[Layer]) -> int:
    """Return the number of layers whose cache is a window."""
    return sum(layer.kind.attention == "sliding_attention" and layer.kind.shares != "reuse" for layer in layers)
