"""OSF, orthogonal subspace fine-tuning."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from calculator.architecture.dimension import named
from calculator.common.errors import Problem, refusal
from calculator.inputs.by_name import DecimalsByName
from calculator.inputs.settings import setting
from calculator.methods.osf import layer
from calculator.methods.osf.facts import FACTS
from calculator.methods.targeted import settings
from calculator.methods.targeted.adapted_linear import AdaptedLinear
from calculator.methods.targeted.method import TargetModules  # noqa: TC001  `declared` evaluates annotations
from calculator.resident.module_spec import Added

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule


@dataclass(frozen=True, slots=True, kw_only=True)
class OSF(AdaptedLinear):
    """OSF: the smaller singular values and vectors of each adapted matrix are trained."""

    name = "osf"
    facts = FACTS
    adaptable = ("linear",)

    effective_rank: float | None = setting(
        None,
        label="Frozen singular values",
        help="How many of the largest singular values are frozen: a number, or a share such as 0.9. Null means half."
        " The others are trained.",
        minimum=0,
        maximum=65_536,
        example=0.9,
        empty="half",
    )
    target_modules: TargetModules = settings.target_modules()
    rank_pattern: DecimalsByName | None = setting(
        None,
        label="Frozen values of modules",
        help="Different numbers or shares of frozen singular values, by parts of modules' names.",
        minimum=0,
        maximum=65_536,
        example=DecimalsByName(q_proj=0.5),
    )
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Sentences on what happens before the first step."""
        return ("OSF decomposes each adapted weight before the first step. The figures are for steps after that.",)

    def warnings(self, model: Model, training: Training) -> tuple[str, ...]:
        """Return the warning that a cast drops the hooks."""
        warnings = AdaptedLinear.warnings(self, model, training)
        if training.added_dtype == training.dtype:
            return warnings
        lost = (
            "PEFT casts OSF's parameters to float32 after it has attached the hooks that project their gradients, which"
            " are lost: gradients are not projected. adapter_dtype model keeps the hooks."
        )
        return (*warnings, lost)

    def check(self, model: Model, training: Training) -> None:
        """Refuse float32 weights, whose decomposition stays in memory."""
        if training.dtype == "float32":
            message = (
                "of weights in float32, OSF's V_low keeps the memory of all singular vectors, which is not modeled:"
                " use bfloat16"
            )
            raise refusal("training.dtype", message, training.dtype)
        AdaptedLinear.check(self, model, training)

    def for_model(self, model: Model) -> Self:
        """Return the method with every linear layer as target, for a family for which PEFT has no default."""
        changed = AdaptedLinear.for_model(self, model)
        if self.target_modules is None and not self.has_default(model):
            return replace(changed, target_modules="all-linear")
        return changed

    def own_problems(self, model: Model, targets: dict[str, Module]) -> Iterator[Problem]:  # noqa: ARG002
        """Yield names of single layers, and numbers that leave nothing to freeze or to train."""
        for key in self.rank_pattern or ():
            if not re.fullmatch(r"[\w.]+", key) or any(part.isdigit() for part in key.split(".")):
                message = f"{key} is not read: use a part of modules' names in every layer, such as q_proj"
                yield Problem(loc="method.rank_pattern", msg=message, input=key)
                return
        for path, module in targets.items():
            frozen, most = self._frozen(path, module), min(module.in_features, module.out_features)
            if module.kind in self.adaptable and not 0 < frozen < most:
                refused = "PEFT refuses none" if not frozen else "without any to train, it is not modeled"
                way_out = f"use 1 to {most - 1:,}" if most > 1 else f"name target_modules without {path}"
                message = f"{frozen:,} of the {most:,} singular values of {path} are frozen; {refused}: {way_out}"
                yield Problem(loc="method.effective_rank", msg=message, input=self.effective_rank)
                return

    def _frozen(self, path: str, module: Module) -> int:
        """Return how many singular values of a module are frozen (OSFModel._create_and_replace)."""
        keys = (key for key in self.rank_pattern or () if re.search(key, path))
        key = next(keys, None)
        value = self.effective_rank if key is None or self.rank_pattern is None else self.rank_pattern[key]
        most = int(min(module.in_features, module.out_features))
        if value is None:
            return most // 2
        share = isinstance(value, float) and 0 < value <= 1
        return max(min(most, int(most * value) if share else int(value)), 0)

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return the trained factors, their first values, and the larger singular vectors that those do not span.

        A ParameterDict sorts the names of a dict. Without a hook, the gradient of V is a view of the gradient of the
        factor B.
        """
        rows, columns, dtype = module.out_features, module.in_features, training.added_dtype
        frozen = self._frozen(path, module)
        r, k = named(int(min(rows, columns)) - frozen, "r"), named(frozen, "effective_rank")
        trained: dict[str, Shape] = {layer.S: (r,), layer.U: (rows, r), layer.V: (r, columns)}
        buffers: dict[str, Shape] = {layer.U_INIT: (rows, r), layer.S_INIT: (r,), layer.V_INIT: (r, columns)}
        if rows > columns:
            buffers[layer.U_HIGH] = (rows, k)
        if rows < columns:
            buffers[layer.V_HIGH] = (k, columns)
        bases = {} if dtype == training.dtype else {layer.V: (2 * r, columns)}
        return (
            *(Added(name=n, shape=s, dtype=dtype, gradient_base=bases.get(n)) for n, s in trained.items()),
            *(
                Added(name=name, shape=shape, dtype=dtype, trained=False, buffer=True)
                for name, shape in buffers.items()
            ),
        )

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the output of the frozen module plus the update.

        The hooks stay if PEFT casts no parameter.
        """
        projects = bound.added[layer.U].dtype == bound.module_spec.dtype
        return layer.forward(bound, x, projects=projects)
