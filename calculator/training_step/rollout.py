"""The passes of `generate` inside a training step: a trainer samples completions with the model that it trains.

The model stays in training mode, without a graph, and the loop is that of sampling (transformers/generation/utils.py,
GenerationMixin.generate and _sample). It differs from greedy search in a caller that keeps the prompts, positions of
every sequence, and probabilities from which tokens are drawn. `accelerate` wraps the forward pass of the model that it
prepares, so that autocast applies unless PEFT's model calls the model inside it.

Source: trl/trainer/grpo_trainer.py and rloo_trainer.py of TRL 1.16, _generate_single_turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import Dim
from calculator.engine import autocast
from calculator.engine.repetition import Repetition
from calculator.engine.tape import Tape
from calculator.families import forward_of
from calculator.layers.cache import Cache
from calculator.layers.context import Context
from calculator.trainers.liger import forward_for
from calculator.trainers.transformers.loop import in_float32
from calculator.training_step.generation import ONE, TracedPass, cached_before, last_logits, measured

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.methods.prepared_model import PreparedModel
    from calculator.trainers.loop import GenerationBatch
    from calculator.training_step.generation import Pass


class Rollout:
    """The generation of the completions of a step. `prepared` states the rows, and the length of the prompts."""

    __slots__ = ("batch", "prepared", "wrapped_dtype")

    def __init__(self, prepared: PreparedModel, batch: GenerationBatch) -> None:
        training = prepared.training
        #: The dtype of autocast around the model's forward pass, whose outputs are copied to float32 then.
        self.wrapped_dtype: DType | None = None if prepared.method.facts.config_class else training.autocast
        generating = training.generating(batch.prompt, self.wrapped_dtype)
        self.prepared = prepared.for_run(generating, prepared.device)
        self.batch = batch

    def passes(self) -> tuple[Pass, ...]:
        """Return the pass of the prompts, that of the second token and that of the last one."""
        prefill = self._prefill()
        passes, prompt, tokens = [measured(prefill)], self.batch.prompt, self.batch.completion
        if tokens > 1:
            passes.append(measured(self._decode(prompt, prefill.cache, first=True)))
        if tokens > 2:
            last = prompt + Dim(tokens - 2, "C - 2")
            passes.append(measured(self._decode(last, prefill.cache, first=False)))
        return tuple(passes)

    def _prefill(self) -> TracedPass:
        context = self._context()
        context.cache = Cache(windowed=True, component="kv_cache")
        return self._run(context, _Loop(context))

    def _decode(self, past: Dim, prefilled: Cache, *, first: bool) -> TracedPass:
        context = self._context()
        windows = [context.tape.new((), "int64", "window") for _ in prefilled.windows]
        context.cache = Cache(windowed=True, given=windows, component="kv_cache")
        del windows
        loop = _Loop(context)
        context.past, context.length = past, ONE
        context.cache.before = [
            [cached_before(context, layer, tensor, first=first) for tensor in pair]
            for layer, pair in zip(context.layers, prefilled.kept, strict=True)
        ]
        loop.after_first_token(context)
        return self._run(context, loop)

    def _context(self) -> Context:
        tape = Tape()
        tape.grad_enabled = False
        context = Context(self.prepared, forward_for(self.prepared.model, self.prepared.training), tape=tape)
        context.gives_positions = context.forward.takes_positions
        context.batch, context.length = self.batch.rows, self.batch.prompt
        count = len(context.layers)
        context.repetition = Repetition(numbers=tuple(range(count)), start=count, end=count, copies=0)
        return context

    def _run(self, context: Context, loop: _Loop) -> TracedPass:
        """Run the model, which gets copies of the ids and positions, and choose the next token."""
        tape, start = context.tape, len(context.tape.events)
        assert context.cache is not None
        context.set_scope("generate: ")
        ids = tape.new((context.batch, context.length), "int64", "input_ids")
        inputs = [ids]
        if context.past and context.forward.takes_positions:
            inputs.append(tape.new(ids.shape, "int64", "position_ids"))
        with autocast.region(tape, self.wrapped_dtype):
            logits = last_logits(context, ids, forward_of(self.prepared.model))
        if self.wrapped_dtype is not None:
            tape.scope = "outputs: "
            logits = in_float32(logits)
        context.forward_locals = []
        del ids
        if not context.past:
            inputs.clear()
        loop.choose(context)
        del inputs, logits
        return TracedPass(tape=tape, start=start, end=len(tape.events), given=(), left=(), cache=context.cache)


class _Loop:
    """The tensors of `generate` around the passes; those of a token replace those of the token before."""

    __slots__ = ("ids", "kept", "logits", "mask", "positions", "probabilities", "tokens", "unfinished")

    def __init__(self, context: Context) -> None:
        tape, shape = context.tape, (context.batch, context.length)
        context.set_scope("generate: ")
        #: What the trainer and the outer function refer to: prompts, mask, positions, and special tokens.
        names = ["prompt_ids", "prompt_mask", *(["prompt positions"] if context.forward.takes_positions else [])]
        self.kept = [tape.new(shape, "int64", name) for name in names]
        self.kept += [tape.new((), "int64", f"{name}_token_id") for name in ("bos", "eos", "pad")]
        self.unfinished = tape.new((context.batch,), "int64", "unfinished_sequences")
        self.ids: Tensor | None = None
        self.mask: Tensor | None = None
        self.positions: Tensor | None = None
        self.logits: Tensor | None = None
        self.probabilities: Tensor | None = None
        self.tokens: Tensor | None = None

    def after_first_token(self, context: Context) -> None:
        """Make what the token before has left."""
        seen = (context.batch, context.past + 1)
        self.ids = context.tape.new(seen, "int64", "ids")
        if context.forward.takes_positions:
            self.positions = context.tape.new(seen, "int64", "positions")
        if context.training.padding:
            self.mask = context.tape.new(seen, "int64", "attention_mask")
        self.logits, self.probabilities = _scores(context, "next_token_logits"), _scores(context, "probabilities")
        self.tokens = context.tape.new((context.batch,), "int64", "next_tokens")

    def choose(self, context: Context) -> None:
        """Draw the next token: the largest of the probabilities over exponential numbers."""
        tape, one = context.tape, (context.batch, 1)
        longer = (context.batch, context.past + context.length + 1)
        context.set_scope("generate: ")
        before = self.mask
        if context.forward.takes_positions:
            self.positions = _appended(context, longer, "positions")
        if context.training.padding:
            self.mask = _appended(context, longer, "attention_mask")
        self.logits = _scores(context, "next_token_logits")
        self.probabilities = _scores(context, "probabilities")
        quotients = _scores(context, "probabilities / exponential numbers")
        drawn = tape.new(one, "int64", "drawn")
        del quotients
        self.tokens = tape.new((context.batch,), "int64", "next_tokens")
        del drawn
        self.ids = tape.new(longer, "int64", "ids")
        del before


def _appended(context: Context, shape: Shape, name: str) -> Tensor:
    """Return ids of all tokens, with one more for each sequence."""
    more = context.tape.new((context.batch, 1), "int64", f"{name}, next")
    out = context.tape.new(shape, "int64", name)
    del more
    return out


def _scores(context: Context, name: str) -> Tensor:
    """Return a float32 number for each token that may come next."""
    shape = (context.batch, context.model.output.out_features)
    return context.tape.new(shape, "float32", name, component="logits_and_loss")
