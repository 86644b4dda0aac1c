"""The parts of the estimate page's answer, each computed when it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.forms.plan_form import FILE
from app.interop.downloads import downloads
from app.pages.estimate import view
from app.pages.parts import Part
from app.pages.plan import form as needs_form
from app.presentation import verdict
from app.presentation.charts import history_figure, methods_figure, timeline_figure
from calculator.estimation.request import parse_request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from app.engines.engine import Client
    from app.forms.plan_form import Form
    from calculator.common.errors import Problem
    from calculator.estimation.answer import Estimate
    from calculator.estimation.request import Request


def answer(form: Form, requests: tuple[Request, ...], client: Client | None) -> Iterator[Part]:
    """Yield the parts of the answer to a form and its requests. Yield a refusal if its method is refused.

    Raises:
        PlanError: if every method is refused.
        HTTPProblem: 503, if the plan is traced, and too many traces wait or the client has gone.
    """
    comparisons = view.comparisons(form, requests, client)
    comparison = next(comparisons)
    chosen = comparison.chosen.estimate
    if chosen is None:
        messages = form.messages(comparison.chosen.problems)
        yield _refused(form, messages, {"plan": comparison})
        return
    body = form.estimate()
    request = parse_request(body)
    yield Part(template="estimate/chosen.html", context=_chosen_context(comparison, request, chosen))
    for comparison in comparisons:
        figure = methods_figure(comparison.estimates, chosen.fit)
        yield Part(template="estimate/methods.html", context={"figure": figure, "plan": comparison})
    yield Part(
        template="estimate/changes.html",
        context={
            "needs_address": needs_form.address_of(form, request),
            "suggested": view.suggested(form, request, chosen),
        },
    )
    yield Part(
        template="estimate/further.html",
        context={"history": history_figure(chosen.memory), "timeline": timeline_figure(chosen.memory)},
    )
    card_groups = view.card_groups(chosen, request.training.attention, request.device)
    yield Part(
        template="estimate/cards.html",
        context={
            "attention": request.training.attention,
            "card_groups": card_groups,
            "nearest": view.nearest_sizes(card_groups),
        },
    )
    yield Part(
        template="estimate/end.html",
        context={
            "downloads": downloads(request, chosen) if chosen.engine == "calculator" else (),
            "request": body,
        },
    )


def _chosen_context(comparison: view.Comparison, request: Request, chosen: Estimate) -> dict[str, Any]:
    return {
        "estimate": chosen,
        "fewest": view.fewest_gpus(request, chosen),
        "gauge": verdict.gauge(chosen),
        "memory": chosen.memory,
        "plan": comparison,
        "title": _title(comparison, chosen),
    }


def refusal(form: Form, problems: Sequence[Problem]) -> Part:
    """Return the part that states problems of a form, or of the file that it is from."""
    wrong_file = any(problem.loc == FILE for problem in problems)
    messages = {FILE: problems[0].msg} if wrong_file else form.messages(problems)
    return _refused(form, messages, {"title": "This file can't be planned"} if wrong_file else {})


def _refused(form: Form, messages: Mapping[str, str], context: Mapping[str, Any]) -> Part:
    return Part(
        template="estimate/refusal.html",
        context={
            "errors": messages,
            "plan": None,
            "problems": messages,
            "similar": view.similar_models(form) if "not in the catalogue" in messages.get("model", "") else (),
            "tasks": view.modelled_tasks(form) if "task" in messages else (),
            "title": "This run can't be estimated",
            **context,
        },
        refuses=True,
    )


def _title(comparison: view.Comparison, chosen: Estimate) -> str:
    subject = f"{comparison.chosen.method.label} on {comparison.model_name}"
    return f"{verdict.VERDICTS[chosen.fit.verdict]}: {subject}" if chosen.fit else subject
