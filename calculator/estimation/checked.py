"""The checks and the remarks of a request that need no figures.

They are computed once for all requests that differ in sizes alone.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from calculator.common.deferred import Deferred
from calculator.common.errors import PlanError
from calculator.engine.symbolic_sizes import Texts
from calculator.estimation.answer import Remarks
from calculator.estimation.compatibility import check
from calculator.estimation.remarks import assumptions, warnings, without_sharding

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from calculator.architecture.model import Model
    from calculator.engine.symbolic_sizes import ShapeEnv
    from calculator.estimation.request import Request
    from calculator.inputs.training import Training
    from calculator.methods import Method
    from calculator.methods.prepared_model import PreparedModel
    from calculator.training_step.size_cache import SizeCache


class CheckedTrace:
    """The remarks on a request with symbolic sizes. Comparisons of sizes are guards."""

    __slots__ = ("_assumptions", "_shape_env", "_warnings")

    def __init__(self, request: Request, model: Model, shape_env: ShapeEnv, training: Training, method: Method) -> None:
        self._shape_env, shape_env.writes_places = shape_env, True
        remarks = checked(replace(request, training=training, method=method), model)()
        self._assumptions, self._warnings = Texts(remarks.assumptions), Texts(remarks.warnings)
        shape_env.eliminate_dead_code(self._assumptions.indices | self._warnings.indices)

    def with_sizes(self, sizes: Sequence[int]) -> Callable[[], Remarks] | None:
        """Return the remarks for other sizes, or None if a guard fails."""
        values = self._shape_env.evaluate(sizes)
        if values is None:
            return None
        return Deferred(partial(self._remarks, values))

    def _remarks(self, values: Sequence[int]) -> Remarks:
        return Remarks(self._assumptions.with_values(values), self._warnings.with_values(values))


def checked(
    request: Request, model: Model, prepared: Callable[[], PreparedModel] | None = None
) -> Callable[[], Remarks]:
    """Check a request, and return the remarks on it, which are written when they are first read.

    Raises:
        PlanError: if it can't be answered.
    """
    check(request, model, prepared)
    return Deferred(partial(_remarks, request, model))


def _remarks(request: Request, model: Model) -> Remarks:
    alone = without_sharding(request, model)
    return Remarks(assumptions(request, model, alone), warnings(request, model, alone))


def checked_by_sizes(
    request: Request,
    model: Model,
    cache: SizeCache[Callable[[], Remarks]],
    prepared: Callable[[], PreparedModel] | None = None,
) -> Callable[[], Remarks]:
    """Check a request, and return the remarks on it, which are written when they are first read.

    `cache` has those of requests that differ in sizes alone.

    Raises:
        PlanError: if it can't be answered.
    """
    if request.drawn is not None:
        return checked(request, model)
    plain, traced = partial(checked, request, model, prepared), partial(CheckedTrace, request, model)
    try:
        remarks = cache.for_settings(request.training, request.method, plain, traced)
    except PlanError:
        # The request is checked again below, because the sizes in this refusal may be symbolic.
        remarks = None
    return remarks or checked(request, model)
