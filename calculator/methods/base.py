"""What a method may change of a model and of its step; the defaults change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE
from calculator.resident.module_spec import ModuleSpec

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context, LayerModules
    from calculator.resident.tensors import ResidentTensor


class Method:
    """A way to fine-tune. A method overrides what it changes."""

    __slots__ = ()
    name: ClassVar[str]

    @property
    def virtual_tokens(self) -> int:
        """How many tokens come on top of the sequence."""
        return 0

    @property
    def looks_words_up(self) -> bool:
        """Whether PEFT looks a sequence's words up, and gives the model their embeddings."""
        return False

    def check(self, model: Model, training: Training) -> None:
        """Refuse what the real stack refuses.

        Raises:
            PlanError: with the reason.
        """

    def module_spec(self, path: str, module: Module, model: Model, training: Training) -> ModuleSpec:  # noqa: ARG002
        """How one module is stored and trained; `path` is its full name."""
        return ModuleSpec(dtype=training.dtype)

    def copies(self, path: str) -> bool:  # noqa: ARG002
        """Whether the module at a path is, or lies in, one that is copied, its buffers too."""
        return False

    def hidden_dtype(self, training: Training) -> DType:
        """The dtype of hidden states: that of the embeddings and norms."""
        return training.dtype

    def added(self, model: Model, training: Training) -> tuple[ResidentTensor, ...]:  # noqa: ARG002
        """What no module of the model owns, for the whole model."""
        return ()

    def saved_bytes(self, state: tuple[ResidentTensor, ...], model: Model) -> int:
        """What `save_pretrained` writes of what is trained, less the file's header."""
        beside = self.written_beside(model)
        written = (held for held in state if held.trained or held.name in beside)
        return sum(elements(held.shape) * ITEMSIZE[held.dtype] * held.count for held in written)

    def written_beside(self, model: Model) -> frozenset[str]:  # noqa: ARG002
        """Parameters of the base that are written with what is trained though they are not."""
        return frozenset()

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """How a module with added parameters runs: (..., in_features) to (..., out_features)."""
        return bound.base(x)

    def looked_up(self, bound: BoundModule, ids: Tensor, rows: Tensor, scale: Tensor | None) -> Tensor:  # noqa: ARG002
        """What an embedding with added parameters gives.

        `rows` are its own rows of the ids, multiplied with `scale` where it has one.
        """
        return rows

    def after(
        self,
        context: Context,  # noqa: ARG002
        modules: LayerModules,  # noqa: ARG002
        sublayer: Literal["attention", "mlp"],  # noqa: ARG002
        hidden_states: Tensor,
    ) -> Tensor:
        """What follows a sublayer before its residual is added."""
        return hidden_states

    def cut_to_windows(self, model: Model) -> bool:  # noqa: ARG002
        """Whether what is put into the cache is cut to what sliding layers keep."""
        return False

    def begin(self, context: Context) -> None:
        """What is made before the model runs."""

    def embedded(self, context: Context, embeddings: Tensor) -> Tensor:  # noqa: ARG002
        """The input embeddings as the first layer gets them."""
        return embeddings
