"""The plan form: typed text as a request, and a request as typed text."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from app.forms import messages as form_messages
from app.forms import tool_fields
from app.forms.fields import (
    CHOICES,
    DEVICE,
    DEVICE_TYPE,
    DEVICE_TYPE_OF_FORMS,
    FIELDS,
    METHOD,
    STACK,
    TRAINING,
    Field,
    set_at,
    value_at,
    without_commas,
)
from app.forms.typed_form import TypedForm
from app.http.bodies import parse_json
from app.tools import tool_of
from calculator.common.errors import refusal
from calculator.methods import METHODS, USUAL_METHODS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from app.tools import Tool
    from calculator.common.errors import Problem
    from calculator.estimation.request import Request

#: The plan of the bare address, where it differs from the API's defaults.
FIRST_PLAN: dict[str, str] = {
    "model": "meta-llama/Llama-3.1-8B",
    "config": "",
    "gpu": "rtx-4090",
    "device_type": DEVICE_TYPE_OF_FORMS,
    "method": "qlora",
    "r": "16",
    "target_modules": "all-linear",
    "gradient_checkpointing": "true",
}

#: The field of further methods that are compared: a checkbox each, or their names with commas.
COMPARED = "compared"

DEFAULTS: dict[str, str] = {
    **FIRST_PLAN,
    tool_fields.TOOL: "",
    COMPARED: "",
    **{name: field.text(field.declared.default) for name, field in FIELDS.items() if name not in FIRST_PLAN},
}

#: The field for another tool's file. The form submits it, but it is not part of a plan.
FILE = "content"

#: The fields that have no effect on a model that classifies images. Its config decides the tokens of an image.
OF_TEXTS = ("sequence_length", "target_length", "sequence_lengths", "padding")

#: The longest address that a page links to, in characters; some programs truncate longer ones.
LONGEST_ADDRESS = 8000

#: The longest address that a page repeats in hundreds of links. Above it, buttons submit the form with a change.
LONGEST_REPEATED = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Form(TypedForm):
    """The typed text of every field of a plan."""

    defaults = DEFAULTS

    #: The batch before the tool raised it; empty if it did not.
    raised_from: str = ""

    @property
    def method(self) -> str:
        """The name of the selected method."""
        return self.typed["method"]

    @property
    def compared(self) -> tuple[str, ...]:
        """The names of the compared methods: the usual ones, the selected one, and those that are ticked."""
        return tuple(dict.fromkeys((*USUAL_METHODS, self.method, *self.ticked)))

    @property
    def ticked(self) -> tuple[str, ...]:
        """The names of the methods that are compared in addition to the usual ones."""
        return tuple(name.strip() for name in self.typed[COMPARED].split(",") if name.strip())

    @property
    def shown_methods(self) -> tuple[str, ...]:
        """The methods whose settings the form shows."""
        return self.compared

    @property
    def unused(self) -> tuple[str, ...]:
        """The fields of texts in a plan of images, unless something is typed there."""
        if self.typed["task"] != "image_cls":
            return ()
        return tuple(name for name in OF_TEXTS if self.typed[name] == DEFAULTS[name])

    @property
    def tool(self) -> Tool | None:
        """The tool whose trainer the plan has; None if no trainer has the typed name."""
        return tool_of(self.typed[tool_fields.TOOL], self.typed["trainer"].strip())

    def shown(self, name: str) -> str:
        """Return the typed text of a declared field, or its default if it is empty."""
        return self.typed[name].strip() or FIELDS[name].default_text

    @property
    def in_words(self) -> str:
        """The run in a line, without its GPU."""
        method = METHODS[self.method].facts.label if self.method in METHODS else self.method
        model = self.typed["model"] or "the model of a config.json"
        batch, tokens = (_grouped(self.shown(name)) for name in ("micro_batch_size", "sequence_length"))
        return f"{method} on {model}, micro-batch {batch}, {tokens} tokens"

    def changed(self, **changes: str) -> Form:
        """Return the form with other text in some fields."""
        return replace(self, typed={**self.typed, **changes})

    def comparison(self) -> dict[str, Any]:
        """Return the request body that compares the methods with the settings typed for each.

        Raises:
            PlanError: if a pasted config cannot be read.
        """
        methods = [{"name": name, **non_default(METHOD.get(name, ()), self.typed)} for name in self.compared]
        return {"model": typed_model(self.typed), "methods": methods, **self._common()}

    def estimate(self) -> dict[str, Any]:
        """Return the request body of the selected method's estimate.

        Raises:
            PlanError: if a pasted config cannot be read.
        """
        method = {"name": self.method, **non_default(METHOD.get(self.method, ()), self.typed)}
        return {"model": typed_model(self.typed), "method": method, **self._common()}

    def messages(self, problems: Iterable[Problem]) -> dict[str, str]:
        """Return the problems by field; problems of no single field have the empty name."""
        return form_messages.messages(problems, self.typed, partial(field_of, method=self.method))

    def _common(self) -> dict[str, Any]:
        return {
            "training": non_default(TRAINING, self.typed),
            "device": non_default(DEVICE, self.typed),
            **_named("stack", non_default(STACK, self.typed)),
            **non_default(CHOICES, self.typed),
        }


def _grouped(typed: str) -> str:
    """Return a number with separators of thousands, or any other text unchanged."""
    return f"{int(typed):,}" if typed.isdecimal() else typed


def _named(name: str, values: dict[str, Any]) -> dict[str, Any]:
    return {name: values} if values else {}


def read(pairs: Iterable[tuple[str, str]]) -> Form:
    """Return the form of an address or a submitted body. The last of several values counts; others get defaults.

    A checkbox follows a hidden "false" of the same name, so that an unticked one is submitted too.
    """
    given = list(pairs)
    ticked = ",".join(value for name, value in given if name == COMPARED and value)
    submitted = {**dict(given), **({COMPARED: ticked} if ticked else {})}
    typed, unknown = typed_fields(
        submitted.items(), DEFAULTS, ignored={FILE, tool_fields.SHOWN, tool_fields.RAISED_FROM}
    )
    changed = {**typed, **tool_fields.chosen(submitted, typed, DEFAULTS)}
    before = tool_fields.batch_before(submitted, typed)
    return Form(typed=changed, unknown=unknown, raised_from="" if before == changed[tool_fields.BATCH] else before)


def read_strictly(pairs: Iterable[tuple[str, str]]) -> Form:
    """Return the form of an address.

    Raises:
        PlanError: if the address has a name that no field has.
    """
    form = read(pairs)
    if form.unknown:
        raise refusal(form.unknown[0], "unknown parameter: only the fields of the plan page are accepted", None)
    return form


def typed_fields(
    pairs: Iterable[tuple[str, str]], defaults: Mapping[str, str], ignored: Iterable[str] = ()
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the typed text of every field of a form, and the names that no field has. A config replaces the model."""
    submitted = dict(pairs)
    typed = {name: submitted.get(name, default) for name, default in defaults.items()}
    if typed["config"].strip():
        typed["config"] = compact(typed["config"])
        typed["model"] = ""
    return typed, tuple(sorted(submitted.keys() - defaults.keys() - set(ignored)))


def filled(request: Mapping[str, Any], tool: str = "") -> Form:
    """Return the form of a request body of the API, options of its own included.

    The device is the first plan's, except for its type, which is the body's.
    """
    model, method, training = request["model"], request["method"], request.get("training", {})
    config = json.dumps(model["config"]) if isinstance(model, dict) else ""
    typed = {**DEFAULTS, "model": "" if config else model, "config": config, "method": method["name"]}
    typed[tool_fields.TOOL] = tool
    typed[DEVICE_TYPE.name] = request.get("device", {}).get("type", DEVICE_TYPE.declared.default)
    for fields, values in (
        (METHOD[method["name"]], method),
        (TRAINING, training),
        (STACK, request.get("stack", {})),
        (CHOICES, request),
    ):
        typed |= {field.name: field.text(value_at(values, field.keys, field.declared.default)) for field in fields}
    return read(typed.items())


def typed_request(request: Request) -> dict[str, str]:
    """Return the typed text of a request's method, training and stack, defaults included."""
    typed: dict[str, str] = {"method": request.method.name}
    for fields, settings in (
        (METHOD[request.method.name], request.method),
        (TRAINING, request.training),
        (STACK, request.stack),
    ):
        typed |= {field.name: field.text(value_at(settings, field.keys, field.declared.default)) for field in fields}
    return typed


def field_of(loc: str, method: str = "") -> str:
    """Return the field of a dotted path in a request with a method; an empty text if the path is of no single field."""
    parts = loc.split(".")
    if parts[0] == "model":
        return "config" if parts[1:2] == ["config"] else "model"
    if parts[0] in ("method", "methods") and parts[-1] in ("method", "name"):
        return "method"
    if loc == "device":
        return "gpu"
    fields = (*METHOD.get(method, ()), *FIELDS.values())
    names = [field.name for field in fields if field.declared.name in parts]
    return names[0] if names else ""


def non_default(fields: Iterable[Field], typed: Mapping[str, str]) -> dict[str, Any]:
    """Return the values that differ from the API's defaults, so that a request contains only what matters."""
    body: dict[str, Any] = {}
    for field in fields:
        value = field.value(typed[field.name])
        if (tuple(value) if isinstance(value, list) else value) != field.declared.default:
            set_at(body, field.keys, value)
    return body


def named_model(text: str) -> Any:
    """Return the `model` of a request for typed text: a number of parameters, or a name."""
    name = text.strip()
    digits = without_commas(name)
    return {"parameters": int(digits)} if digits.isdecimal() and len(digits) < 20 else name


def typed_model(typed: Mapping[str, str]) -> Any:
    """Return the `model` of a request for a form: the typed name, or the pasted config.json.

    Raises:
        PlanError: if the config cannot be read.
    """
    config = typed["config"]
    if not config.strip():
        return named_model(typed["model"])
    return {"config": parse_json(config.encode("utf-8", "replace"), "config.json", "model.config", config)}


def compact(config: str) -> str:
    """Remove unneeded spaces from a config, to keep addresses short; text that is not JSON is unchanged."""
    try:
        return json.dumps(json.loads(config), separators=(",", ":"), ensure_ascii=False)
    except (ValueError, RecursionError):
        return config
