"""The base class of prefix and prompt tuning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from calculator.methods.base import Method

if TYPE_CHECKING:
    from calculator.resident.tensors import ResidentTensor


class VirtualTokens(Method, ABC):
    """A method that learns `num_virtual_tokens` virtual tokens."""

    __slots__ = ()

    @property
    @abstractmethod
    def num_virtual_tokens(self) -> int:
        """The number of virtual tokens, as PEFT's setting is called."""

    @property
    def virtual_tokens(self) -> int:
        """All of them are in front of each sequence."""
        return self.num_virtual_tokens

    @property
    def label_parts(self) -> tuple[str, ...]:
        """The number of virtual tokens."""
        return (f"{self.num_virtual_tokens} virtual tokens",)

    def is_matmul(self, tensor: ResidentTensor) -> bool:  # noqa: ARG002
        """Virtual tokens are looked up."""
        return False

    def is_read(self, tensor: ResidentTensor) -> bool:  # noqa: ARG002
        """A generated token reads the cache that they fill, not the table."""
        return False
