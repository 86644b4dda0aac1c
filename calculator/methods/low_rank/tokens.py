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

#: The prefix of the names of the rows within a module.
INSIDE = "token_adapter."
_ROWS = f"{INSIDE}{token_rows.DELTA}"

#: The shardings under which the reference step with trained tokens is compared with traces.
SHARDINGS = ("ddp", "fsdp", "zero1", "zero2", "zero3")

REFUSES_UNMERGED = "with trainable_token_indices the copy of the table for each token is not counted"


class TrainsTokens(Protocol):
    """The settings of a method that trains tokens."""

    @property
    def trainable_token_indices(self) -> tuple[int, ...] | None:
        """The indices of the trained tokens, if there are any."""

    def is_saved(self, path: str) -> bool:
        """Return whether the module at a path is trained in full."""


def rows(method: TrainsTokens, path: str, model: Model, dtype: DType) -> tuple[Added, ...]:
    """Return the trained rows of a module that is not a target."""
    indices = method.trainable_token_indices
    return token_rows.added(path, indices, model, dtype, INSIDE) if indices else ()


def titled(method: TrainsTokens, title: str) -> str:
    """Return the title of a method, with what else it trains."""
    return f"{title} with trainable_token_indices" if method.trainable_token_indices else title


def has(bound: BoundModule) -> bool:
    """Return whether a module has trained rows."""
    return _ROWS in bound.added


def problems(method: TrainsTokens, model: Model, targets: Mapping[str, Module]) -> Iterator[Problem]:
    """Yield tokens that the model does not have, and word embeddings that are also adapted or copied."""
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
        elif path in targets:
            reason = "PEFT can't train tokens of" if path == table else "trained tokens are not modeled with the tied"
            message = f"{reason} {path}, which LoRA adapts: exclude it, or leave the tokens out"
            yield Problem(loc=loc, msg=message, input=list(indices))
