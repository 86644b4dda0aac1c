"""BitFit, bias-term fine-tuning (Ben Zaken et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.common.errors import refusal
from calculator.methods.base import Method
from calculator.methods.bitfit.facts import FACTS
from calculator.methods.targeted.modules_to_save import is_saved
from calculator.resident.module_spec import ModuleSpec

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.inputs.training import Training
    from calculator.resident.tensor import ResidentTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class BitFit(Method):
    """BitFit: the biases of the base model are trained, and a classifier's head. Nothing is added."""

    name = "bitfit"
    facts = FACTS
    classifier_copy = None

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Say which parameters are trained."""
        return ("BitFit trains only the parameters whose names end in bias. PEFT has no such method.",)

    def check(self, model: Model, training: Training) -> None:  # noqa: ARG002
        """Refuse a model that runs no bias."""
        if not any(_biases(module) for _, module in model.running):
            message = f"BitFit trains biases, and {model.model_type} has none that batches of text use: use ln_tuning"
            raise refusal("method.name", message, self.name)

    def module_spec(self, path: str, module: Module, model: Model, training: Training) -> ModuleSpec:
        """Return the biases as trained in the model's dtype. The weight of a classifier's head is trained too."""
        if is_saved(path, model.task.head_names):
            return Method.module_spec(self, path, module, model, training)
        return ModuleSpec(dtype=training.dtype, trained=_biases(module))

    def saves_frozen(self, tensor: ResidentTensor) -> bool:
        """Return whether it is a parameter, since the model is saved whole."""
        return tensor.parameters > 0

    def saved_name(self, name: str) -> str:
        """Return the model's own name, since transformers writes it."""
        return name


def _biases(module: Module) -> tuple[str, ...]:
    return tuple(
        parameter.name for parameter in module.parameters if parameter.name.endswith("bias") and not parameter.frozen
    )
