"""Trained tokens of LoRA: `trainable_token_indices` (peft.utils.other.TrainableTokensWrapper)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from calculator.common.errors import Problem
from calculator.methods import token_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.layers.bound_module import BoundModule
    from calculator.resident.module_spec import Added

#: What is before the names of the rows within a module.
INSIDE = "token_adapter."

REFUSES_UNMERGED = "with trainable_token_indices the copy of the table for each token is not counted"


class TrainsTokens(Protocol):
    """What a method states of the tokens that it trains."""

    @property
    def trainable_token_indices(self) -> tuple[int, ...] | None:
        """Their numbers, if there are any."""

    def is_saved(self, path: str) -> bool:
        """Return whether the module at a path is trained in full."""


def rows(method: TrainsTokens, path: str, model: Model, own: DType) -> tuple[Added, ...]:
    """The trained rows of a module that is no target."""
    indices = method.trainable_token_indices
    return token_rows.added(path, indices, model, own, INSIDE) if indices else ()


def titled(method: TrainsTokens, title: str) -> str:
    """The title of a method, with what else it trains."""
    return f"{title} with trainable_token_indices" if method.trainable_token_indices else title


def has(bound: BoundModule) -> bool:
    """Whether a module has trained rows."""
    return f"{INSIDE}{token_rows.DELTA}" in bound.added


def problems(method: TrainsTokens, model: Model, found: Mapping[str, Module]) -> Iterator[Problem]:
    """Tokens that the model does not have, and word embeddings that are adapted or copied too."""
    indices = method.trainable_token_indices
    if not indices:
        return
    loc, table, head = "method.trainable_token_indices", model.embedding.name, model.head
    yield from token_rows.problems(loc, indices, model)
    shares = head is not None and model.tied.get(f"{head}.weight") == f"{table}.weight"
    for path in (table, head) if shares else (table,):
        if path is not None and method.is_saved(path):
            message = f"PEFT trains all of {path} with modules_to_save: leave one of both out"
            yield Problem(loc=loc, msg=message, input=list(indices))
        elif path in found:
            reason = "PEFT can't train tokens of" if path == table else "trained tokens are not modelled with the tied"
            message = f"{reason} {path}, which LoRA adapts: exclude it, or leave the tokens out"
            yield Problem(loc=loc, msg=message, input=list(indices))
