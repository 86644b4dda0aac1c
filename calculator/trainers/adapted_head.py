"""Checks for an output head with added parameters. A fused loss only reads the weight of the head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.methods.token_rows import DELTA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.trainers.subject import Subject


def problems(prepared: Subject, why: str, way_out: str) -> Iterator[Problem]:
    """Yield an adapter on the head, with the reason, and trained tokens of a tied head, with an alternative."""
    head = prepared.model.output
    added = prepared.module_spec(head.name, head).added
    if any(parameter.name.endswith(DELTA) for parameter in added):
        field = "token_indices" if prepared.method.name == "trainable_tokens" else "trainable_token_indices"
        message = f"tokens of the tied {head.name} are not modeled with a loss that reads its weight: {way_out}"
        yield Problem(loc=f"method.{field}", msg=message, input=head.name)
    elif added:
        yield Problem(loc="method.target_modules", msg=why, input=head.name)
