"""LN Tuning: the norms are copied, and the copies are trained (Zhao et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from re import finditer
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from calculator.architecture.module import Kind
from calculator.common.errors import Problem, refusal
from calculator.inputs.settings import setting
from calculator.methods.costs import MergeStep
from calculator.methods.ln_tuning.facts import FACTS
from calculator.methods.ln_tuning.targets import DEFAULT_TARGETS, norms_without_weight
from calculator.methods.targeted import settings
from calculator.methods.targeted.matching import is_named
from calculator.methods.targeted.method import TargetedMethod
from calculator.resident.module_spec import ModuleSpec
from calculator.resident.quantization import converted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.inputs.training import Training
    from calculator.resident.module_spec import CopyName

_MERGE = "peft, tuners/ln_tuning/layer.py, LNTuningLayer.merge"


@dataclass(frozen=True, slots=True, kw_only=True)
class LNTuning(TargetedMethod):
    """LN Tuning: a trained copy of each targeted module replaces it. The frozen original stays in memory."""

    name = "ln_tuning"
    facts = FACTS
    # PEFT copies any module (tuners/ln_tuning/layer.py, LNTuningLayer.update_layer).
    adaptable: ClassVar[tuple[Kind, ...]] = get_args(Kind)
    adapts_linear = False

    target_modules: Literal["all-linear"] | tuple[str, ...] | None = setting(
        None,
        label="Target modules",
        help="Names of the modules to copy and train, all-linear, or null for PEFT's default for the family.",
        example=("input_layernorm", "post_attention_layernorm", "norm"),
        # all-linear, the usual choice for low-rank methods, would copy and train nearly the whole model here.
        has_field_of_its_own=True,
    )
    modules_to_save: tuple[str, ...] | None = setting(
        None,
        label="Modules to save",
        help="Further modules that are copied and trained in full, by name.",
        example=("lm_head",),
    )
    exclude_modules: tuple[str, ...] | None = settings.exclude_modules()

    def check(self, model: Model, training: Training) -> None:
        """Refuse targets that PEFT refuses, and trainers whose steps are not modeled with copies."""
        if training.use_liger_kernel:
            raise refusal("training.use_liger_kernel", "is not modeled with LN Tuning: use false", True)
        if training.trainer not in (None, "transformers"):
            message = "LN Tuning is not modeled in TRL's trainers: use transformers"
            raise refusal("training.trainer", message, training.trainer)
        without_cache = training.gradient_checkpointing or not model.config.get("use_cache")
        if without_cache and any(
            self._names(path) for path, _ in model.paths if path.endswith((".mamba.norm", ".mixer.norm"))
        ):
            message = (
                "without a cache, Mamba reads the epsilon of its norm, which PEFT's copy lacks: leave out its name"
            )
            raise refusal("method.target_modules", message, list(self.target_modules or ()))
        TargetedMethod.check(self, model, training)

    def _names(self, path: str) -> bool:
        return isinstance(self.target_modules, tuple) and is_named(path, self.target_modules)

    def refused_names(self, model: Model) -> tuple[str, ...]:  # noqa: ARG002
        """Return nothing: a copied router returns its tuple as before."""
        return ()

    def usual_targets(self, model: Model) -> tuple[str, ...]:
        """Return the names of the norms that the model runs."""
        named = (path.rpartition(".")[2] for path, module in model.running if module.kind == "norm")
        return tuple(dict.fromkeys(named))

    def usual(self, model: Model) -> str:  # noqa: ARG002
        """Return "norms"."""
        return "norms"

    def own_problems(self, model: Model, targets: dict[str, Module]) -> Iterator[Problem]:  # noqa: ARG002
        """Yield targets that contain other modules, which PEFT copies whole.

        They may be among PEFT's own targets for the family.
        """
        names = self.target_modules if isinstance(self.target_modules, tuple) else ()
        if self.target_modules is None:
            names = DEFAULT_TARGETS.get(model.model_type, ())
        owners = {path[: dot.start()] for path, _ in model.paths for dot in finditer(r"\.", path)}
        for name in names:
            if any(is_named(owner, (name,)) for owner in owners):
                message = f"{name} holds other modules, whose copy is not modeled: name those, or save it whole"
                yield Problem(loc="method.target_modules", msg=message, input=list(names))
        for path in norms_without_weight(model):
            if is_named(path, names) and not self.is_saved(path):
                message = (
                    f"{path} of {model.model_type} has no weight in every layer, and PEFT fails without one: leave"
                    " its name out"
                )
                yield Problem(loc="method.target_modules", msg=message, input=list(names))

    def module_spec(self, path: str, module: Module, model: Model, training: Training) -> ModuleSpec:
        """Return the module as frozen, or as a trained copy in the original's dtype.

        LNTuningModel._cast_adapter_dtype does nothing.
        """
        copied: CopyName | None = "modules_to_save" if self.is_saved(path) else None
        if self.is_target(path, module, model):
            copied = "ln_tuning_layers"
        trained = tuple(p.name for p in module.parameters) if copied else ()
        return ModuleSpec(dtype=training.dtype, trained=trained, copied=copied)

    def copy_name(self, path: str) -> CopyName | None:
        """Return the name of a copied module that has buffers. Linear layers and norms have none."""
        if self.is_saved(path):
            return "modules_to_save"
        names = self.target_modules if isinstance(self.target_modules, tuple) else ()
        return "ln_tuning_layers" if is_named(path, names) else None

    def refuses_4_bits(self, model: Model) -> str | None:
        """Return why copies of quantized modules are refused: their packed weights can't be trained."""
        for path, module in model.paths:
            if converted(path, module, model) and (self.is_saved(path) or self.is_target(path, module, model)):
                return f"LN Tuning with {path} over a base in 4 bits is not modeled: its copy can't be trained there"
        return None

    def merge_step(self, module: Module, module_spec: ModuleSpec) -> MergeStep:  # noqa: ARG002
        """Return nothing: the copy and the original are swapped."""
        return MergeStep(
            allocated=(), loss="The trained copy replaces the original: nothing is rounded.", source=_MERGE
        )
