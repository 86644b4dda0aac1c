"""Prefix tuning (Li & Liang 2021): learned keys and values in every layer."""

from dataclasses import dataclass
from typing import ClassVar

from calculator.methods.base import Method
from calculator.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix(Method):
    """2 · num_virtual_tokens · (num_key_value_heads · head_dim) · num_hidden_layers parameters."""

    name: ClassVar[str] = "prefix"

    num_virtual_tokens: int = setting(
        20,
        label="Virtual tokens",
        help="Learned positions in front of each layer's keys.",
        minimum=1,
        maximum=1_000_000,
    )
    prefix_projection: bool = setting(
        False, label="Prefix projection", help="Train an MLP that produces the prefix (section 4.3 of the paper)."
    )
