"""The memory of fine-tuning runs: pure Python, standard library only.

The names of `__all__` are the Python interface, which docs/python.md describes. They are imported when they are first
read, because most modules of this package need few of the others.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calculator.public import (
        ComparisonRow,
        Device,
        Estimate,
        Limit,
        Needs,
        Plan,
        PlanError,
        StackVersions,
        Training,
        compare,
        estimate,
        limits,
        plan,
    )

__all__ = [
    "ComparisonRow",
    "Device",
    "Estimate",
    "Limit",
    "Needs",
    "Plan",
    "PlanError",
    "StackVersions",
    "Training",
    "compare",
    "estimate",
    "limits",
    "plan",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("calculator.public"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
