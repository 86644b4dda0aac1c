"""The interface between a sharded step and the library that shards it."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from validation.reference.optimizers import make_steady, optimizer_for, states

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.common.names import ComponentName
    from calculator.inputs.sharding import Sharding
    from calculator.inputs.training import Training
    from validation.reference.build import ReferenceModel
    from validation.sharding.streams import Streams
    from validation.tracing.memory_tracker import MemoryTracker


if TYPE_CHECKING:
    #: Records a tensor that exists before the step, by its name and component.
    Record = Callable[[str, torch.Tensor, ComponentName], None]


class Engine:
    """A sharded model with its optimizer; each library overrides what it changes.

    `build` makes them for the reference's loop, and `adopt` takes those that a trainer has made. `device` is the device
    of the run, by default that of the model. A model on the host is moved there.
    """

    #: Whether a trainer's backward pass ends with the optimizer's step.
    steps_in_backward = False

    #: Classes of tensors that wrap the tensors on this rank.
    wrappers: tuple[type, ...] = ()

    def __init__(
        self,
        reference: ReferenceModel,
        training: Training,
        sharding: Sharding,
        streams: Streams,
        device: torch.device | None = None,
    ) -> None:
        self.reference, self.training, self._sharding, self._streams = reference, training, sharding, streams
        self.model: Any = reference.model
        self._device = (device or next(reference.model.parameters()).device).type

    @property
    def warm_up_steps(self) -> int:
        """Steps before the traced one: after them the states exist, and the library has learned the model's order."""
        return 1

    @abstractmethod
    def build(self) -> None:
        """Shard the model and create its optimizer."""

    def adopt(self, trainer: Any) -> None:
        """Take the model and the optimizer that a trainer has prepared."""
        self.model, self.optimizer = trainer.model_wrapped, trainer.optimizer.optimizer

    def preparing(self) -> AbstractContextManager[Any]:
        """Return the context in which a trainer prepares its model."""
        return nullcontext()

    def create_optimizer(self) -> None:
        """Create the optimizer over the parameters that this rank updates."""
        self.optimizer = optimizer_for(self.training.optimizer, list(self.trainable().values()))

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """Return the trained parameters of this rank, by name."""
        return self.reference.trainable()

    def labeled(self) -> dict[str, torch.nn.Parameter]:
        """Return the parameters whose gradients the trace names."""
        return self.trainable()

    def component(self, name: str) -> ComponentName:
        """Return the component of a parameter."""
        return "base_weights" if name in self.reference.base else "adapter_weights"

    def local(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the part of a tensor that is on this rank."""
        return tensor

    def running(self) -> AbstractContextManager[Any]:
        """Return the context of every step."""
        return nullcontext()

    def warming_up(self) -> AbstractContextManager[Any]:
        """Return the context of the steps before the traced one."""
        return nullcontext()

    def tracing(self, tracker: MemoryTracker) -> AbstractContextManager[Any]:
        """Return the context of the traced step."""
        return nullcontext()

    def micro_batch(self, *, last: bool) -> AbstractContextManager[Any]:
        """Return the context of a micro-batch; gradients are reduced in the last one."""
        return nullcontext()

    def autocast_dtype(self) -> str | None:
        """Return the dtype of autocast in the forward pass."""
        return self.training.autocast

    def backward(self, loss: torch.Tensor) -> None:
        """Run the backward pass."""
        loss.backward()

    def update(self) -> None:
        """Clip the gradients and update the parameters."""
        parameters = list(self.trainable().values())
        if self.training.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(parameters, self.training.max_grad_norm, foreach=True)
        self.optimizer.step()

    def close(self) -> None:
        """Drop what keeps the model alive after the run."""

    def settle(self) -> None:
        """Let an optimizer whose later steps differ from its second make one of those next."""
        make_steady(self.optimizer)

    def zero_grad(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def states(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the optimizer's state tensors on this rank, by name."""
        names = {id(parameter): name for name, parameter in self.trainable().items()}
        for parameter, state, tensor in states(self.optimizer):
            yield f"{names[id(parameter)]}.{state}", self.local(tensor)

    def on_host(self) -> Iterator[torch.Tensor]:
        """Yield tensors on this device that are in host memory in a real run."""
        yield from ()

    def track(self, record: Record) -> None:
        """Track what has other names than the parameters and their states, before these are tracked."""

    def track_rest(self, record: Record) -> None:
        """Track what else the library keeps, after everything with a name."""
