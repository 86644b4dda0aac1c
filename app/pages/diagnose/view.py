"""The view of the page `/diagnose`: a message, the run that it ended, and the diagnosis of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from app.api.answers.diagnose import not_reproduced
from app.api.diagnose import Diagnosed, ReadCase, read_case
from app.forms.fields import DEVICE_TYPE, FIELDS, PHASES, RUN
from app.forms.plan_form import FILE, Form, filled, non_default, read, typed_request
from app.pages.hidden import with_hidden
from app.presentation.changes import OFFLOADS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calculator.common.errors import Problem
    from calculator.diagnosis.change import Change

MESSAGE, SNAPSHOT = "message", "snapshot"
LABELS = {
    MESSAGE: "The error",
    SNAPSHOT: "The snapshot",
    FILE: "The file",
    **{field.name: field.declared.setting.label for field in PHASES},
}

#: The reason that is stated with a setting of the file for which no page has a field.
_NOT_LINKED = "has no field on the pages that the changes link to: those figures do not include it, the figures here do"

#: The typed text of a run without an evaluation and a merge.
DEFAULTS: dict[str, str] = {field.name: field.text(field.declared.default) for field in PHASES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """The typed text of the fields of an evaluation and of merging."""

    typed: Mapping[str, str]

    @property
    def stated(self) -> bool:
        """Whether the run has one of them."""
        return self.typed != DEFAULTS

    def body(self) -> dict[str, Any]:
        """Return the run of a request. Empty if no field of it is set."""
        return {"run": non_default(PHASES, self.typed)} if self.stated else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A submitted message or snapshot, a file that describes the run, and the plan, which is the run without a file."""

    message: str
    #: In Base64.
    snapshot: str
    content: str
    plan: Form
    phases: Phases

    def read(self) -> ReadCase:
        """Return the case as the API reads it.

        Raises:
            PlanError: if the message, the file or the plan cannot be read.
        """
        plan = {**self.plan.estimate(), **self.phases.body()}
        error = {"message": self.message.strip() and self.message, "snapshot": self.snapshot}
        if not self.content.strip():
            return read_case({**error, "request": plan})
        given = {"device": plan["device"], **self.phases.body()}
        return read_case({**error, "content": self.content, "request": given})

    def errors(self, problems: tuple[Problem, ...]) -> dict[str, str]:
        """Return the problems by the page's fields; others have the name of the plan's field, or none."""
        messages: dict[str, str] = {}
        plan_problems = []
        for problem in problems:
            name = {MESSAGE: MESSAGE, SNAPSHOT: SNAPSHOT, "content": FILE, "format": FILE}.get(problem.loc)
            setting = problem.loc.removeprefix("request.").removeprefix("run.")
            if setting in DEFAULTS and problem.loc.removesuffix(setting).endswith("run."):
                name = setting
            text = problem.msg
            if name is None and self.content.strip():
                name, text = FILE, f"{problem.loc} {problem.msg}".strip()
            if name is None:
                plan_problems.append(problem)
            else:
                messages[name] = "; ".join(filter(None, (messages.get(name), text)))
        return (
            messages | {"": "; ".join(f"{wrong.loc}: {wrong.msg}" for wrong in plan_problems)}
            if plan_problems
            else messages
        )


def case_of(pairs: list[tuple[str, str]]) -> Case:
    """Return the case of an address or a submitted form."""
    fields = dict(pairs)
    run_names = {field.name for field in RUN}
    plan = read([(name, value) for name, value in pairs if name not in (MESSAGE, SNAPSHOT, *run_names)])
    return Case(
        phases=Phases(typed={**DEFAULTS, **{name: text for name, text in pairs if name in DEFAULTS}}),
        snapshot=fields.get(SNAPSHOT, ""),
        message=fields.get(MESSAGE, "").replace("\r\n", "\n"),
        content=fields.get(FILE, "").replace("\r\n", "\n"),
        plan=plan,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownDiagnosis:
    """A diagnosis with the form of its run."""

    diagnosed: Diagnosed
    form: Form

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about the content of the file that the request does not reproduce."""
        imported = self.diagnosed.imported
        return not_reproduced(imported and with_hidden(imported, _NOT_LINKED))

    def address(self, change: Change) -> str:
        """Return the address of the changed plan, or of the changed run; empty if the form has no field for it."""
        if any(path.rsplit(".", 1)[-1] in OFFLOADS for path in change.changes):
            return ""
        if change.run is not None:
            typed = {field.name: field.text(getattr(change.run, field.declared.name)) for field in PHASES}
            return f"/run?{urlencode({**self.form.query(), **typed})}"
        return f"/{self.form.address(**_typed(change))}"


def shown(case: Case, as_read: ReadCase) -> ShownDiagnosis:
    """Return the part of the page that shows a case.

    Raises:
        PlanError: if the run is not replayed.
    """
    result, form = as_read.diagnosed(), case.plan
    if result.imported is not None:
        device = {name: case.plan.typed[name] for name in ("gpu", DEVICE_TYPE.name)}
        form = filled(result.imported.request, result.imported.tool).changed(**device)
    return ShownDiagnosis(diagnosed=result, form=form)


def _typed(change: Change) -> dict[str, Any]:
    """Return the form fields of a change."""
    device_changes = {
        path.removeprefix("device."): value for path, value in change.changes.items() if "device." in path
    }
    return {
        **typed_request(change.request),
        **{name: FIELDS[name].text(value) for name, value in device_changes.items()},
    }
