"""The plan form: what is typed in the address bar, as a request, and back."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from app.forms.fields import CHOICES, DEVICE, FIELDS, METHOD, TRAINING, Field, ungrouped
from app.http.bodies import decoded
from app.http.problems import Refusal
from calculator.common.errors import PlanError, Problem
from calculator.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from calculator.estimate.request import Request

#: What the page plans before anything is asked of it, where that differs from the API's defaults.
FIRST_PLAN: dict[str, str] = {
    "model": "meta-llama/Llama-3.1-8B",
    "config": "",
    "gpu": "rtx-4090",
    "method": "qlora",
    "r": "16",
    "target_modules": "all-linear",
    "gradient_checkpointing": "true",
}

DEFAULTS: dict[str, str] = {
    **FIRST_PLAN,
    **{name: field.text(field.declared.default) for name, field in FIELDS.items() if name not in FIRST_PLAN},
}

#: The page's box for another tool's file, which the form sends along and which is no part of a plan.
FILE = "content"

#: The longest address that is handed out; longer ones are cut by some programs on the way.
LONGEST_ADDRESS = 8000

#: The longest that a page repeats in a few hundred links: where it is longer, buttons of the form say the change alone.
LONGEST_REPEATED = 2000

#: What such a button says that it changes, as a query.
CHANGE = "change"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What is typed, by input, and the names in the address that no input has."""

    typed: Mapping[str, str]
    unknown: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        """The chosen method's name."""
        return self.typed["method"]

    def shown(self, name: str) -> str:
        """What is typed in one of the declared inputs, or what is taken where nothing is."""
        return self.typed[name].strip() or FIELDS[name].default_text

    def differing(self, **changes: str) -> dict[str, str]:
        """What differs from the first plan, in its order."""
        typed = {**self.typed, **changes}
        changed = {name: value for name, value in typed.items() if value != DEFAULTS[name]}
        if changed.get("config", "").strip():
            changed.pop("model", None)
        return changed

    def address(self, **changes: str) -> str:
        """The query that leads to this plan, with changes."""
        query = self.differing(**changes)
        return f"?{urlencode(query)}" if query else ""

    def changed(self, **changes: str) -> Form:
        """The form with other values typed."""
        return replace(self, typed={**self.typed, **changes})

    def comparison(self) -> dict[str, Any]:
        """The body of the comparison that the page shows: every method with the settings typed for it.

        Raises:
            PlanError: where a pasted config can't be read.
        """
        methods = [{"name": name, **said(METHOD[name], self.typed)} for name in METHODS]
        return {"model": model_typed(self.typed), "methods": methods, **self._common()}

    def estimate(self) -> dict[str, Any]:
        """The body of the chosen method's estimate.

        Raises:
            PlanError: where a pasted config can't be read.
        """
        method = {"name": self.method, **said(METHOD.get(self.method, ()), self.typed)}
        return {"model": model_typed(self.typed), "method": method, **self._common()}

    def _common(self) -> dict[str, Any]:
        return {
            "training": said(TRAINING, self.typed),
            "device": said(DEVICE, self.typed),
            **said(CHOICES, self.typed),
        }


def posted(body: bytes) -> list[tuple[str, str]]:
    """What a posted form says; what its button changes comes last, and so counts."""
    pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
    changes = [query for name, query in pairs if name == CHANGE]
    kept = [(name, value) for name, value in pairs if name != CHANGE]
    return kept + [pair for query in changes for pair in parse_qsl(query, keep_blank_values=True)]


def read(pairs: Iterable[tuple[str, str]]) -> Form:
    """The form as an address or a posted body gives it; the last of several values counts, what is absent is usual.

    A checkbox follows a hidden "false" of the same name, so that one left unticked still says so.
    """
    given = dict(pairs)
    typed = {name: given.get(name, usual) for name, usual in DEFAULTS.items()}
    if typed["config"].strip():
        typed["config"] = compact(typed["config"])
        typed["model"] = ""
    return Form(typed=typed, unknown=tuple(sorted(given.keys() - DEFAULTS.keys() - {FILE})))


def filled(request: Mapping[str, Any]) -> Form:
    """The form of a request: its model, method and training, with the API's defaults; the card is the first plan's."""
    model, method, training = request["model"], request["method"], request.get("training", {})
    config = json.dumps(model["config"]) if isinstance(model, dict) else ""
    typed = {**DEFAULTS, "model": "" if config else model, "config": config, "method": method["name"]}
    for fields, values in ((METHOD[method["name"]], method), (TRAINING, training)):
        typed |= {field.name: field.text(values.get(field.declared.name, field.declared.default)) for field in fields}
    return read(typed.items())


def typed_of(request: Request) -> dict[str, str]:
    """What is typed of a request's method and training, defaults included."""
    typed: dict[str, str] = {"method": request.method.name}
    for fields, settings in ((METHOD[request.method.name], request.method), (TRAINING, request.training)):
        typed |= {field.name: field.text(getattr(settings, field.declared.name)) for field in fields}
    return typed


def input_of(loc: str) -> str:
    """The page's input that a path in a request speaks of; empty where it is of no single one."""
    parts = loc.split(".")
    if parts[0] == "model":
        return "config" if parts[1:2] == ["config"] else "model"
    if parts[0] in ("method", "methods") and parts[-1] in ("method", "name"):
        return "method"
    if loc == "device":
        return "gpu"
    named = [field.name for field in FIELDS.values() if field.declared.name in parts]
    return named[0] if named else ""


def said(fields: Iterable[Field], typed: Mapping[str, str]) -> dict[str, Any]:
    """What differs from the API's defaults, so that a request says only what matters."""
    values = {field.declared.name: field.value(typed[field.name]) for field in fields}
    return {
        field.declared.name: values[field.declared.name]
        for field in fields
        if values[field.declared.name] != field.declared.default
    }


def model_named(text: str) -> Any:
    """What a typed model stands for: a bare number of parameters, or a name."""
    name = text.strip()
    digits = ungrouped(name)
    return {"parameters": int(digits)} if digits.isdecimal() and len(digits) < 20 else name


def model_typed(typed: Mapping[str, str]) -> Any:
    """The model of a form: what is named, or the pasted config.json.

    Raises:
        PlanError: where that can't be read.
    """
    if not typed["config"].strip():
        return model_named(typed["model"])
    try:
        return {"config": decoded(typed["config"].encode("utf-8", "replace"))}
    except Refusal as error:
        message = error.detail.replace("the body", "config.json")
        raise PlanError(Problem(loc="model.config", msg=message, input=typed["config"])) from error


def compact(config: str) -> str:
    """A config without the spaces that an address need not carry; text that is not JSON stays as typed."""
    try:
        return json.dumps(json.loads(config), separators=(",", ":"), ensure_ascii=False)
    except (ValueError, RecursionError):
        return config
