"""The hooks through which a sharding takes part in a micro-batch: around the model, its modules and its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from calculator.engine.accumulation import Accumulation
from calculator.engine.repetition import repetition

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.architecture.model import Layer
    from calculator.common.dtype import DType
    from calculator.engine.repetition import Repetition
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule, Parameters
    from calculator.layers.method_hooks import Prepared

#: A module outside the layers that a sharding may treat separately.
Role = Literal["embeddings", "embeddings_norm", "final_norm", "head"]


class Unit:
    """A module or a layer of the running step. In this class, nothing runs around it."""

    __slots__ = ()

    def before(self, x: Tensor) -> Tensor:
        """Run what precedes its forward, outside a checkpoint. Return its input."""
        return x

    def receive(self, x: Tensor) -> Tensor:
        """Return the input that its forward receives, inside a checkpoint."""
        return x

    def cast(self, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the position tensors that its forward receives."""
        return tables

    def read(self, module: BoundModule, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the parameters of a module that the model's code reads instead of calling it, and its input."""
        return module.own, x

    def after(self, x: Tensor) -> Tensor:
        """Run what follows its forward, outside a checkpoint. Return its output."""
        return x

    def attention(self) -> Unit:
        """Return the attention module of a tower's layer, if a sharding treats it separately from the layer."""
        return _UNIT


_UNIT = Unit()


class Hooks:
    """The hooks of a sharding in a micro-batch.

    A subclass overrides those that it needs. One object is created for a run.
    """

    __slots__ = ()

    #: Whether a layer frees something that the layer before it allocated. The first layer then differs from the others.
    couples_layers: bool = False

    #: Whether the tape marks calls of modules.
    calls_modules: bool = False

    #: Whether something runs around modules inside a checkpoint.
    runs_in_checkpoints: bool = False

    #: Whether a trainer's backward pass ends with the optimizer's step.
    steps_in_backward: bool = False

    #: The dtype in which every parameter is gathered. None if each has its own.
    param_dtype: DType | None = None

    @property
    def left_gathered(self) -> frozenset[str]:
        """The names of the units outside the layers whose weights are gathered."""
        return frozenset()

    def computed(self, prepared: Prepared) -> Prepared:
        """Return the model in the dtypes in which it computes.

        They differ from the stored dtypes if weights are gathered in another dtype.
        """
        return prepared

    def accumulates(self, training: Training) -> bool:
        """Return whether gradients of earlier micro-batches exist."""
        return training.gradient_accumulation_steps > 1

    def repetition(self, classes: Sequence[int]) -> Repetition:
        """Return the layers to interpret. `classes` has a number for each layer that is equal for equal layers."""
        return repetition(classes)

    def number(self, x: Tensor) -> Tensor:
        """Return a number that is passed to the model, in the form in which its forward receives it."""
        return x

    def batch(self, x: Tensor) -> Tensor:
        """Return a tensor of the batch besides its tokens, in the form in which the model's forward receives it."""
        return x

    def begin(self, parameters: Parameters) -> None:
        """Run what precedes the model's forward."""

    def begin_base(self) -> None:
        """Run what precedes the forward of the model that PEFT passes a prompt or a prefix to."""

    def begin_decoder(self) -> None:
        """Run what precedes the decoder's forward, in a model whose own forward embeds the tokens."""

    def module(self, role: Role) -> Unit:  # noqa: ARG002  a hook's signature
        """Return a module outside the layers, before its parameters are created."""
        return _UNIT

    def layer(self, layer: Layer) -> Unit:  # noqa: ARG002  a hook's signature
        """Return a layer, before its parameters are created."""
        return _UNIT

    def tower_layer(self, layer: Layer, stack: str) -> Unit:  # noqa: ARG002  a hook's signature
        """Return a layer of a vision tower, before its parameters are created.

        `stack` is the name of the tower's layers.
        """
        return _UNIT

    def end(self, loss: Tensor, outputs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Run what follows the model's forward. Return its loss and its other outputs."""
        return loss, outputs

    def accumulation(self, training: Training) -> Accumulation:
        """Return how gradients are accumulated. DDP's buckets may replace them."""
        adds = training.gradient_accumulation_steps > 1
        return Accumulation(adds=adds, in_buckets=training.has_bucket_views and not adds)

    def no_grad(self, prepared: Prepared, *, compared: str | None) -> Hooks:  # noqa: ARG002  a hook's signature
        """Return the hooks of a no-grad pass inside the step.

        It runs the trained model, or a second one.
        """
        return NO_HOOKS

    def roots(self, loss: Tensor) -> Iterator[Tensor]:
        """Yield the loss and tensors computed from it, which live until the backward pass ends.

        It starts at the last one.
        """
        yield loss

    def final_callback(self) -> None:
        """Run the callbacks at the end of the backward pass, while the gradient of the loss is alive."""

    def after_backward(self) -> None:
        """Run what follows the backward pass."""


#: The hooks of a run on one GPU.
NO_HOOKS = Hooks()
