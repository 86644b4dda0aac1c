"""The forward passes of an evaluation: in eval mode, under no_grad, to the loss and to the logits."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from calculator.engine.autocast import region
from calculator.engine.copies import Copies
from calculator.engine.frame_snapshots import without_frame_snapshots
from calculator.engine.kinds import storages_of
from calculator.engine.lifetimes import Lifetimes
from calculator.engine.recording import Recording
from calculator.engine.repetition import every_layer
from calculator.engine.tape import Tape
from calculator.layers.context import Context
from calculator.sharding.registry import evaluation_hooks
from calculator.trainers import trainer_of
from calculator.trainers.liger import forward_for
from calculator.trainers.logits_only import LogitsWithoutCache
from calculator.trainers.transformers.loop import in_float32
from calculator.training_step.causal_lm import forward_pass
from calculator.training_step.model_passes import ModelPasses

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.engine.live_tensors import LiveTensors
    from calculator.engine.memory_curve import Moment
    from calculator.engine.tape import Tensor
    from calculator.layers.method_hooks import MethodHooks
    from calculator.methods.prepared_model import PreparedModel
    from calculator.trainers import Loop
    from calculator.training_step.model_passes import Forward


class Output(NamedTuple):
    """The shape and the dtype of an output that the trainer receives."""

    shape: Shape
    dtype: DType


class EvaluationPass(NamedTuple):
    """A pass of an evaluation: its recording, its peak, the operation at the peak, and the outputs besides the loss.

    `left_gathered`: the names of the units outside the layers that a sharding leaves gathered after the pass.
    """

    recording: Recording
    moment: Moment
    operation: str
    outputs: list[Output]
    left_gathered: frozenset[str]

    @property
    def alive(self) -> LiveTensors:
        """The tensors of the pass that are alive at its peak."""
        return self.recording.alive(self.moment)


@without_frame_snapshots
def evaluation_pass(
    prepared: PreparedModel,
    loop: Loop | None = None,
    *,
    logits: bool = False,
    gathered: frozenset[str] | None = None,
    follows_generation: bool = False,
    method: MethodHooks | None = None,
) -> EvaluationPass:
    """Run a batch through the trainer's forward pass, or through the forward pass of a loop.

    Every layer is interpreted. With `logits`, the model computes the logits of the batch in a second pass after the
    loss. `gathered`: the units that the previous batch left gathered. None for the first batch. `follows_generation`:
    whether `generate` ran before. `method` replaces what the model's method does in the forward pass.
    """
    tape = Tape(trains=False)
    tape.grad_enabled = False
    hooks = evaluation_hooks(prepared, gathered, follows_generation=follows_generation)
    context = Context(prepared, forward_for(prepared.model, prepared.training), hooks=hooks, tape=tape)
    context.method = method or context.method
    context.unrolls, count = True, len(context.layers)
    context.repetition = every_layer(count)
    trainer = loop or trainer_of(prepared.training)
    batch = trainer.batch(context)
    forward = partial(forward_pass, trainer=trainer, ids=batch[0])
    passes = _PassesOfEvaluation(context, forward, keeps=logits)
    loss = trainer.loss(context, passes)
    context.release()
    outputs = _logits_after_loss(passes, trainer, batch[0]) if logits else passes.outputs
    del passes
    del batch, loss
    storages = storages_of(tape)
    recording = Recording(Copies(tape, Lifetimes(tape.events, len(tape.rows)), storages.kinds), storages)
    moment = recording.curve.peak(0, len(tape.events))
    return EvaluationPass(recording, moment, recording.operation(moment.event), outputs, hooks.left_gathered)


class _PassesOfEvaluation(ModelPasses):
    """The passes of a batch.

    `outputs` are those of the first pass. With `keeps`, the caller still refers to them while the logits are computed.
    """

    __slots__ = ("keeps", "outputs", "returned")

    def __init__(self, context: Context, forward: Forward, *, keeps: bool) -> None:
        super().__init__(context, forward)
        self.keeps = keeps
        self.outputs: list[Output] = []
        self.returned: list[Tensor] = []

    def __call__(self, ids: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Run the model, and store the outputs."""
        loss, outputs = ModelPasses.__call__(self, ids)
        self.outputs = [_output(tensor, self.context.training.autocast) for tensor in outputs]
        self.returned = [loss, *outputs] if self.keeps else []
        return loss, outputs


def _output(tensor: Tensor, autocast: DType | None) -> Output:
    """Return the shape and dtype of an output. accelerate casts it to float32 after autocast."""
    is_cast = autocast is not None and tensor.dtype in ("bfloat16", "float16")
    return Output(tensor.shape, "float32" if is_cast else tensor.dtype)


def _logits_after_loss(passes: _PassesOfEvaluation, trainer: Loop, ids: Tensor) -> list[Output]:
    """Run the model again without labels and return its outputs. The outputs of the first pass are still alive."""
    locals_of_loss = trainer.alive_after_loss(passes.context, passes.returned)
    again = ModelPasses(passes.context, partial(forward_pass, trainer=LogitsWithoutCache(), ids=ids))
    training = passes.context.training
    with region(passes.context.tape, training.autocast):
        _, (logits,) = again.no_grad("logits: ", reference=False)
    if training.autocast is not None:
        in_float32(logits)
    del locals_of_loss
    return [_output(logits, training.autocast)]
