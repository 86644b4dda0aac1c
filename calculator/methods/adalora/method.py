"""AdaLoRA, adaptive budget allocation (Zhang et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import named
from calculator.common.errors import Problem, refusal
from calculator.inputs.settings import setting
from calculator.methods.adalora import importance, layer, regularization
from calculator.methods.adalora.facts import FACTS
from calculator.methods.targeted import settings
from calculator.methods.targeted.adapted_linear import AdaptedLinear
from calculator.methods.targeted.method import TargetModules  # noqa: TC001  `declared` evaluates annotations
from calculator.resident.module_spec import Added

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.resident.tensor import ResidentTensor

#: The maximum number of steps of a run.
_STEPS = 10**9


def _step(default: int, label: str, text: str) -> int:
    number: int = setting(default, label=label, help=text, minimum=0, maximum=_STEPS)
    return number


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaLoRA(AdaptedLinear):
    """AdaLoRA: init_r · (in_features + out_features + 1) parameters for each adapted matrix."""

    name = "adalora"
    facts = FACTS
    refuses_checkpoint = "PEFT writes only the ranks that its budget kept"

    init_r: int = setting(12, label="Initial rank", help="The rank before pruning.", minimum=1, maximum=65_536)
    target_r: int = setting(
        8, label="Target rank", help="The mean rank that is kept; memory is the same.", minimum=1, maximum=65_536
    )
    target_modules: TargetModules = settings.target_modules()
    exclude_modules: tuple[str, ...] | None = settings.exclude_modules()
    lora_alpha: float = setting(8, label="Alpha", help="The update is scaled by it.", minimum=0, maximum=1e6)
    lora_dropout: float = settings.dropout()
    total_step: int = setting(
        1000, label="Steps", help="The steps of the run, which PEFT requires.", minimum=1, maximum=_STEPS
    )
    tinit: int = _step(0, "Warm-up", "Steps before ranks are pruned.")
    tfinal: int = _step(0, "Last steps", "Steps at the end in which no rank is pruned.")
    orth_reg_weight: float = setting(
        0.5,
        label="Orthogonality",
        help="The weight of the orthogonality regularization in the loss.",
        minimum=0,
        maximum=1e6,
    )
    bias: Literal["none", "all", "lora_only"] = settings.bias()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    @property
    def couples_layers(self) -> bool:
        """True: the loss depends on the factors of every layer."""
        return True

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Sentences on the caller of update_and_allocate, and on what is not counted of it."""
        called = "The step calls AdaLoRA's update_and_allocate, as PEFT's documentation does; trainers do not."
        return (called, "The scores by which AdaLoRA prunes ranks, some kilobytes, are not counted.")

    def own_problems(self, model: Model, targets: dict[str, Module]) -> Iterator[Problem]:  # noqa: ARG002
        """Yield a schedule without steps that prune."""
        if self.tinit >= self.total_step - self.tfinal:
            message = f"must be below total_step - tfinal ({self.total_step - self.tfinal:,})"
            yield Problem(loc="method.tinit", msg=message, input=self.tinit)

    def check(self, model: Model, training: Training) -> None:
        """Refuse targets without a gradient, whose importance PEFT can't update."""
        AdaptedLinear.check(self, model, training)
        targets = (path for path, module in model.paths if self.is_target(path, module, model))
        idle = next((path for path in targets if model.is_idle(path)), None)
        if idle is not None and training.trainer is None:
            message = f"update_and_allocate needs the gradient of {idle}, and texts do not use it: name other modules"
            raise refusal("method.target_modules", message, idle)

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return the singular vectors and values, and the number of ranks, which is not trained."""
        r, dtype = named(self.init_r, "init_r"), training.added_dtype
        return (
            Added(name=layer.A, shape=(r, module.in_features), dtype=dtype),
            Added(name=layer.B, shape=(module.out_features, r), dtype=dtype),
            Added(name=layer.E, shape=(r, 1), dtype=dtype),
            Added(name=layer.RANKS, shape=(1,), dtype=dtype, trained=False),
        )

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the output of the frozen module plus the update."""
        return layer.forward(bound, x, self.lora_dropout)

    def after_loss(self, context: Context, loss: Tensor) -> Tensor:
        """Return the loss plus the loss of vectors that are not orthogonal."""
        return regularization.add_to(context, loss)

    def statistics(self, tensors: Sequence[ResidentTensor], training: Training) -> tuple[ResidentTensors, ...]:
        """Return the importance of every element, which exists from the first step on."""
        return importance.statistics(tensors) if training.trainer is None else ()

    def after_step(self, tensors: Sequence[ResidentTensor], training: Training) -> tuple[ResidentTensors, ...]:
        """Return the tensors that updating the importance of the largest parameter allocates."""
        return importance.update(tensors) if training.trainer is None else ()

    def is_read(self, tensor: ResidentTensor) -> bool:
        """Return whether it is not the number of ranks."""
        return not tensor.name.endswith(layer.RANKS)
