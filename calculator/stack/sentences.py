"""Sentences about library versions in an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.stack.changes import CHANGES, older_behavior

if TYPE_CHECKING:
    from calculator.inputs.stack import StackVersions
    from calculator.stack.change import ChangeName


def named(versions: StackVersions) -> str:
    """Return the libraries with their versions, as a phrase."""
    return (
        f"PyTorch {versions.torch} on CUDA, transformers {versions.transformers}, peft {versions.peft},"
        f" bitsandbytes {versions.bitsandbytes}"
    )


def differences(
    versions: StackVersions, model_type: str | None, *, left_out: frozenset[ChangeName] = frozenset()
) -> list[str]:
    """Return one sentence for each difference of older versions from the default ones, except for those left out."""
    names = older_behavior(versions, model_type) - left_out
    return [
        f"{change.package} {getattr(versions, change.package)}: {change.sentence} ({change.source})."
        for name, change in CHANGES.items()
        if name in names
    ]
