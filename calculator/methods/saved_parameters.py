"""The parameters that `save_pretrained` writes of a model that a method trains."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar

from calculator.architecture.dimension import elements
from calculator.checkpoint.safetensors_file import SavedTensor
from calculator.common.dtype import ITEMSIZE
from calculator.methods.facts import MethodFacts  # noqa: TC001  `declared` evaluates annotations

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.architecture.model import Model
    from calculator.resident.tensor import ResidentTensor


class SavedParameters:
    """The hooks through which a method changes what a checkpoint holds."""

    __slots__ = ()
    facts: ClassVar[MethodFacts]

    #: Why the size of a checkpoint is not modeled. None if it is.
    refuses_checkpoint: ClassVar[str | None] = None

    def saved_bytes(self, state: tuple[ResidentTensor, ...], model: Model) -> int:
        """Return the bytes that `save_pretrained` writes of the trained parameters, without the file's header."""
        base = self.saved_base_weights(model)
        saved = [tensor for tensor in state if tensor.trained or tensor.name in base or self.saves_frozen(tensor)]
        return sum([elements(tensor.shape) * ITEMSIZE[tensor.dtype] * tensor.count for tensor in saved])

    def saved_name(self, name: str) -> str:
        """Return the name under which PEFT's `save_pretrained` writes a parameter.

        A copy has the name of its original.
        """
        original = name.replace(".modules_to_save.", ".").replace(
            "lora_magnitude_vector.weight", "lora_magnitude_vector"
        )
        return f"base_model.model.{original}"

    def saved_tensors(self, parameters: Sequence[tuple[str, ResidentTensor]], model: Model) -> Sequence[SavedTensor]:
        """Return the tensors that `save_pretrained` writes, from every parameter by its name.

        The parameters of a module that PEFT wraps belong to its `base_layer`. A weight that a wrapped module shares
        with another module is written under the name of the wrapped one.
        """
        base = self.saved_base_weights(model)
        wrapped = {
            path
            for name, parameter in parameters
            if not parameter.base and ".modules_to_save." not in name
            for path in accumulate(name.split("."), "{}.{}".format)
        }

        def written(name: str) -> str:
            aliases = (name, *(alias for alias, source in model.tied.items() if source == name))
            owners = [alias.rpartition(".") for alias in aliases]
            written_name = next((f"{owner}.base_layer.{last}" for owner, _, last in owners if owner in wrapped), name)
            return self.saved_name(written_name)

        saved = [
            SavedTensor(written(name) if parameter.base else self.saved_name(name), parameter.shape, parameter.dtype)
            for name, parameter in parameters
            if parameter.trained or name in base or self.saves_frozen(parameter)
        ]
        return [*saved, *self.saved_again(parameters, model)]

    def saved_again(self, parameters: Sequence[tuple[str, ResidentTensor]], model: Model) -> Iterator[SavedTensor]:
        """Yield the tensors that `save_pretrained` writes in addition to trained parameters.

        For a whole model, these are buffers.
        """
        for buffer in model.named_buffers() if self.facts.trains_base else ():
            if buffer.persistent:
                dtype = parameters[0][1].dtype if buffer.dtype == "model" else buffer.dtype
                yield SavedTensor(buffer.name, buffer.shape, dtype)

    def saves_frozen(self, tensor: ResidentTensor) -> bool:  # noqa: ARG002
        """Return whether `save_pretrained` writes an added tensor that is not trained."""
        return False

    def saved_base_weights(self, model: Model) -> frozenset[str]:  # noqa: ARG002
        """Return frozen parameters of the base that `save_pretrained` writes too."""
        return frozenset()
