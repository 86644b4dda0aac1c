"""`/plan`, and its JSON version `/plan.json`."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, get_args

from fastapi.responses import Response

from app.api import plan
from app.forms.fields import DEVICE_TYPE, MEMORY, NEEDS, PRICE, RESERVED, STACK, TRAINER, Field
from app.forms.layout import gpu_choices
from app.forms.plan_form import LONGEST_ADDRESS
from app.pages.form_routes import form_routes
from app.pages.parts import PageInParts, Part
from app.pages.plan import form as needs_form
from app.pages.plan.form import LABELS, SEVERAL, NeedsForm, read
from app.presentation import plan_text, speed_text
from app.presentation.changes import changes_text
from calculator.common.errors import PlanError, Problem
from calculator.estimation.traced.check import modeled_models
from calculator.planning.needs import Priority
from calculator.planning.plan import DevicePlan, answer_of, device_plans
from calculator.planning.request import PlanRequest, parse_plan


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
        "models": modeled_models(),
        "needs_fields": NEEDS,
        "several_fields": SEVERAL,
        "plan_text": plan_text,
        "price_field": PRICE,
        "speed_text": speed_text,
        "device_type_field": DEVICE_TYPE,
        "reserved_field": RESERVED[0],
        "trainer_fields": TRAINER,
        "stack_fields": STACK,
        "trainer_typed": _differs(form, TRAINER[1:]),
        "stack_typed": _differs(form, STACK),
        "shareable": len(form.address()) <= LONGEST_ADDRESS,
        "priorities": get_args(Priority),
        "answer": None,
        "errors": {},
        "title": "The configurations that fit",
    }
    page = PageInParts(template="plan/page.html", context=context, refusal=partial(_refusal, form))
    try:
        body = form.body()
        request = parse_plan(body)
    except PlanError as error:
        return page.refused(error.problems)
    return page.answered(_parts(request), body)


def _parts(request: PlanRequest) -> Iterator[Part]:
    several = len(request.models) * len(request.devices) > 1
    plans: list[DevicePlan] = []
    for part in device_plans(request):
        plans.append(part)
        title = plan_text.sentence(plans[0])
        context = {"number": len(plans), "part": part, "several_parts": several, "title": title}
        yield Part(template="plan/device.html", context=context)
    yield Part(template="plan/order.html", context={"answer": answer_of(request, plans)})


def _refusal(form: NeedsForm, problems: Sequence[Problem]) -> Part:
    context = {"errors": form.messages(problems), "title": "These needs can't be planned"}
    return Part(template="refusal.html", context=context, refuses=True)


def _differs(form: NeedsForm, fields: Iterable[Field]) -> bool:
    """Return whether a field has another text than its default."""
    return any(field.text(field.declared.default) != form.typed[field.name] for field in fields)


router = form_routes("/plan", read, plan_page, plan)
