"""Full fine-tuning: every weight is trained."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Full:
    """Every weight of the base model is trained; nothing is added."""

    name: ClassVar[str] = "full"
