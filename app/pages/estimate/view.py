"""The view of the estimate page: the compared methods, savings, and the GPUs that fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.engines.engine import answered, with_way_out
from app.forms.fields import FIELDS
from app.forms.plan_form import typed_request
from calculator import catalogue
from calculator.common.errors import PlanError
from calculator.comparison.methods import ComparisonRow, cards, parse_comparison, side_by_side
from calculator.devices import Verdict
from calculator.estimation.request import parse_request
from calculator.estimation.traced.check import is_traced
from calculator.families import FAMILIES
from calculator.limit_search.fewest import on_one_node
from calculator.limit_search.limits import LimitRequest, limit
from calculator.methods import METHODS
from calculator.planning.suggestions import suggestions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from app.engines.engine import Client
    from app.forms.plan_form import Form
    from calculator.common.names import TaskName
    from calculator.devices import Fit
    from calculator.estimation.answer import Estimate
    from calculator.estimation.request import Request
    from calculator.inputs.device import Device
    from calculator.limit_search.limit import Limit
    from calculator.planning.suggestions import Suggestion


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """An answered form: one row per method."""

    form: Form
    rows: tuple[ComparisonRow, ...]

    @property
    def chosen(self) -> ComparisonRow:
        """The row of the selected method."""
        return next(row for row in self.rows if row.method.name == self.form.method)

    @property
    def model_name(self) -> str:
        """The model's id, or its family and size."""
        model = next(row.estimate for row in self.rows if row.estimate).model
        return model.id or f"a {model.model_type or 'model'} of {model.parameters:,} parameters"

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The estimates by method label; for a refused method, that of the closest accepted alternative."""
        shown: dict[str, Estimate] = {}
        for row in self.rows:
            if row.estimate:
                shown[row.method.label] = row.estimate
            elif row.alternative:
                shown[f"{row.method.label} *"] = row.alternative.estimate
        return shown

    def changes(self, row: ComparisonRow) -> dict[str, str]:
        """Return the form fields that select a row: its method, and if it is refused, its alternative's settings."""
        changes: dict[str, str] = {"method": row.method.name}
        if row.estimate is None and row.alternative:
            changes |= _typed(row.alternative.changes)
        return changes


def requests_of(form: Form) -> tuple[Request, ...]:
    """Return a request for each method that a form compares.

    Raises:
        PlanError: if the form is invalid.
    """
    if form.method not in METHODS:
        parse_request(form.estimate())
    return parse_comparison(form.comparison())


def comparisons(form: Form, requests: Sequence[Request], client: Client | None = None) -> Iterator[Comparison]:
    """Answer a form: first with the selected method, unless it is refused, then with every method.

    A trace answers the selected method alone.

    Raises:
        PlanError: if every method is refused, with the problems of the selected one.
        HTTPProblem: 503, if too many traces wait, or the client has gone.
    """
    chosen = next(request for request in requests if request.method.name == form.method)
    if is_traced(chosen):
        row = ComparisonRow(method=chosen.method, estimate=answered(chosen, client))
        yield Comparison(form=form, rows=(row,))
        return
    chosen_rows = side_by_side((chosen,))
    if chosen_rows[0].estimate is not None:
        yield Comparison(form=form, rows=chosen_rows)
    rows = tuple(chosen_rows[0] if request is chosen else side_by_side((request,))[0] for request in requests)
    if not any(row.estimate for row in rows):
        raise with_way_out(PlanError(*chosen_rows[0].problems), chosen)
    yield Comparison(form=form, rows=rows)


def _typed(changes: Mapping[str, object]) -> dict[str, str]:
    return {name: FIELDS[name].text(value) for loc, value in changes.items() for name in (loc.split(".")[-1],)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggested:
    """A change that saves memory, and the form fields that it changes."""

    suggestion: Suggestion
    changes: dict[str, str]


def similar_models(form: Form) -> tuple[str, ...]:
    """Return the names of models that are similar to a form's, which is not in the catalogue."""
    name = form.typed["model"].strip()
    return tuple(catalogue.similar(name)) if name and not form.typed["config"].strip() else ()


def modelled_tasks(form: Form) -> tuple[TaskName, ...]:
    """Return the tasks for which a form's model is modeled, if it is not modeled as a causal language model."""
    try:
        reference = parse_request(form.estimate()).model
        config = catalogue.model(reference.id).config if reference.id is not None else reference.config
    except PlanError:
        return ()
    family = FAMILIES.get(str((config or {}).get("model_type")))
    return tuple(family.tasks) if family is not None and family.forward is None else ()


def fewest_gpus(request: Request, answer: Estimate) -> Limit | None:
    """Return the fewest GPUs on which a run fits that does not fit now. None if GPUs do not divide its state."""
    if answer.fit is None or answer.fit.verdict is not Verdict.DOES_NOT_FIT or request.device.sharded_over is None:
        return None
    return limit(LimitRequest(request=on_one_node(request), solve_for="count"))


def suggested(form: Form, request: Request, answer: Estimate) -> tuple[Suggested, ...]:
    """Return changes that save memory, the largest saving first. Empty for a traced plan."""
    if answer.engine == "traced":
        return ()

    def changes(suggestion: Suggestion) -> dict[str, str]:
        return {name: value for name, value in typed_request(suggestion.request).items() if value != form.typed[name]}

    return tuple(Suggested(suggestion=change, changes=changes(change)) for change in suggestions(request, answer))


@dataclass(frozen=True, slots=True, kw_only=True)
class CardGroup:
    """GPUs with the same memory on the data sheet and the same verdict, by ascending usable memory."""

    memory_gb: int
    fits: tuple[Fit, ...]

    @property
    def least(self) -> Fit:
        """The GPU with the least usable memory."""
        return self.fits[0]


def card_groups(estimate: Estimate, attention: str, device: Device) -> tuple[CardGroup, ...]:
    """Return every GPU that supports the attention implementation, grouped by memory and verdict, smallest first."""

    def key(fit: Fit) -> tuple[int, str]:
        assert fit.gpu is not None
        return fit.gpu.memory_gb, fit.verdict

    ordered = sorted(cards(estimate, attention, device), key=lambda fit: (key(fit)[0], fit.usable_bytes))
    groups: dict[tuple[int, str], list[Fit]] = {}
    for fit in ordered:
        groups.setdefault(key(fit), []).append(fit)
    return tuple(CardGroup(memory_gb=size, fits=tuple(fits)) for (size, _), fits in groups.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class NearestSizes:
    """The smallest group of GPUs that fits, and the groups around it."""

    smallest: CardGroup | None
    groups: tuple[CardGroup, ...]


def nearest_sizes(groups: tuple[CardGroup, ...]) -> NearestSizes:
    """Return the smallest group that fits with two below and five above, or the four largest if none fits."""
    first = next((i for i, group in enumerate(groups) if group.least.verdict is Verdict.FITS), None)
    if first is None:
        return NearestSizes(smallest=None, groups=groups[-4:])
    return NearestSizes(smallest=groups[first], groups=groups[max(0, first - 2) : first + 6])
