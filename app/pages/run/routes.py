"""`/run`, and its JSON version `/run.json`."""

from typing import Any

from fastapi.responses import Response

from app.api import run
from app.forms.fields import RUN
from app.forms.plan_form import LONGEST_ADDRESS
from app.pages.form_routes import form_routes
from app.pages.run.form import LABELS, RunForm, read
from app.presentation import run_text, speed_text
from app.presentation.templates import page
from calculator.common.errors import PlanError
from calculator.run.request import parse_run
from calculator.run.run import whole_run


def _run_page(form: RunForm) -> Response:
    address = form.address()
    context: dict[str, Any] = {
        "address": address,
        "form": form,
        "hidden": form.plan.query(),
        "labels": LABELS,
        "run_fields": RUN,
        "run_text": run_text,
        "speed_text": speed_text,
        "shareable": len(address) <= LONGEST_ADDRESS,
    }
    try:
        answer = whole_run(parse_run(form.body()))
    except PlanError as error:
        title = "This run can't be estimated"
        return page("run/page.html", 422, **context, answer=None, errors=form.messages(error.problems), title=title)
    return page("run/page.html", **context, answer=answer, errors={}, title=run_text.title(answer))


router = form_routes("/run", read, _run_page, run)
