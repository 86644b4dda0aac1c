"""The hooks of DeepSpeed's stages 1 and 2 in a micro-batch: dtypes, the loss, and when gradients are freed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.dtype import FLOATS
from calculator.engine import operations as ops
from calculator.engine.accumulation import Accumulation
from calculator.layers.sharding_hooks import Hooks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.method_hooks import Prepared


class FlatHooks(Hooks):
    """The hooks of stages 1 and 2.

    Gradients leave the tape when they are ready. The reduction counts them.
    """

    __slots__ = ("_adds", "_casts", "_scales", "param_dtype")

    steps_in_backward = True

    def __init__(self, prepared: Prepared, *, adds: bool) -> None:
        self.param_dtype = prepared.cast_to
        #: Whether micro-batches add to whole gradients. Stage 2 has reduced them instead.
        self._adds = adds
        #: The operation that DeepSpeed applies to the loss. The Trainer has already divided it by the number of labels
        #: of the step.
        is_reference = prepared.training.trainer is None
        #: The dtype to which the Trainer casts floating-point tensors of a batch.
        self._casts = None if is_reference else prepared.cast_to
        self._scales = ("loss, divided by the micro-batches", "loss, scaled") if is_reference else ("loss, scaled",)

    def batch(self, x: Tensor) -> Tensor:
        """Return a tensor of a batch in DeepSpeed's dtype (transformers/trainer.py, _prepare_input)."""
        if self._casts is None or x.dtype not in FLOATS:
            return x
        return ops.cast(x, self._casts, f"batch, cast to {self._casts} by Trainer")

    def accumulation(self, training: Training) -> Accumulation:
        """Mark every gradient."""
        adds = self._adds and training.gradient_accumulation_steps > 1
        return Accumulation(adds=adds, in_buckets=True, marked=True)

    def roots(self, loss: Tensor) -> Iterator[Tensor]:
        """Divide the loss by the number of micro-batches, then scale it (runtime/engine.py, backward)."""
        yield loss
        if loss.edge is None:
            return
        tape, outer = loss.tape, loss.tape.component
        tape.component = "logits_and_loss"
        for name in self._scales:
            loss = ops.scale(loss, name)
            yield loss
        tape.component = outer


def stage_1(prepared: Prepared) -> FlatHooks:
    """Return the hooks of stage 1."""
    return FlatHooks(prepared, adds=True)


def stage_2(prepared: Prepared) -> FlatHooks:
    """Return the hooks of stage 2."""
    return FlatHooks(prepared, adds=False)
