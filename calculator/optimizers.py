"""Optimizers by their Hugging Face names: the states they keep and the temporaries of a step."""

from dataclasses import dataclass
from typing import Literal

OptimizerName = Literal[
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_8bit",
    "adamw_bnb_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "sgd",
    "adafactor",
    "lion_8bit",
    "paged_lion_8bit",
    "lion_32bit",
    "paged_lion_32bit",
    "adagrad",
    "rmsprop",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """What an optimizer keeps and allocates (filled by the optimizer module's table)."""

    name: OptimizerName
