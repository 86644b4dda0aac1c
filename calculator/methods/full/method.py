"""Full fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.common.errors import PlanError
from calculator.inputs.settings import setting
from calculator.methods.base import Method
from calculator.methods.full import unfrozen
from calculator.methods.full.facts import FACTS
from calculator.methods.layer_kinds import full_name, split
from calculator.resident.module_spec import ModuleSpec

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.inputs.training import Training
    from calculator.resident.tensors import ResidentTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Full(Method):
    """Every weight of the base model is trained, or those of chosen names; nothing is added."""

    name = "full"
    facts = FACTS

    unfrozen_parameters: tuple[str, ...] | None = setting(
        None,
        label="Unfrozen parameters",
        help="The starts of the names of the parameters that are trained, or regular expressions for them, as in"
        " axolotl; null trains all.",
        example=("model.layers.30.", "model.layers.31.", "lm_head"),
        empty="all",
    )

    unfrozen_dtype: Literal["model", "float32"] = setting(
        "model",
        label="Data type of unfrozen parameters",
        help="That of the model, or float32, to which LLaMA-Factory casts them; it needs autocast.",
    )

    @property
    def trains_part(self) -> bool:
        """Return whether parameters are frozen."""
        return self.unfrozen_parameters is not None

    @property
    def name_patterns(self) -> tuple[str, ...]:
        """The regular expressions of `unfrozen_parameters`, in which dots match dots only, without ranges of rows."""
        return tuple(map(unfrozen.name_pattern, self.unfrozen_parameters or ()))

    @property
    def title(self) -> str:
        """The method's name in words."""
        return "Full fine-tuning of chosen parameters" if self.trains_part else FACTS.label

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Which parameters are trained."""
        if self.unfrozen_parameters is None:
            return ()
        chosen = "The parameters that unfrozen_parameters matches are trained; all others are frozen."
        if unfrozen.names_rows(self.unfrozen_parameters):
            chosen += " Rows outside a range have gradients and optimizer states too; the gradients are set to zero."
        return (chosen,)

    def check(self, model: Model, training: Training) -> None:
        """Refuse patterns that cannot be read or match no parameter, and float32 where it cannot be."""
        found = [*unfrozen.problems(self.unfrozen_parameters, model)] if self.unfrozen_parameters is not None else []
        found += () if found else unfrozen.dtype_problems(self, model, training)
        if found:
            raise PlanError(*found)

    @property
    def differs_between_layers(self) -> bool:
        """Whether parameters are chosen, which may be those of single layers."""
        return self.trains_part

    def with_layers(self, model: Model) -> Model:
        """Return the model with a kind of layer for each choice of trained parameters."""
        patterns = self.unfrozen_parameters
        if patterns is None:
            return model
        return split(model, lambda name, module: unfrozen.trained(patterns, name, module))

    def module_spec(self, path: str, module: Module, model: Model, training: Training) -> ModuleSpec:  # noqa: ARG002
        """The chosen parameters are trained in the model's dtype, unless the model's class freezes them."""
        patterns = self.unfrozen_parameters
        if patterns is None:
            trained = tuple(parameter.name for parameter in module.parameters if not parameter.frozen)
        else:
            trained = unfrozen.trained(patterns, full_name(path, module), module)
        cast_to: DType | None = "float32" if trained and self.unfrozen_dtype == "float32" else None
        return ModuleSpec(dtype=training.dtype, trained=trained, cast_to=cast_to)

    def saves_frozen(self, tensor: ResidentTensor) -> bool:
        """Whether it is a parameter: the model is saved whole."""
        return tensor.parameters > 0

    def saved_name(self, name: str) -> str:
        """Return the model's own name, since transformers writes it."""
        return name
