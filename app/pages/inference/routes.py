"""`/inference`, and its JSON version `/inference.json`."""

from typing import Any

from fastapi.responses import Response

from app.api import inference
from app.forms.fields import CARD, RESERVED, SERVED_STACK, SERVING
from app.forms.layout import gpu_choices, groups
from app.forms.plan_form import LONGEST_ADDRESS
from app.pages.form_routes import form_routes
from app.pages.inference.form import LABELS, InferenceForm, read
from app.presentation import inference_text, verdict
from app.presentation.consequences import consequences
from app.presentation.templates import page
from calculator.common.errors import PlanError
from calculator.estimation.traced.check import modeled_models
from calculator.inference.inference import inference as answer_to
from calculator.inference.request import parse_inference
from calculator.methods import METHODS


def inference_page(form: InferenceForm) -> Response:
    """Return the page of a form: its answer, or the typed text with error messages."""
    context: dict[str, Any] = {
        "address": f"/inference{form.address()}",
        "card_fields": CARD,
        "form": form,
        "gpu_choices": gpu_choices(),
        "groups": groups(),
        "inference_text": inference_text,
        "labels": LABELS,
        "methods": {name: cls.facts for name, cls in METHODS.items()},
        "models": modeled_models(),
        "consequences": consequences,
        "reserved_field": RESERVED[0],
        "serving_fields": SERVING,
        "stack_fields": SERVED_STACK,
        "shareable": len(form.address()) <= LONGEST_ADDRESS,
        "verdict_text": verdict,
    }
    try:
        answer = answer_to(parse_inference(form.body()))
    except PlanError as error:
        messages = form.messages(error.problems)
        return page(
            "inference/page.html",
            422,
            **context,
            answer=None,
            errors=messages,
            title="This inference can't be estimated",
        )
    gauge = verdict.gauge_of(inference_text.parts(answer), answer.fit)
    title = inference_text.title(answer)
    return page("inference/page.html", **context, answer=answer, errors={}, gauge=gauge, title=title)


router = form_routes("/inference", read, inference_page, inference)
