"""GLoRA, generalized low-rank adaptation (Chavan et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import named
from calculator.common.errors import Problem
from calculator.inputs.settings import setting
from calculator.methods.glora import layer
from calculator.methods.glora.facts import FACTS
from calculator.methods.targeted import settings
from calculator.methods.targeted.adapted_linear import AdaptedLinear
from calculator.methods.targeted.method import TargetModules  # noqa: TC001  `declared` evaluates annotations
from calculator.resident.module_spec import Added

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule
    from calculator.resident.tensor import ResidentTensor

#: The output projection of torch.nn.MultiheadAttention in vision towers, whose class is a subclass of Linear.
_OF_TORCH = "head.attention.out_proj"


@dataclass(frozen=True, slots=True, kw_only=True)
class GLoRA(AdaptedLinear):
    """GLoRA: paths A to E for each adapted matrix. The weight becomes W + W · A + B, the bias b + b · D + E + W · C."""

    name = "glora"
    facts = FACTS
    adaptable = ("linear",)

    r: int = setting(
        8, label="Rank", help="The rank of the paths that are set to lora.", minimum=1, maximum=65_536, example=8
    )
    target_modules: TargetModules = settings.target_modules()
    config_A_B: Literal["lora", "vector", "constant", "none"] = setting(  # noqa: N815  PEFT's name
        "lora", label="Paths of the weight", help="What scales the weight and what is added to it."
    )
    config_C: Literal["lora", "vector", "none"] = setting(  # noqa: N815  PEFT's name
        "lora",
        label="Path from the weight to the bias",
        help="What multiplies the weight in the term that is added to the bias.",
    )
    config_D_E: Literal["vector", "constant", "none"] = setting(  # noqa: N815  PEFT's name
        "constant", label="Paths of the bias", help="What scales the bias and what is added to it."
    )
    bias: Literal["none", "all", "glora_only"] = settings.bias()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    def own_problems(self, model: Model, targets: dict[str, Module]) -> Iterator[Problem]:
        """Yield paths without a gradient, and a module that PEFT's GLoRA does not treat as a linear layer."""
        if not self.modules_to_save and not self._trains_any(model, targets):
            message = "no path gets a gradient: PEFT has paths C, D and E only where a layer has a bias: set it to lora"
            yield Problem(loc="method.config_A_B", msg=message, input="none")
        for path, module in targets.items():
            if path.endswith(_OF_TORCH) or module.separate_bias:
                message = f"PEFT's GLoRA refuses {path}, a subclass of torch.nn.Linear: leave it out, or use lora"
                yield Problem(loc="method.target_modules", msg=message, input=path)

    def _trains_any(self, model: Model, targets: dict[str, Module]) -> bool:
        """Return whether a path or a bias gets a gradient."""
        kinds = (self.config_C, self.config_D_E, self.bias)
        biased = set(kinds) != {"none"} and any(
            module.bias for path, module in targets.items() if not model.is_idle(path)
        )
        in_all = self.bias == "all" and any(module.bias for _, module in model.running)
        return self.config_A_B != "none" or biased or in_all

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return the paths. The paths of a missing bias are zeros."""
        rows, columns = module.out_features, module.in_features
        biased = module.bias is not None
        c_config, d_config = (self.config_C, self.config_D_E) if biased else ("none", "none")
        kinds: dict[str, tuple[str, Shape]] = {
            "A": (self.config_A_B, (rows, columns)),
            "B": (self.config_A_B, (rows, columns)),
            "C": (c_config, (columns, 1)),
            "D": (d_config, (rows,)),
            "E": (d_config, (rows,)),
        }
        dtypes = (training.added_dtype, training.dtype)
        return tuple(
            parameter for name, (kind, shape) in kinds.items() for parameter in self._path(name, kind, shape, dtypes)
        )

    def _path(self, name: str, kind: str, shape: Shape, dtypes: tuple[DType, DType]) -> Iterator[Added]:
        prefix, (dtype, parameter_dtype) = f"glora_{name}", dtypes
        if kind == "none":
            yield Added(name=f"{prefix}.zeros", shape=shape, dtype=parameter_dtype, trained=False, buffer=True)
        elif kind == "lora":
            r = named(self.r, "r")
            yield Added(name=f"{prefix}.Xd", shape=(shape[0], r), dtype=dtype)
            yield Added(name=f"{prefix}.Xu", shape=(r, shape[1]), dtype=dtype)
        else:
            vector = (shape[0], 1) if len(shape) > 1 else shape
            yield Added(name=f"{prefix}.X", shape=(1,) if kind == "constant" else vector, dtype=dtype)

    def saves_frozen(self, tensor: ResidentTensor) -> bool:
        """Return whether it is a path of zeros."""
        return not tensor.base and tensor.name.endswith(".zeros")

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the product with the changed weight."""
        return layer.forward(bound, x)
