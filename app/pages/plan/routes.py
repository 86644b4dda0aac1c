"""`/plan`, and its JSON version `/plan.json`."""

from collections.abc import Iterable
from typing import Any, get_args

from fastapi.responses import Response

from app.api import plan
from app.forms.fields import MEMORY, NEEDS, PRICE, RESERVED, STACK, TRAINER, Field
from app.forms.layout import gpu_choices
from app.forms.plan_form import LONGEST_ADDRESS
from app.pages.form_routes import form_routes
from app.pages.plan import form as needs_form
from app.pages.plan.form import LABELS, SEVERAL, NeedsForm, read
from app.presentation import plan_text, speed_text
from app.presentation.changes import changes_text
from app.presentation.templates import page
from calculator import catalogue
from calculator.common.errors import PlanError
from calculator.planning.needs import Priority
from calculator.planning.plan import plan as answer_to
from calculator.planning.request import parse_plan


def plan_page(form: NeedsForm) -> Response:
    """Return the page of a form: the configurations, or the typed text with error messages."""
    context: dict[str, Any] = {
        "address": f"/plan{form.address()}",
        "changes_text": changes_text,
        "form": form,
        "gpu_choices": gpu_choices(),
        "labels": LABELS,
        "links": needs_form,
        "memory_field": MEMORY,
        "models": catalogue.models(),
        "needs_fields": NEEDS,
        "several_fields": SEVERAL,
        "plan_text": plan_text,
        "price_field": PRICE,
        "speed_text": speed_text,
        "reserved_field": RESERVED[0],
        "trainer_fields": TRAINER,
        "stack_fields": STACK,
        "trainer_typed": _differs(form, TRAINER[1:]),
        "stack_typed": _differs(form, STACK),
        "shareable": len(form.address()) <= LONGEST_ADDRESS,
        "priorities": get_args(Priority),
    }
    try:
        answer = answer_to(parse_plan(form.body()))
    except PlanError as error:
        messages = form.messages(error.problems)
        return page(
            "plan/page.html", 422, **context, answer=None, errors=messages, title="These needs can't be planned"
        )
    return page("plan/page.html", **context, answer=answer, errors={}, title=plan_text.sentence(answer.plans[0]))


def _differs(form: NeedsForm, fields: Iterable[Field]) -> bool:
    """Return whether a field has another text than its default."""
    return any(field.text(field.declared.default) != form.typed[field.name] for field in fields)


router = form_routes("/plan", read, plan_page, plan)
