"""TinyLoRA, a few trained numbers between singular vectors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import named
from calculator.common.errors import Problem
from calculator.inputs.settings import setting
from calculator.methods.targeted import settings
from calculator.methods.targeted.adapted_linear import AdaptedLinear
from calculator.methods.targeted.method import TargetModules  # noqa: TC001  `declared` evaluates annotations
from calculator.methods.tinylora import layer
from calculator.methods.tinylora.facts import FACTS
from calculator.resident.module_spec import Added
from calculator.resident.tensor import ResidentTensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyLoRA(AdaptedLinear):
    """TinyLoRA: u numbers for each adapted matrix, or for all of them together."""

    name = "tinylora"
    facts = FACTS
    adaptable = ("linear", "conv1d", "embedding")
    refuses_checkpoint = "PEFT numbers the vectors of all targets in one list"

    r: int = setting(2, label="Rank", help="How many singular vectors are used.", minimum=1, maximum=65_536, example=2)
    u: int = setting(64, label="Numbers", help="How many numbers each vector has.", minimum=1, maximum=65_536)
    weight_tying: float = setting(
        0.0,
        label="Weight tying",
        help="With 0, each target has its own trained vector; with 1, all targets share one.",
        minimum=0,
        maximum=1,
    )
    save_projection: bool = settings.save_projection()
    target_modules: TargetModules = settings.target_modules()
    tinylora_dropout: float = settings.dropout()
    bias: Literal["none", "all", "tinylora_only"] = settings.bias()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    @property
    def couples_layers(self) -> bool:
        """Whether every layer adds to the gradient of one vector."""
        return self.weight_tying == 1

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Sentences on what happens before the first step."""
        return ("TinyLoRA decomposes each adapted weight before the first step. The figures are for steps after that.",)

    def own_problems(self, model: Model, targets: dict[str, Module]) -> Iterator[Problem]:  # noqa: ARG002
        """Yield vectors that only some targets share."""
        if self.weight_tying not in (0, 1):
            message = "vectors that some layers share are not modeled: use 0 or 1"
            yield Problem(loc="method.weight_tying", msg=message, input=self.weight_tying)

    def with_layers(self, model: Model) -> Model:
        """Return the model with a vector that all targets share, if they do."""
        if not self.couples_layers:
            return model
        targets = [path for path, module in model.paths if self.is_target(path, module, model)]
        return replace(model, tied={**model.tied, **{f"{path}.{layer.V}": layer.V for path in targets}})

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return the trained vector, and the buffers."""
        sides = (module.in_features, module.out_features)
        rows, columns = sides if module.kind == "embedding" else sides[::-1]
        r, u, dtype = named(min(self.r, *sides), "r"), named(self.u, "u"), training.added_dtype
        buffers = {layer.A: (r, columns), layer.B: (rows, r), layer.P: (u, r, r)}
        return (
            Added(name=layer.V, shape=(u,), dtype=dtype),
            *(
                Added(name=name, shape=shape, dtype=dtype, trained=False, buffer=True)
                for name, shape in buffers.items()
            ),
        )

    def added(self, model: Model, training: Training) -> tuple[ResidentTensor, ...]:  # noqa: ARG002
        """Return the vector that all targets share, if they do."""
        if not self.couples_layers:
            return ()
        return (
            ResidentTensor(
                name=layer.V,
                shape=(named(self.u, "u"),),
                dtype=training.added_dtype,
                component="adapter_weights",
                parameters=self.u,
                trained=True,
                base=False,
            ),
        )

    def saves_frozen(self, tensor: ResidentTensor) -> bool:
        """Return whether it is one of the buffers.

        The random matrices are drawn again unless they are saved.
        """
        names = (layer.A, layer.B, *((layer.P,) if self.save_projection else ()))
        return not tensor.base and tensor.name.endswith(names)

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the output of the frozen module plus the update."""
        return layer.forward(bound, x, self.tinylora_dropout)

    def embedding_forward(self, bound: BoundModule, ids: Tensor, rows: Tensor, scale: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return the frozen rows plus the update."""
        return layer.embedding_forward(bound, ids, rows, self.tinylora_dropout)
