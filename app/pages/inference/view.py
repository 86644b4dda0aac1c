"""Serving in words, and its form: what is typed in the address bar as an inference's request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from app.forms import messages as form_messages
from app.forms import plan_form as form
from app.forms.fields import DEVICE, METHOD, Field, of
from app.pages.estimate.view import card_id
from app.presentation.format import number, size
from app.presentation.labels import COMPONENTS, Part, filled
from app.presentation.verdict import WORDS, of_fit
from calculator.inference.settings import Serving

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from calculator.common.errors import Problem
    from calculator.common.names import PassName
    from calculator.inference.answer import Inference

SERVING = of("serving", Serving)

#: The card, of which one is enough.
CARD = tuple(field for field in DEVICE if field.name in ("gpu", "memory_gib"))

FIELDS: dict[str, Field] = {field.name: field for group in (*METHOD.values(), CARD, SERVING) for field in group}

PASSES: dict[PassName, str] = {
    "prefill": "the prompt",
    "first_decode": "the token after it",
    "last_decode": "the last token",
}

COSTS = {
    "operations_per_token": "Operations a token",
    "bytes_read_per_token": "Bytes read a token",
    "kv_cache_bytes": "Bytes of the cache",
    "resident_bytes": "Bytes of weights",
}

#: What components are here, where that is something else than in training.
MEANINGS = {
    "activations": "what the pass works on, and ids",
    "logits_and_loss": "a score for each token of the vocabulary, of the last position",
}

#: What the page serves before anything is asked of it, where that differs from the API's defaults.
FIRST: dict[str, str] = {
    "model": "meta-llama/Llama-3.1-8B",
    "config": "",
    "gpu": "rtx-4090",
    "method": "lora",
    "r": "16",
    "tasks": "4",
}

DEFAULTS: dict[str, str] = {
    **FIRST,
    **{name: field.text(field.declared.default) for name, field in FIELDS.items() if name not in FIRST},
}

LABELS: dict[str, str] = {
    "model": "Model",
    "config": "config.json",
    "method": "Method",
    **{name: field.declared.setting.label for name, field in FIELDS.items()},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingForm:
    """What is typed, by input, and the names in the address that no input has."""

    typed: Mapping[str, str]
    unknown: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        """The chosen method's name."""
        return self.typed["method"]

    @property
    def card(self) -> str:
        """The id of the card that is typed; empty where the catalogue lacks it."""
        return card_id(self.typed["gpu"])

    def address(self, **changes: str) -> str:
        """The query that leads to this answer, with changes: what differs from the first view."""
        typed = {**self.typed, **changes}
        query = {name: value for name, value in typed.items() if value != DEFAULTS[name]}
        if query.get("config", "").strip():
            query.pop("model", None)
        return f"?{urlencode(query)}" if query else ""

    def body(self) -> dict[str, Any]:
        """The body of the request.

        Raises:
            PlanError: where a pasted config can't be read.
        """
        method = {"name": self.method, **form.said(METHOD.get(self.method, ()), self.typed)}
        return {
            "model": form.model_typed(self.typed),
            "method": method,
            "serving": form.said(SERVING, self.typed),
            "device": form.said(CARD, self.typed),
        }


def read(pairs: Iterable[tuple[str, str]]) -> ServingForm:
    """The form as an address or a posted body gives it; the last of several values counts, what is absent is usual."""
    given = dict(pairs)
    typed = {name: given.get(name, usual) for name, usual in DEFAULTS.items()}
    if typed["config"].strip():
        typed["config"] = form.compact(typed["config"])
        typed["model"] = ""
    return ServingForm(typed=typed, unknown=tuple(sorted(given.keys() - DEFAULTS.keys())))


def address_of(plan: form.Form, **how: str) -> str:
    """The address that serves what a plan tunes, on its card, with what is told of how."""
    names = ("model", "config", "gpu", "memory_gib", "method", *(field.name for field in METHOD.get(plan.method, ())))
    typed = {**DEFAULTS, **{name: plan.typed[name] for name in names}, **how}
    return f"/inference{ServingForm(typed=typed).address()}"


def messages(typed: ServingForm, problems: Iterable[Problem]) -> dict[str, str]:
    """What is wrong, by input; what is of no single input stands under the empty name."""
    return form_messages.messages(problems, typed.typed, _input_of)


def _input_of(loc: str) -> str:
    parts = loc.split(".")
    if parts[0] == "model":
        return "config" if parts[1:2] == ["config"] else "model"
    if parts[:2] == ["method", "name"] or loc == "method":
        return "method"
    if loc == "device":
        return "gpu"
    return next((field.name for field in FIELDS.values() if field.declared.name == parts[-1]), "")


def model_name(answer: Inference) -> str:
    """The model in words."""
    return answer.model.id or f"a {answer.model.model_type} of {answer.model.parameters:,} parameters"


def how(answer: Inference) -> str:
    """How it is served, in words."""
    serving = answer.serving
    prompts = "1 prompt" if serving.batch_size == 1 else f"{number(serving.batch_size)} prompts"
    tasks = "" if serving.tasks == 1 else f", {number(serving.tasks)} tasks on the card"
    merged = ", merged" if serving.merged else ""
    answers = f"{number(serving.max_new_tokens)} more generated"
    return f"{prompts} of {number(serving.context_length)} tokens, {answers}{tasks}{merged}"


def sentence(answer: Inference) -> str:
    """Whether it fits and by how much."""
    return of_fit(answer.memory.required_bytes, answer.fit)


def why(answer: Inference) -> str:
    """When the peak is, and what is largest then."""
    memory = answer.memory
    largest = sorted(memory.components, key=lambda component: -component.bytes)[:2]
    largest_parts = " and ".join(f"{COMPONENTS[part.name].label.lower()} ({size(part.bytes)})" for part in largest)
    return (
        f"The peak is in the pass of {PASSES[memory.peak_pass]}, at “{memory.peak_operation}”: mostly {largest_parts}."
    )


def parts(answer: Inference) -> tuple[Part, ...]:
    """What is required, component by component."""
    return filled(answer.memory.components, answer.memory.required_bytes)


def title(answer: Inference) -> str:
    """The page's title."""
    subject = f"serving {answer.method.facts.label} of {model_name(answer)}"
    return f"{WORDS[answer.fit.verdict]}: {subject}" if answer.fit else f"{subject[:1].upper()}{subject[1:]}"
