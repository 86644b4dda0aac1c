"""The reference model of a trainer: a second model, the model without adapters, or the model with copies of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.methods.base import Method
from calculator.methods.full.method import Full
from calculator.methods.prepared_model import PreparedModel
from calculator.resident.module_spec import is_of_copy
from calculator.resident.tensors import resident_tensors
from calculator.trainers import trainer_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.architecture.module import Module
    from calculator.resident.module_spec import ModuleSpec
    from calculator.resident.tensor import ResidentTensor
    from calculator.trainers.loop import Compared

#: The prefix of the names of a second model's tensors.
REFERENCE = "ref_model."


def is_second(tensor: ResidentTensor) -> bool:
    """Return whether a tensor belongs to a second model."""
    return tensor.name.startswith(REFERENCE)


def compared_model(prepared: PreparedModel, compared: Compared) -> PreparedModel:
    """Return the model that runs in place of the prepared one.

    TRL from 1.0 on does not freeze a second model. Its weights require a gradient, although none is computed.
    """
    second = _compared_model(prepared, compared)
    second.share_releases(prepared)
    return second


def _compared_model(prepared: PreparedModel, compared: Compared) -> PreparedModel:
    match compared:
        case "model":
            method = Method() if trainer_of(prepared.training).freezes_reference(prepared) else Full()
            second = PreparedModel(prepared.model, method, prepared.training, prepared.device, prepared.stack)
            if is_like_second(prepared):
                second.module_specs = prepared.module_specs
            return second
        case "without adapters":
            return _WithoutAdapters(prepared)
        case "adapter copies":
            return _WithCopies(prepared)


class _WithoutAdapters(PreparedModel):
    """The model inside PEFT's `disable_adapter`.

    Copied modules run as the originals. Trained biases keep their values.
    """

    __slots__ = ("adapted",)

    def __init__(self, prepared: PreparedModel) -> None:
        super().__init__(prepared.model, Method(), prepared.training, prepared.device, prepared.stack)
        self.adapted = prepared

    @property
    def grads_inputs(self) -> bool:
        """Whether the embeddings, which the model shares, get a gradient, if checkpointing stays on."""
        return self.training.gradient_checkpointing and self.adapted.grads_inputs

    def module_spec(self, path: str, module: Module) -> ModuleSpec:
        """Return how the module is stored, without added parameters."""
        spec = self.adapted.module_spec(path, module)
        if not spec.added and spec.copied is None:
            return spec
        return spec.without_added()


class _WithCopies(PreparedModel):
    """The model with the adapter that DPOTrainer adds under the name `ref`: in float32, PEFT's default."""

    __slots__ = ("adapted",)

    def __init__(self, prepared: PreparedModel) -> None:
        super().__init__(prepared.model, prepared.method, prepared.training, prepared.device, prepared.stack)
        self.adapted = prepared

    def module_spec(self, path: str, module: Module) -> ModuleSpec:
        """Return how the module is stored, with float32 adapters."""
        spec = self.adapted.module_spec(path, module)
        if not spec.added:
            return spec
        return replace(spec, added=tuple(replace(tensor, dtype="float32") for tensor in spec.added))


class WithFrozenAdapters(PreparedModel):
    """The model while PEFT's `disable_adapter_layers` lets no adapter require a gradient. Adapters may still run."""

    __slots__ = ("adapted",)

    def __init__(self, prepared: PreparedModel) -> None:
        super().__init__(prepared.model, prepared.method, prepared.training, prepared.device, prepared.stack)
        self.param_dtype, self.given, self.adapted = prepared.param_dtype, prepared.given, prepared

    def module_spec(self, path: str, module: Module) -> ModuleSpec:
        """Return how the module is stored, with frozen adapters."""
        spec = self.adapted.module_spec(path, module)
        if not spec.added:
            return spec
        return replace(spec, added=tuple(replace(tensor, trained=False) for tensor in spec.added))


def compared_tensors(
    prepared: PreparedModel, compared: Compared, trained: Iterable[ResidentTensor]
) -> Iterator[ResidentTensor]:
    """Yield the tensors that stay in memory for the reference. They do not include parameters of the trained model.

    `trained` are the tensors of the trained model.
    """
    if compared == "model":
        for tensor in trained if is_like_second(prepared) else resident_tensors(compared_model(prepared, compared)):
            yield tensor.in_reference(f"{REFERENCE}{tensor.name}", base=True)
    elif compared == "adapter copies":
        for tensor in resident_tensors(compared_model(prepared, compared)):
            if not tensor.base or is_of_copy(tensor.name):
                yield tensor.in_reference(f"{tensor.name} of the adapter ref", base=False)


def is_like_second(prepared: PreparedModel) -> bool:
    """Return whether the trained model stores every module as a second model does."""
    if trainer_of(prepared.training).freezes_reference(prepared):
        return False
    return prepared.method == Full() and prepared.training is prepared.given and prepared.cast_to is None
