"""The form of the page `/run`: a plan's fields, and those of the rest of the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from app.forms import messages as form_messages
from app.forms import plan_form
from app.forms.fields import PHASES, RUN
from app.forms.layout import LABELS as PLAN_LABELS
from app.forms.plan_form import Form, non_default

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from calculator.common.errors import Problem

#: The typed text of the bare address.
DEFAULTS: dict[str, str] = {field.name: field.text(field.declared.default) for field in RUN} | {
    "eval_strategy": "epoch"
}

LABELS: dict[str, str] = {**PLAN_LABELS, **{field.name: field.declared.setting.label for field in RUN}}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunForm:
    """The plan, and the typed text of the fields of the rest of the run."""

    plan: Form
    typed: Mapping[str, str]

    @property
    def unknown(self) -> tuple[str, ...]:
        """The names in the address that no field has."""
        return self.plan.unknown

    def query(self) -> dict[str, str]:
        """Return the fields that differ from those of the bare address."""
        return {**self.plan.query(), **{name: text for name, text in self.typed.items() if text != DEFAULTS[name]}}

    def address(self) -> str:
        """Return the query string of this answer."""
        fields = self.query()
        return f"?{urlencode(fields)}" if fields else ""

    def diagnosis(self) -> str:
        """Return the query string of the page that explains an error of this run."""
        return urlencode({**self.plan.query(), **{field.name: self.typed[field.name] for field in PHASES}})

    def body(self) -> dict[str, Any]:
        """Return the request body.

        Raises:
            PlanError: if a pasted config cannot be read.
        """
        return {**self.plan.estimate(), "run": non_default(RUN, self.typed)}

    def messages(self, problems: Iterable[Problem]) -> dict[str, str]:
        """Return the problems by field; problems of no single field have the empty name."""
        typed = {**self.plan.typed, **self.typed}
        return form_messages.messages(problems, typed, self._field_of)

    def _field_of(self, loc: str) -> str:
        names = [field.name for field in RUN if loc == f"run.{field.declared.name}"]
        return names[0] if names else plan_form.field_of(loc, self.plan.method)


def read(pairs: Iterable[tuple[str, str]]) -> RunForm:
    """Return the form of an address or a submitted body."""
    given = list(pairs)
    run_fields = {name: text for name, text in given if name in DEFAULTS}
    plan = plan_form.read([pair for pair in given if pair[0] not in DEFAULTS])
    return RunForm(plan=plan, typed={**DEFAULTS, **run_fields})
