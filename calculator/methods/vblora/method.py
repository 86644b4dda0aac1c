"""VB-LoRA, low-rank adaptation from a vector bank (Li et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import elements, named
from calculator.common.errors import Problem
from calculator.inputs.settings import setting
from calculator.methods.targeted import settings
from calculator.methods.targeted.adapted_linear import AdaptedLinear
from calculator.methods.targeted.method import TargetModules  # noqa: TC001  `declared` evaluates annotations
from calculator.methods.vblora import layer
from calculator.methods.vblora.facts import FACTS
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
class VBLoRA(AdaptedLinear):
    """VB-LoRA: logits for each adapted matrix, which choose vectors from one bank."""

    name = "vblora"
    facts = FACTS

    r: int = setting(4, label="Rank", help="The rank of the updates.", minimum=1, maximum=65_536, example=4)
    num_vectors: int = setting(
        256, label="Vectors", help="The number of vectors in the bank.", minimum=2, maximum=1_000_000
    )
    vector_length: int = setting(
        256,
        label="Vector length",
        help="The length of a vector. It must divide both sides of each target.",
        minimum=1,
        maximum=65_536,
    )
    topk: int = setting(2, label="Top k", help="How many vectors are mixed into one.", minimum=1, maximum=1_000)
    target_modules: TargetModules = settings.target_modules()
    exclude_modules: tuple[str, ...] | None = settings.exclude_modules()
    vblora_dropout: float = settings.dropout()
    bias: Literal["none", "all", "vblora_only"] = settings.bias()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    @property
    def couples_layers(self) -> bool:
        """True: every layer adds to the bank's gradient."""
        return True

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Sentences on what is not counted."""
        return ("The scratch memory with which CUDA sorts indices of VB-LoRA's vectors is not counted.",)

    def own_problems(self, model: Model, targets: dict[str, Module]) -> Iterator[Problem]:  # noqa: ARG002
        """Yield vectors that do not divide a side, and more chosen vectors than there are."""
        if self.topk > self.num_vectors:
            message = f"the bank has {self.num_vectors:,} vectors: choose at most that many"
            yield Problem(loc="method.topk", msg=message, input=self.topk)
        for path, module in targets.items():
            sides = (module.in_features, module.out_features)
            if module.kind in self.adaptable and any(side % self.vector_length for side in sides):
                message = f"must divide both sides of {path} ({sides[0]:,} and {sides[1]:,})"
                yield Problem(loc="method.vector_length", msg=message, input=self.vector_length)

    def with_layers(self, model: Model) -> Model:
        """Return the model whose targets share the bank."""
        targets = [path for path, module in model.paths if self.is_target(path, module, model)]
        return replace(model, tied={**model.tied, **{f"{path}.{layer.BANK}": layer.BANK for path in targets}})

    def _bank(self) -> Shape:
        return named(self.num_vectors, "num_vectors"), named(self.vector_length, "vector_length")

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return the logits of both factors, and the bank that all targets share."""
        r, dtype, (vectors, length) = named(self.r, "r"), training.added_dtype, self._bank()
        shapes = {
            layer.A: (r, module.in_features // length, vectors),
            layer.B: (module.out_features // length, r, vectors),
            layer.BANK: (vectors, length),
        }
        return tuple(Added(name=name, shape=shape, dtype=dtype) for name, shape in shapes.items())

    def added(self, model: Model, training: Training) -> tuple[ResidentTensor, ...]:  # noqa: ARG002
        """Return the bank."""
        bank = self._bank()
        return (
            ResidentTensor(
                name=layer.BANK,
                shape=bank,
                dtype=training.added_dtype,
                component="adapter_weights",
                parameters=elements(bank),
                trained=True,
                base=False,
            ),
        )

    def saved_name(self, name: str) -> str:
        """Return the name under which PEFT writes a parameter. The bank belongs to no module."""
        return f"base_model.{name}" if name == layer.BANK else AdaptedLinear.saved_name(self, name)

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the output of the frozen module plus the update."""
        return layer.forward(self, bound, x)
