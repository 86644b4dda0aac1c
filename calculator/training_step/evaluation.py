"""The forward passes of an evaluation: the model in eval mode, without a graph, to its loss and to its logits."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from calculator.engine.autocast import region
from calculator.engine.copies import Copies
from calculator.engine.frame_snapshots import without_frame_snapshots
from calculator.engine.kinds import storages_of
from calculator.engine.lifetimes import Lifetimes
from calculator.engine.recording import Recording
from calculator.engine.repetition import Repetition
from calculator.engine.tape import Tape
from calculator.layers.context import Context
from calculator.sharding.registry import evaluation_hooks
from calculator.trainers import trainer_of
from calculator.trainers.liger import forward_for
from calculator.trainers.logits_only import LogitsWithoutCache
from calculator.trainers.transformers.loop import in_float32
from calculator.training_step.causal_lm import forward_pass
from calculator.training_step.compared import ModelPasses

if TYPE_CHECKING:
    from calculator.engine.live_tensors import LiveTensors
    from calculator.engine.memory_curve import Moment
    from calculator.engine.tape import Tensor
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


@without_frame_snapshots
def evaluation_pass(
    prepared: PreparedModel, loop: Loop | None = None, *, logits: bool = False, is_first: bool = True
) -> EvaluationPass:
    """Run a batch of the prepared model's training through its trainer's forward pass, or through a loop's of its own.

    Every layer is run. With `logits`, the model computes the logits of the batch after the loss, in a pass of its own.
    `is_first`: whether no other batch of the evaluation ran before it.
    """
    tape = Tape(trains=False)
    tape.grad_enabled = False
    hooks = evaluation_hooks(prepared, is_first=is_first)
    context = Context(prepared, forward_for(prepared.model, prepared.training), hooks=hooks, tape=tape)
    context.unrolls, count = True, len(context.layers)
    context.repetition = Repetition(numbers=tuple(range(count)), start=count, end=count, copies=0)
    trainer = loop or trainer_of(prepared.training)
    batch = trainer.batch(context)
    forward = partial(forward_pass, trainer=trainer, ids=batch[0])
    if logits:
        passes = _PassesOfEvaluation(context, forward)
        loss = trainer.loss(context, passes)
        context.release()
        _logits_after_loss(passes, trainer, batch[0])
        del passes
    else:
        loss = trainer.loss(context, ModelPasses(context, forward))
        context.release()
    del batch, loss
    storages = storages_of(tape)
    recording = Recording(Copies(tape, Lifetimes(tape.events, len(tape.rows)), storages.kinds), storages)
    moment = recording.curve.peak(0, len(tape.events))
    return EvaluationPass(recording, moment, recording.operation(moment.event))


class _PassesOfEvaluation(ModelPasses):
    """The passes of a batch. The caller refers to what the first one returned while the logits are computed."""

    __slots__ = ("returned",)

    def __call__(self, ids: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Run the model, and note what it returns."""
        loss, outputs = ModelPasses.__call__(self, ids)
        self.returned = [loss, *outputs]
        return loss, outputs


def _logits_after_loss(passes: _PassesOfEvaluation, trainer: Loop, ids: Tensor) -> None:
    """Run the model again without labels, while what its first pass returned is alive."""
    locals_of_loss = trainer.alive_after_loss(passes.context, passes.returned)
    again = ModelPasses(passes.context, partial(forward_pass, trainer=LogitsWithoutCache(), ids=ids))
    training = passes.context.training
    with region(passes.context.tape, training.autocast):
        _, (logits,) = again.without_graph("logits: ", reference=False)
    if training.autocast is not None:
        in_float32(logits)
    del locals_of_loss
