"""The garbage collector, which waits while a request is answered.

A step is interpreted as some hundred thousand objects that reference counts free. The collector looks at them again and
again and finds few cycles: with it, an estimate needs 10 to 25 % longer.
"""

from __future__ import annotations

import gc
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


def without_collections(answer: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function: no cycle is collected while it runs, unless another thread enables that meanwhile."""

    @wraps(answer)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not gc.isenabled():
            return answer(*args, **kwargs)
        gc.disable()
        try:
            return answer(*args, **kwargs)
        finally:
            gc.enable()

    return call
