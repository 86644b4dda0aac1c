"""Plans side by side, each given by the address of its page: the settings and tensors that differ."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from app.forms import plan_form
from app.forms.fields import FIELDS, METHOD_LABELS
from app.forms.layout import LABELS
from app.http.root_path import from_root
from app.presentation import verdict
from calculator.common.errors import PlanError, refusal
from calculator.comparison.plans import ComponentLine, SettingLine, component_lines, setting_lines
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from calculator.estimation.answer import Estimate
    from calculator.estimation.request import Request

#: The largest number of plans on one page.
MOST_PLANS = 6

#: The name of a plan's address in the address of the page.
INPUT = "plan"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedPlan:
    """An answered plan."""

    form: plan_form.Form
    request: Request
    estimate: Estimate

    @property
    def address(self) -> str:
        """The address of the plan's page."""
        return f"/{self.form.address()}"

    @property
    def label(self) -> str:
        """A short description."""
        model = self.estimate.model
        name = model.id or f"a {model.model_type or 'model'} of {model.parameters:,} parameters"
        card = f" on {verdict.device_name(self.estimate.fit)}" if self.estimate.fit else ""
        return f"{self.request.method.label}, {name}{card}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeLine:
    """A size in each plan."""

    label: str
    bytes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Plans side by side; the others are compared with the first."""

    plans: tuple[ComparedPlan, ...]

    @cached_property
    def settings(self) -> tuple[SettingLine, ...]:
        """The settings that differ."""
        return setting_lines([plan.request for plan in self.plans])

    @property
    def methods(self) -> frozenset[str]:
        """The names of the plans' methods."""
        return frozenset(plan.request.method.name for plan in self.plans)

    @cached_property
    def components(self) -> tuple[ComponentLine, ...]:
        """The peaks by component, with the rows that differ."""
        return component_lines([plan.estimate for plan in self.plans])

    def figures(self) -> Iterator[SizeLine]:
        """Yield the totals."""
        memories = [plan.estimate.memory for plan in self.plans]
        yield SizeLine(label="Required", bytes=tuple(memory.required_bytes for memory in memories))
        yield SizeLine(label="Peak, reserved", bytes=tuple(memory.peak_reserved_bytes for memory in memories))
        yield SizeLine(label="Peak, allocated", bytes=tuple(memory.peak_allocated_bytes for memory in memories))


def read(typed: str) -> plan_form.Form:
    """Return the plan form of an address: the link of a plan's page, or its query string alone.

    Raises:
        PlanError: if it is not the address of a plan.
    """
    if urlsplit(typed.strip()).path not in ("", "/", from_root("/")) and not _query_only(typed):
        raise refusal(INPUT, "is not the link of an estimate: copy the address of an estimate's page", typed)
    form = plan_form.read(_pairs(typed))
    if form.unknown:
        message = f"has {form.unknown[0]}, which is not a field of an estimate: copy the address of an estimate's page"
        raise refusal(INPUT, message, typed)
    return form


def _query_only(typed: str) -> bool:
    """Return whether it is a query string without the question mark."""
    return "?" not in typed and "=" in typed


def _pairs(typed: str) -> list[tuple[str, str]]:
    text = typed.strip()
    return parse_qsl(text if _query_only(text) else urlsplit(text).query, keep_blank_values=True)


def requested(typed: str) -> tuple[plan_form.Form, Request]:
    """Return the form of an address, and its request.

    Raises:
        PlanError: if it is not the address of a plan, or the request is invalid.
    """
    form = read(typed)
    return form, parse_request(form.estimate())


def compared(typed: str) -> ComparedPlan:
    """Return the answered plan of an address.

    Raises:
        PlanError: as `requested`, or if the plan is refused.
    """
    form, request = requested(typed)
    return ComparedPlan(form=form, request=request, estimate=estimate(request))


def reason(typed: str, error: PlanError) -> str:
    """Return why a plan is refused."""
    messages = plan_form.read(_pairs(typed)).messages(error.problems)
    return "; ".join(f"{LABELS[name]}: {message}" if name else message for name, message in messages.items())


def address_of(plans: Iterable[str]) -> str:
    """Return the address of the page for the addresses of plans."""
    pairs = [(INPUT, plan) for plan in plans if plan.strip()]
    return f"/difference?{urlencode(pairs)}" if pairs else "/difference"


def setting_label(path: str, methods: Collection[str] = ()) -> str:
    """Return the label of a setting, or its path in a request if the form does not have it.

    Settings of the same name can differ between methods: `methods` are those of the plans.
    """
    head, *rest = path.split(".")
    if path in ("model", "method.name"):
        return LABELS[head]
    name = rest[-1] if rest else head
    named = [field for field in FIELDS.values() if field.declared.name == name]
    named.sort(key=lambda field: field.method not in methods)
    return named[0].declared.setting.label if named else path


def setting_value(path: str, value: Any) -> str:
    """Return the text of a setting's value."""
    if value is None:
        return "–"
    if path == "method.name":
        return METHOD_LABELS[value]
    if isinstance(value, dict):
        return f"a config.json of {value.get('model_type', 'no model_type')}"
    if path == "model":
        return f"{value:,} parameters" if isinstance(value, int) else str(value)
    name = path.rsplit(".", 1)[-1]
    texts = (field.text(value) for field in FIELDS.values() if field.declared.name == name)
    return next(texts, None) or json.dumps(value, default=asdict)
