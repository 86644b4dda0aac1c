"""A decorator for functions of a model alone."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.architecture.model import Model

R = TypeVar("R")


def per_model(compute: Callable[[Model], R]) -> Callable[[Model], R]:
    """Decorate a function of a model so that its result is cached with the model, which is never changed."""

    @wraps(compute)
    def call(model: Model) -> R:
        known = model.known
        if compute not in known:
            known[compute] = compute(model)
        result: R = known[compute]
        return result

    return call
