"""The no-grad passes of PEFT's method comparison: the loss of texts before the first step, and questions.

Source: huggingface/peft, method_comparison/MetaMathQA/run.py. Since 3 December 2025 `calculate_mean_per_token_loss`
runs the model on 100 texts in batches before the first step, and nothing empties the cache after that. So the first
step, which creates the optimizer's states, finds what the passes left cached. Since 14 July 2026 PEFT's adapters are
disabled in these passes. `evaluate` generates answers to 50 questions at once after every 250th step, before the cache
is emptied.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from calculator.allocator.equal_layers import shifted_rows
from calculator.allocator.history import History
from calculator.allocator.loading import Loading, loading_options
from calculator.common.dtype import ITEMSIZE, rounded
from calculator.engine.repetition import Repetition
from calculator.engine.tape import Tape
from calculator.layers.context import Context
from calculator.sharding.registry import evaluation_hooks
from calculator.trainers.liger import forward_for
from calculator.trainers.logits_only import LogitsOnly
from calculator.training_step.causal_lm import forward_pass
from calculator.training_step.generate_trace import GenerateTraces
from calculator.training_step.model_passes import ModelPasses
from validation.published.outputs import is_output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.allocator.history import Step
    from calculator.allocator.history_run import HistoryRun
    from calculator.methods.prepared_model import PreparedModel
    from calculator.training_step.resident_state import ResidentState

#: Texts whose loss is computed, in batches as large as the run's. They are assumed to be cut to the longest length.
TEXTS = 100

#: Questions of a batch (`batch_size_eval`), and the tokens of the longest. It is assumed: between 100 and 250 tokens
#: nothing more is reserved.
QUESTIONS = 50
QUESTION_TOKENS = 150


class LoadedAndEvaluated(Loading):
    """The load, and the passes of the loss that is computed before the first step."""

    __slots__ = ()

    def __init__(self, resident: ResidentState, evaluated: PreparedModel) -> None:
        """`evaluated` is the model of the passes, with the run's batch size and its longest sequence."""
        prepared = resident.prepared
        super().__init__(resident.tensors, prepared.training, loading_options(prepared))
        tape, training = _forward(evaluated), evaluated.training
        sizes, names = [row[4] for row in tape.rows], [row[0] for row in tape.rows]
        outputs = [row for row, name in enumerate(names) if sizes[row] and is_output(name, evaluated.model)]
        freed = {*outputs}
        events = [event for event in tape.events if sizes[max(event, ~event)] and ~event not in freed]
        before: list[int] = []
        for _ in range(0, TEXTS, training.micro_batch_size):
            start = len(self.sizes)
            self.sizes += sizes
            self.names += names
            self.add_events(shifted_rows(events, start))
            # The name `outputs` refers to the batch before until the next pass is over.
            self.add_events(before)
            before = [~(row + start) for row in outputs]
            self._losses(evaluated)
        self.add_events(before)

    def _losses(self, evaluated: PreparedModel) -> None:
        """Request the loss of each token of a text, one text after the other."""
        training = evaluated.training
        tokens, itemsize = training.sequence_length - 1, ITEMSIZE[training.dtype]
        for _ in range(training.micro_batch_size):
            start = len(self.sizes)
            sizes = [tokens * int(evaluated.model.config["vocab_size"]) * itemsize, tokens * itemsize]
            self._request(["log_softmax", "loss of each token"], [*map(rounded, sizes)])
            self.add_events([~start, ~(start + 1)])


def _forward(prepared: PreparedModel) -> Tape:
    """Return the events of a pass, at whose end its outputs are freed."""
    tape = Tape(trains=False)
    tape.grad_enabled = False
    hooks = evaluation_hooks(prepared)
    context = Context(prepared, forward_for(prepared.model, prepared.training), hooks=hooks, tape=tape)
    context.unrolls, count = True, len(context.layers)
    context.repetition = Repetition(numbers=tuple(range(count)), start=count, end=count, copies=0)
    loop = LogitsOnly()
    batch = loop.batch(context)
    logits = loop.loss(context, ModelPasses(context, partial(forward_pass, trainer=loop, ids=batch[0])))
    context.release()
    del batch, logits
    return tape


def reserved_by_questions(run: HistoryRun, steps: Sequence[Step], every: int) -> int:
    """Return the most bytes reserved if questions are evaluated, and the cache emptied, after each `every`-th step.

    Only the pass of the prompts is replayed. It makes a prefix for all questions at once, in float32 and in the model's
    dtype. The passes for the answers' tokens reserve nothing more.
    """
    prepared = run.prepared
    training = replace(
        prepared.training,
        micro_batch_size=QUESTIONS,
        sequence_length=QUESTION_TOKENS,
        sequence_lengths=None,
        padding=True,
    )
    program, kinds = GenerateTraces(prepared.for_run(training, prepared.device)).sized(0)
    sizes = [kinds[kind] for kind in program.kinds]
    events = [event for event in program.events if sizes[max(event, ~event)]]
    left = [row for row in program.left if sizes[row]]
    machine = run.machine(steps, more=len(steps) // every * sum(sizes))
    history = History(run, machine, None)
    most = 0
    for end in range(every, len(steps) + 1, every):
        history.finish(steps[:end], None)
        machine.begin(sizes, program.names.__getitem__)
        machine.play(events)
        most = max(most, machine.most_reserved())
        machine.free(machine.placed(left))
        machine.empty_cache()
    return most
