"""Prompt tuning (Lester et al. 2021): learned embeddings in front of the input."""

from dataclasses import dataclass
from typing import ClassVar

from calculator.methods.base import Method
from calculator.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt(Method):
    """num_virtual_tokens · hidden_size parameters."""

    name: ClassVar[str] = "prompt"

    num_virtual_tokens: int = setting(
        20, label="Virtual tokens", help="Learned embeddings in front of the input.", minimum=1, maximum=1_000_000
    )
