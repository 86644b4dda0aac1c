"""A stack in the sentences of an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.stack.changes import CHANGES, OF_STEPS, older_behaviour

if TYPE_CHECKING:
    from calculator.inputs.stack import StackVersions


def named(versions: StackVersions) -> str:
    """Return the libraries of a stack with their releases."""
    return (
        f"PyTorch {versions.torch} on CUDA, transformers {versions.transformers}, peft {versions.peft},"
        f" bitsandbytes {versions.bitsandbytes}"
    )


def differences(versions: StackVersions, model_type: str | None, *, trains: bool = True) -> list[str]:
    """Return what an older stack does differently from the default one in a step or a pass, a sentence per change."""
    names = older_behaviour(versions, model_type) - (frozenset() if trains else OF_STEPS)
    return [
        f"{change.package} {getattr(versions, change.package)}: {change.sentence} ({change.source})."
        for name, change in CHANGES.items()
        if name in names
    ]
