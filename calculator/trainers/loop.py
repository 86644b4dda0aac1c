"""The base class of training loops: the hooks through which a trainer changes a micro-batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Protocol

from calculator.trainers.liger import forward_for
from calculator.trainers.resident import batch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.architecture.dimension import Dim, Shape
    from calculator.architecture.model import Model
    from calculator.common.dtype import DType
    from calculator.common.errors import Problem
    from calculator.common.names import LayerOutputs, LossType, TrainerName
    from calculator.engine.tape import Tensor
    from calculator.inputs.stack import StackVersions
    from calculator.inputs.training import Training
    from calculator.layers.context import Context
    from calculator.layers.decoder_forward import DecoderForward
    from calculator.layers.loss import LossHead
    from calculator.layers.trl.fused_head import FusedHead
    from calculator.resident.module_spec import ModuleSpec
    from calculator.resident.tensor import ResidentTensor
    from calculator.trainers.facts import TrainerFacts
    from calculator.trainers.subject import Subject


#: The reference that the policy is compared with: another model in memory, the same model with its adapters disabled,
#: or the same model with frozen copies of its adapters.
Compared = Literal["model", "without adapters", "adapter copies"]


class GenerationBatch(NamedTuple):
    """The batch that a trainer generates in a step with `generate`.

    It has the number of rows, and the tokens of a prompt and of a completion.
    """

    rows: Dim
    prompt: Dim
    completion: Dim


class Passes(Protocol):
    """The forward passes of a micro-batch. Each returns the loss and the other outputs of the model."""

    def __call__(self, ids: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Run the trained model on the ids of the batch, or on other ids."""

    def run_again(self, name: str, ids: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run the trained model once more, on other ids. The names of its marks begin with `name`."""

    def no_grad(self, name: str, *, reference: bool) -> tuple[Tensor, list[Tensor]]:
        """Run the model, or its reference, under torch.no_grad. The names of its tensors begin with `name`."""


class Loop(ABC):
    """A training loop around the model's forward and backward pass. Subclasses override the abstract hooks."""

    __slots__ = ()
    #: The facts about the trainer. None for the reference step.
    name: ClassVar[TrainerName | None]
    facts: ClassVar[TrainerFacts]
    #: The values of `loss_type` that are modeled.
    losses: ClassVar[tuple[LossType, ...]] = ()

    def problems(self, prepared: Subject) -> Iterator[Problem]:  # noqa: ARG002  a hook's signature
        """Yield settings that the trainer refuses, or that are not modeled."""
        yield from ()

    def assumptions(self, prepared: Subject) -> Iterator[str]:  # noqa: ARG002  a hook's signature
        """Yield the assumptions about the loop."""
        yield from self.facts.assumptions

    def warnings(self, prepared: Subject) -> Iterator[str]:  # noqa: ARG002  a hook's signature
        """Yield the settings in which the request differs from the trainer's own defaults."""
        yield from ()

    def reasons(self, prepared: Subject) -> Iterator[str]:  # noqa: ARG002  a hook's signature
        """Yield why the answer is an interval, and what its ends are."""
        yield from ()

    def module_spec(self, prepared: Subject, path: str, spec: ModuleSpec) -> ModuleSpec:  # noqa: ARG002  a hook's signature
        """Return how a module is stored and trained, from how the method stores and trains it."""
        return spec

    def model(self, model: Model, stack: StackVersions) -> Model:  # noqa: ARG002  a hook's signature
        """Return the model that the loop trains: that of the request, or one with another head or loss."""
        return model

    def forward(self, prepared: Subject) -> DecoderForward:
        """Return the forward pass of the model's layers: that of its family, with Liger's kernels if they are used."""
        return forward_for(prepared.model, prepared.training)

    def compared(self, prepared: Subject) -> Compared | None:  # noqa: ARG002  a hook's signature
        """Return the reference model that stays in memory, or None."""
        return None

    def hidden_dtype(self, prepared: Subject) -> DType:
        """Return the dtype of hidden states."""
        return prepared.method.hidden_dtype(prepared.training)

    def is_reentrant(self, context: Context) -> bool:
        """Return whether checkpointing is re-entrant."""
        return context.training.use_reentrant

    def offloads_inputs(self, prepared: Subject) -> bool:  # noqa: ARG002  a hook's signature
        """Return whether checkpointing keeps the inputs of all layers but the last in host memory."""
        return False

    def buffers(self, prepared: Subject) -> Iterable[ResidentTensor]:  # noqa: ARG002  a hook's signature
        """Return the trainer's own tensors that stay on the device."""
        return ()

    def host_bytes(self, prepared: Subject) -> int | None:  # noqa: ARG002  a hook's signature
        """Return the bytes that the trainer keeps in pinned host memory, or None if there are none."""
        return None

    def fetched(self, prepared: Subject) -> list[tuple[str, Shape, DType]]:
        """Return the tensors of each micro-batch that stay on the device for a whole step, as (name, shape, dtype)."""
        return batch(self.facts, prepared.training, self.sample_bounds(prepared))

    def while_fetching(self, prepared: Subject) -> list[tuple[str, Shape, DType, int]]:  # noqa: ARG002  a hook's signature
        """Return the tensors alive in addition to a step's batches while these are fetched, each with its count."""
        return []

    def uses_cache(self, model: Model, stack: StackVersions) -> bool:  # noqa: ARG002  a hook's signature
        """Return whether the model's config decides if a cache of keys and values is used."""
        return self.facts.uses_cache

    def layer_outputs(self, prepared: Subject) -> LayerOutputs | None:  # noqa: ARG002  a hook's signature
        """Return which tensors of every layer the model returns to the trainer in all of its passes, or None."""
        return None

    def freezes_reference(self, prepared: Subject) -> bool:  # noqa: ARG002  a hook's signature
        """Return whether the weights of a second model require no gradient."""
        return False

    def reference_checkpoints(self, prepared: Subject) -> bool:  # noqa: ARG002  a hook's signature
        """Return whether checkpointing stays on in a model that is its own reference."""
        return False

    def scalars(self, prepared: Subject) -> tuple[str, ...]:  # noqa: ARG002  a hook's signature
        """Return the names of the scalars that the trainer keeps."""
        return self.facts.scalars

    def sample_bounds(self, prepared: Subject) -> tuple[str, ...]:  # noqa: ARG002  a hook's signature
        """Return the tensors that mark the samples of a flattened micro-batch, in addition to the positions."""
        return ()

    def smallest_size(self, name: str, training: Training) -> int:  # noqa: ARG002  a hook's signature
        """Return the smallest value of a size setting that the trainer accepts, given the other settings."""
        return 1

    def kept_for_step(self, prepared: Subject) -> list[tuple[str, Shape, DType]]:  # noqa: ARG002  a hook's signature
        """Return tensors for all micro-batches of a step together, which stay on the device for the whole step."""
        return []

    def generation(self, training: Training) -> GenerationBatch | None:  # noqa: ARG002  a hook's signature
        """Return the batch that the model generates before the first forward pass of a step, or None."""
        return None

    def rows_of_reference(self, training: Training, stack: StackVersions) -> Dim | None:  # noqa: ARG002  a hook's signature
        """Return the number of rows of the reference's pass, or None if it is that of a micro-batch."""
        return None

    def unsets_cache(self, training: Training, stack: StackVersions) -> bool:  # noqa: ARG002  a hook's signature
        """Return whether use_cache is false in the config of a second model."""
        return False

    def warps_scores(self, stack: StackVersions) -> bool:  # noqa: ARG002  a hook's signature
        """Return whether the defaults of a release of TRL change the scores of the next token."""
        return False

    def grads_inputs_of_all_passes(self, training: Training, stack: StackVersions) -> bool:  # noqa: ARG002  a hook's signature
        """Return whether embeddings require a gradient in `generate` too, whatever is trained."""
        return False

    def copies_reference(self, stack: StackVersions) -> bool:  # noqa: ARG002  a hook's signature
        """Return whether a second model is a copy of the trained one, with its hooks."""
        return False

    def fills_cache(self, prepared: Subject) -> bool:  # noqa: ARG002  a hook's signature
        """Return whether the passes of `generate` in a step keep keys and values."""
        return True

    def runs_to_score(self, prepared: Subject) -> bool:  # noqa: ARG002  a hook's signature
        """Return whether the model or its reference runs on a step's completions before the first micro-batch."""
        return False

    def sequences_in_a_pass(self, stack: StackVersions) -> int:  # noqa: ARG002  a hook's signature
        """Return the number of sequences of each row that a pass of the model runs: two if it runs pairs."""
        return self.facts.sequences

    @abstractmethod
    def batch(self, context: Context) -> list[Tensor]:
        """Return the tensors of a micro-batch, `input_ids` first."""

    @abstractmethod
    def head(self, context: Context) -> LossHead:
        """Return the head that computes the loss from the decoder's output."""

    def fused_head(self, compared: str | None) -> FusedHead | None:  # noqa: ARG002  a hook's signature
        """Return TRL's fused head of a pass, or None if the trainer has another one.

        `compared` is the reference that runs, or None for the trained model.
        """
        return None

    @abstractmethod
    def loss(self, context: Context, forward: Passes) -> Tensor:
        """Run the model, and return the loss that the loop refers to during the backward pass."""

    def alive_after_loss(self, context: Context, outputs: list[Tensor]) -> list[Tensor]:  # noqa: ARG002  a hook's signature
        """Return the tensors that the loop still refers to while an evaluation computes logits for its metrics."""
        return []

    def root(self, loss: Tensor) -> Tensor:
        """Return the tensor on which `backward()` is called."""
        return loss

    def retained(self, batch: list[Tensor], loss: Tensor) -> list[Tensor]:  # noqa: ARG002  a hook's signature
        """Return the tensors of the micro-batch that stay alive until the next one replaces them."""
        return []
