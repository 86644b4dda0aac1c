"""The base class of prefix and prompt tuning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from calculator.checkpoint.safetensors_file import SavedTensor
from calculator.common.dtype import ITEMSIZE
from calculator.methods.base import Method

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.model import Model
    from calculator.resident.tensor import ResidentTensor


class VirtualTokens(Method, ABC):
    """A method that learns `num_virtual_tokens` virtual tokens."""

    __slots__ = ()

    @property
    @abstractmethod
    def num_virtual_tokens(self) -> int:
        """The number of virtual tokens, under the name of PEFT's setting."""

    @property
    def virtual_tokens(self) -> int:
        """The number of tokens in front of each sequence: all virtual tokens."""
        return self.num_virtual_tokens

    @property
    def label_parts(self) -> tuple[str, ...]:
        """The number of virtual tokens."""
        return (f"{self.num_virtual_tokens} virtual tokens",)

    def saved_tensors(self, parameters: Sequence[tuple[str, ResidentTensor]], model: Model) -> Sequence[SavedTensor]:
        """Return one tensor with a row for each virtual token (peft.utils.save_and_load.get_peft_model_state_dict)."""
        added = [parameter for _, parameter in parameters if not parameter.base]
        dtype, saved = added[0].dtype, self.saved_bytes(tuple(added), model)
        width = saved // (self.num_virtual_tokens * ITEMSIZE[dtype])
        return [SavedTensor("prompt_embeddings", (self.num_virtual_tokens, width), dtype)]

    def is_matmul(self, tensor: ResidentTensor) -> bool:  # noqa: ARG002
        """Return False: virtual tokens are looked up."""
        return False

    def is_read(self, tensor: ResidentTensor) -> bool:  # noqa: ARG002
        """Return False: a generated token reads the cache that they fill, not the table."""
        return False
