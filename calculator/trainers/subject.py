"""The interface of a prepared model that a training loop reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.common.names import MethodName
    from calculator.inputs.device import Device
    from calculator.inputs.stack import StackVersions
    from calculator.inputs.training import Training
    from calculator.methods.facts import MethodFacts
    from calculator.resident.module_spec import ModuleSpec
    from calculator.resident.stored_weight import StoredWeight


class AppliedMethod(Protocol):
    """A fine-tuning method. `calculator.methods.base.Method` documents each attribute."""

    @property
    def name(self) -> MethodName:
        """The name of the method in a request."""

    @property
    def facts(self) -> MethodFacts:
        """The facts about the method."""

    @property
    def virtual_tokens(self) -> int:
        """The number of tokens that it adds to each sequence."""

    @property
    def embeds_inputs(self) -> bool:
        """Whether the virtual tokens are embeddings in front of the inputs' embeddings."""

    @property
    def trains_biases(self) -> bool:
        """Whether it trains biases of the base model."""

    def hidden_dtype(self, training: Training) -> DType:
        """Return the dtype of hidden states."""

    @property
    def title(self) -> str:
        """The method's name in words, with the storage of its base."""

    @property
    def binds_forward(self) -> bool:
        """Whether PEFT keeps calling the model's forward as it was when PEFT wrapped it."""

    @property
    def plain_steps_only(self) -> bool:
        """Whether only steps on one GPU are modeled."""

    def base_quantization(self, training: Training) -> StoredWeight | None:
        """Return how the base model's linear layers are stored, if they are quantized."""


class Subject(Protocol):
    """A model to which a method has been applied, for one training and one stack."""

    @property
    def model(self) -> Model:
        """The model itself."""

    @property
    def method(self) -> AppliedMethod:
        """The method."""

    @property
    def training(self) -> Training:
        """The training that the model is prepared for."""

    @property
    def adapter_dtype(self) -> Literal["float32", "model"]:
        """The dtype in which the request's script adds adapters."""

    @property
    def device(self) -> Device:
        """The device, and the number of GPUs."""

    @property
    def cast_to(self) -> DType | None:
        """The dtype that every parameter is cast to after the method is applied. None if they are not cast."""

    @property
    def stack(self) -> StackVersions:
        """The releases of the libraries."""

    def module_spec(self, path: str, module: Module) -> ModuleSpec:
        """Return how a module is stored and trained."""
