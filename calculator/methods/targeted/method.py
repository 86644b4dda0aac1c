"""The base class of methods that adapt modules by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

from calculator.common.errors import PlanError
from calculator.methods.base import Method
from calculator.methods.targeted import matching, modules_to_save, refusals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.common.errors import Problem
    from calculator.inputs.training import Training
    from calculator.resident.module_spec import CopyName

#: The names of embedding layers. Source: peft/utils/other.py, EMBEDDING_LAYER_NAMES.
_EMBEDDINGS = ("embed_tokens", "lm_head")

#: The type of `target_modules`.
TargetModules = Literal["all-linear"] | tuple[str, ...] | None


class TargetedMethod(Method, ABC):
    """A method with PEFT's `target_modules` and `modules_to_save`."""

    __slots__ = ()
    #: The kinds of modules that the method can adapt.
    adaptable: ClassVar[tuple[str, ...]] = ("linear", "conv1d")
    #: Whether PEFT also adapts embeddings by the method, although that is not modeled.
    adapts_embeddings: ClassVar[bool] = False
    #: Whether a refusal may propose `all-linear`.
    adapts_linear: ClassVar[bool] = True

    @property
    @abstractmethod
    def target_modules(self) -> TargetModules:
        """The names of the modules to adapt, `all-linear`, or None for PEFT's default for the family."""

    @property
    @abstractmethod
    def modules_to_save(self) -> tuple[str, ...] | None:
        """The names of the modules that are copied and trained in full."""

    @property
    def unfrozen_dtype(self) -> Literal["model", "float32"]:
        """The data type of the copies: the model's, or float32."""
        return "model"

    @property
    def copy_dtype(self) -> DType | None:
        """The dtype that copies are cast to. None if they have that of their originals."""
        return None if self.unfrozen_dtype == "model" else self.unfrozen_dtype

    @property
    def exclude_modules(self) -> tuple[str, ...] | None:
        """The names of modules that are not adapted even if `target_modules` matches them."""
        return None

    @property
    def needs_modules(self) -> bool:
        """Whether some module must be adapted."""
        return True

    def has_default(self, model: Model) -> bool:
        """Return whether PEFT has default names for the model's family."""
        return model.model_type in self.facts.default_targets

    def for_model(self, model: Model) -> Self:
        """Return the method with the head that PEFT trains for the model's task in `modules_to_save`."""
        if not model.task.trains_head:
            return self
        names = model.task.head_names
        head = (name for name in names if any(modules_to_save.is_saved(path, (name,)) for path in model.outer))
        changed: Any = self
        return cast("Self", replace(changed, modules_to_save=(*(self.modules_to_save or ()), *head)))

    def check(self, model: Model, training: Training) -> None:
        """Refuse targets and modules to save that PEFT refuses, and copies in float32 where they cannot be."""
        refusals.check(self, model)
        modules_to_save.check_dtype(self, training)

    def warnings(self, model: Model, training: Training) -> tuple[str, ...]:  # noqa: ARG002
        """Return names that PEFT ignores."""
        unused = {
            "modules_to_save": modules_to_save.unused_names(self.modules_to_save, model),
            "target_modules": matching.unused_names(self.target_modules, model),
        }
        return tuple(
            f"PEFT ignores {name} in method.{setting}: no module's name ends in it."
            for setting, names in unused.items()
            for name in names
        )

    def own_problems(self, model: Model, targets: dict[str, Module]) -> Iterator[Problem]:  # noqa: ARG002
        """Yield refusals of this method alone.

        `targets` has the modules that its targets name and that it can adapt.
        """
        yield from ()

    def refused_names(self, model: Model) -> tuple[str, ...]:
        """Return names that are refused although PEFT or the model has modules with that name."""
        router = matching.ROUTERS.get(model.model_type)
        return (*((router,) if router else ()), *matching.names_of_mamba(self, model), *matching.uncalled(self, model))

    def usual_targets(self, model: Model) -> tuple[str, ...]:
        """Return the names that a refusal proposes."""
        return matching.attention_projections(model) or matching.mamba_projections(model)

    def usual(self, model: Model) -> str:
        """Return a description of the modules in `usual_targets`."""
        without_attention = not matching.attention_projections(model) and matching.mamba_projections(model)
        return "the input projection of Mamba's layers" if without_attention else "the attention's projections"

    def is_target(self, path: str, module: Module, model: Model) -> bool:
        """Return whether the module at a path is adapted."""
        return not self.is_saved(path) and self.is_chosen(path, module, model)

    def is_chosen(self, path: str, module: Module, model: Model) -> bool:
        """Return whether a module that is not saved is adapted."""
        return matching.is_requested(path, module, self, model) and self.in_chosen_layers(path, module)

    def in_chosen_layers(self, path: str, module: Module) -> bool:  # noqa: ARG002
        """Return whether the module is in a layer that is adapted."""
        return True

    def is_saved(self, path: str) -> bool:
        """Return whether the module at a path is one of `modules_to_save` or inside one."""
        names = self.modules_to_save
        return names is not None and modules_to_save.is_saved(path, names)

    def copy_name(self, path: str) -> CopyName | None:
        """Return the name of a module's copy. `modules_to_save` are copied."""
        return "modules_to_save" if self.is_saved(path) else None

    def saved_base_weights(self, model: Model) -> frozenset[str]:
        """Return an adapted embedding's or head's own weight and bias, which PEFT writes too.

        Source: get_peft_model_state_dict.
        """
        if not isinstance(self.target_modules, tuple):
            return frozenset()
        named = set(_EMBEDDINGS).intersection(self.target_modules)
        paths = [path for path, _ in model.paths if path.rsplit(".", 1)[-1] in named]
        names = (f"{path}.{name}" for path in paths for name in ("weight", "bias"))
        return frozenset(model.tied.get(name, name) for name in names)

    def nearest_targets(self, model: Model) -> TargetModules:
        """Return the accepted targets nearest to the requested ones, if there are any.

        They are the requested names that can be adapted, else every linear layer, else the usual targets.
        """
        requested = self.target_modules if isinstance(self.target_modules, tuple) else ()
        kept = tuple(name for name in requested if self._accepts((name,), model))
        usual = self.usual_targets(model)
        choices: tuple[TargetModules, ...] = (kept, "all-linear", usual) if self.adapts_linear else (kept, usual)
        return next((targets for targets in choices if targets and self._accepts(targets, model)), None)

    def _accepts(self, targets: TargetModules, model: Model) -> bool:
        changed: Any = self
        try:
            refusals.check(replace(changed, target_modules=targets), model)
        except PlanError:
            return False
        return True
