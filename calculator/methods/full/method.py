"""Full fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from calculator.common.errors import PlanError
from calculator.methods.full import active_layers, badam, lisa, unfrozen
from calculator.methods.full.facts import FACTS
from calculator.methods.full.settings import FullSettings
from calculator.methods.layer_kinds import full_name, split
from calculator.resident.module_spec import new_module_spec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.inputs.training import Training
    from calculator.resident.module_spec import ModuleSpec
    from calculator.resident.tensor import ResidentTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Full(FullSettings):
    """Every weight of the base model is trained, or those of chosen names or layers; nothing is added."""

    name = "full"
    facts = FACTS

    @property
    def trains_active_layers(self) -> bool:
        """Whether the trained layers change during training."""
        return self.use_badam or self.lisa_n_layers is not None

    @property
    def trains_part(self) -> bool:
        """Return whether parameters are frozen."""
        return self.unfrozen_parameters is not None or self.trains_active_layers

    def for_model(self, model: Model) -> Self:
        """Return the method with the parameters that BAdam or LISA trains in the step that the figures are for."""
        if self.unfrozen_parameters is not None or not self.trains_active_layers:
            return self
        return replace(self, unfrozen_parameters=self.active_patterns(model))

    def active_patterns(self, model: Model) -> tuple[str, ...]:
        """Return the patterns of the parameters that BAdam or LISA trains in that step."""
        if self.lisa_n_layers is not None and not self.use_badam:
            return lisa.patterns(self.lisa_n_layers, model)
        return badam.patterns(self, model)

    @property
    def name_patterns(self) -> tuple[str, ...]:
        """The regular expressions of `unfrozen_parameters`, in which dots match dots only, without ranges of rows."""
        return tuple(map(unfrozen.name_pattern, self.unfrozen_parameters or ()))

    @property
    def title(self) -> str:
        """The method's name in words."""
        if self.trains_active_layers:
            return "BAdam" if self.use_badam else "LISA"
        return "Full fine-tuning of chosen parameters" if self.trains_part else FACTS.label

    @property
    def label(self) -> str:
        """The method's name, and BAdam or LISA if one of them chooses the trained layers."""
        return f"{FACTS.label} with {self.title}" if self.trains_active_layers else FACTS.label

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Say which parameters are trained."""
        if self.trains_active_layers:
            return active_layers.assumptions(self)
        if self.unfrozen_parameters is None:
            return ()
        chosen = "The parameters that unfrozen_parameters matches are trained; all others are frozen."
        if unfrozen.names_rows(self.unfrozen_parameters):
            chosen += " Rows outside a range have gradients and optimizer states too; the gradients are set to zero."
        return (chosen,)

    def check(self, model: Model, training: Training) -> None:
        """Refuse patterns that cannot be read or match no parameter, and float32 where it cannot be."""
        problems = [*active_layers.problems(self, model)]
        if self.unfrozen_parameters is not None and not self.trains_active_layers:
            problems += unfrozen.problems(self.unfrozen_parameters, model)
        problems += () if problems else unfrozen.dtype_problems(self, model, training)
        if problems:
            raise PlanError(*problems)

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
        return new_module_spec(dtype=training.dtype, trained=trained, cast_to=cast_to)

    @property
    def empties_cache(self) -> bool:
        """Whether the optimizer empties the allocator's cache in every step, as BlockOptimizer does."""
        return self.use_badam

    @property
    def drops_states(self) -> bool:
        """Whether the optimizer drops its states at the end of every step."""
        return self.use_badam and self.badam_switch_interval == 1

    @property
    def steps_copies(self) -> bool:
        """Whether the optimizer updates float32 copies of the trained parameters."""
        return self.use_badam

    def added(self, model: Model, training: Training) -> tuple[ResidentTensor, ...]:  # noqa: ARG002
        """Return the float32 copies that BAdam's optimizer keeps of the block's parameters."""
        return tuple(badam.copies(self, model)) if self.use_badam else ()

    def optimized(self, tensors: Sequence[ResidentTensor], model: Model) -> Sequence[ResidentTensor]:
        """Return the parameters as the optimizer has states of them: BAdam's copies, and every layer with LISA."""
        if self.use_badam:
            return [badam.in_float32(tensor) for tensor in tensors if tensor.gets_gradient]
        return lisa.with_every_layer(tensors, model) if self.lisa_n_layers is not None else tensors

    def saves_frozen(self, tensor: ResidentTensor) -> bool:
        """Whether it is a parameter: the model is saved whole."""
        return tensor.parameters > 0

    def saved_name(self, name: str) -> str:
        """Return the model's own name, since transformers writes it."""
        return name
