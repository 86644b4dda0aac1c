"""The forward pass of an evaluation: the model in eval mode, without a graph, to its loss."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from calculator.engine.copies import Copies
from calculator.engine.kinds import storages_of
from calculator.engine.lifetimes import Lifetimes
from calculator.engine.recording import Recording
from calculator.engine.repetition import Repetition
from calculator.engine.tape import Tape
from calculator.layers.context import Context
from calculator.trainers import trainer_of
from calculator.trainers.liger import forward_for
from calculator.training_step.causal_lm import forward_pass
from calculator.training_step.compared import ModelPasses

if TYPE_CHECKING:
    from calculator.engine.live_tensors import LiveTensors
    from calculator.engine.memory_curve import Moment
    from calculator.methods.prepared_model import PreparedModel
    from calculator.trainers import Loop


class EvaluationPass(NamedTuple):
    """A pass: its recording, its peak, and the operation that reaches it."""

    recording: Recording
    moment: Moment
    operation: str

    @property
    def alive(self) -> LiveTensors:
        """The tensors of the pass that are alive at its peak."""
        return self.recording.alive(self.moment)


def evaluation_pass(prepared: PreparedModel, loop: Loop | None = None) -> EvaluationPass:
    """Run a batch of the prepared model's training through its trainer's forward pass, or through a loop's of its own.

    Every layer is run.
    """
    tape = Tape(trains=False)
    tape.grad_enabled = False
    context = Context(prepared, forward_for(prepared.model, prepared.training), tape=tape)
    count = len(context.layers)
    context.repetition = Repetition(numbers=tuple(range(count)), start=count, end=count, copies=0)
    trainer = loop or trainer_of(prepared.training)
    batch = trainer.batch(context)
    loss = trainer.loss(context, ModelPasses(context, partial(forward_pass, trainer=trainer, ids=batch[0])))
    context.release()
    del batch, loss
    storages = storages_of(tape)
    recording = Recording(Copies(tape, Lifetimes(tape.events, len(tape.rows)), storages.kinds), storages)
    moment = recording.curve.peak(0, len(tape.events))
    return EvaluationPass(recording, moment, recording.operation(moment.event))
