"""Lily, low-rank interconnected adaptation across layers (Zhong et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements, named
from calculator.common.dtype import ITEMSIZE
from calculator.common.errors import Problem
from calculator.inputs.settings import setting
from calculator.methods.lily import layer, sharing
from calculator.methods.lily.facts import FACTS
from calculator.methods.targeted import matching, settings
from calculator.methods.targeted.adapted_linear import AdaptedLinear
from calculator.methods.targeted.default_targets import DEFAULT_PATTERNS
from calculator.methods.targeted.method import TargetModules  # noqa: TC001  `declared` evaluates annotations
from calculator.resident.module_spec import Added
from calculator.resident.tensor import ResidentTensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule


@dataclass(frozen=True, slots=True, kw_only=True)
class Lily(AdaptedLinear):
    """Lily: A for each block of layers, num_B matrices for all layers, and a router for each adapted matrix."""

    name = "lily"
    facts = FACTS
    adaptable = ("linear",)
    adapts_linear = False
    refuses_checkpoint = "PEFT writes a shared matrix once for each layer"

    r: int = setting(32, label="Rank", help="The rank of the update.", minimum=1, maximum=65_536, example=64)
    stride_A: int = setting(  # noqa: N815  PEFT's name
        1,
        label="Layers that share A",
        help="The number of consecutive layers that share one A.",
        minimum=1,
        maximum=65_536,
    )
    num_B: int = setting(  # noqa: N815  PEFT's name
        2,
        label="Shared B",
        help="The number of matrices that B is mixed from, which all layers share.",
        minimum=2,
        maximum=65_536,
    )
    scaling: float = setting(1.0, label="Scaling", help="The update is multiplied by this factor; memory is the same.")
    target_modules: TargetModules = settings.target_modules()
    exclude_modules: tuple[str, ...] | None = settings.exclude_modules()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    @property
    def couples_layers(self) -> bool:
        """True: every layer adds to the gradients of shared matrices."""
        return True

    @property
    def differs_between_layers(self) -> bool:
        """Whether blocks of layers have their own matrices."""
        return self.stride_A > 1

    def own_problems(self, model: Model, targets: dict[str, Module]) -> Iterator[Problem]:  # noqa: ARG002
        """Yield `all-linear`.

        PEFT may or may not shorten the names of linear layers before it groups them (_find_minimal_target_modules).
        """
        if self.target_modules == "all-linear":
            names = ", ".join(sorted({path.rpartition(".")[2] for path in targets}))
            message = f"which layers share matrices is not modeled for all-linear: list names ({names})"
            yield Problem(loc="method.target_modules", msg=message, input="all-linear")

    def names(self, model: Model) -> tuple[str, ...]:
        """Return the names by which targets are grouped.

        If PEFT's default is a pattern, this is one ending that all names share.
        """
        is_pattern = self.target_modules is None and model.model_type in DEFAULT_PATTERNS
        return ("",) if is_pattern else matching.target_names(self, model)

    def with_layers(self, model: Model) -> Model:
        """Return the model with the names of the shared matrices."""
        return sharing.with_sharing(self, model)

    def _shapes(self, module: Module) -> dict[str, Shape]:
        r, number = named(self.r, "r"), named(self.num_B, "num_B")
        return {sharing.A: (r, module.in_features), sharing.B: (number * r, module.out_features)}

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return A, B and the router."""
        dtype = training.added_dtype
        matrices = (
            Added(name=sharing.own_name(name, module), shape=shape, dtype=dtype)
            for name, shape in self._shapes(module).items()
        )
        router = (named(self.num_B, "num_B"), named(self.r, "r"))
        return (*matrices, Added(name=sharing.ROUTER, shape=router, dtype=dtype))

    def added(self, model: Model, training: Training) -> tuple[ResidentTensor, ...]:
        """Return the shared matrices."""
        shared = sharing.groups(self, model)
        shape_by_name: dict[str, Shape] = {}
        for target in sharing.targets(self, model) if shared else ():
            shapes = self._shapes(target.module).values()
            shape_by_name |= {
                name: shape for name, shape in zip(shared[target.name], shapes, strict=True) if name is not None
            }
        return tuple(
            ResidentTensor(
                name=name,
                shape=shape,
                dtype=training.added_dtype,
                component="adapter_weights",
                parameters=elements(shape),
                trained=True,
                base=False,
            )
            for name, shape in shape_by_name.items()
        )

    def saved_bytes(self, state: tuple[ResidentTensor, ...], model: Model) -> int:
        """Return the bytes of every layer's matrices. PEFT writes shared ones once for each layer."""
        matrices = (f".{sharing.A}.", f".{sharing.B}.")
        others = tuple(tensor for tensor in state if tensor.base or not any(name in tensor.name for name in matrices))
        itemsize = next(ITEMSIZE[tensor.dtype] for tensor in state if sharing.ROUTER in tensor.name)
        shapes = (shape for target in sharing.targets(self, model) for shape in self._shapes(target.module).values())
        return AdaptedLinear.saved_bytes(self, others, model) + sum(map(elements, shapes)) * itemsize

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the output of the frozen module plus the update."""
        return layer.forward(bound, x)
