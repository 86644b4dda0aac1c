"""LoRA (Hu et al. 2021): a low-rank update beside frozen weights."""

from dataclasses import dataclass
from typing import ClassVar

from calculator.methods.settings import LowRank


@dataclass(frozen=True, slots=True, kw_only=True)
class LoRA(LowRank):
    """r · (in_features + out_features) parameters for each adapted matrix."""

    name: ClassVar[str] = "lora"
