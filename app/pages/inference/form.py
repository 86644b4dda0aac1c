"""The form of the inference page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.forms import messages as form_messages
from app.forms.fields import CARD, DEVICE_TYPE_OF_FORMS, INFERENCE_FIELDS, METHOD, RESERVED, SERVED_STACK, SERVING
from app.forms.layout import MODEL_LABELS
from app.forms.plan_form import Form, non_default, typed_fields, typed_model
from app.forms.typed_form import TypedForm
from calculator.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.common.errors import Problem

#: The answer of the bare address, where it differs from the API's defaults.
FIRST: dict[str, str] = {
    "model": "meta-llama/Llama-3.1-8B",
    "config": "",
    "gpu": "rtx-4090",
    "device_type": DEVICE_TYPE_OF_FORMS,
    "method": "lora",
    "r": "16",
    "target_modules": "all-linear",
    "tasks": "4",
}

DEFAULTS: dict[str, str] = {
    **FIRST,
    **{name: field.text(field.declared.default) for name, field in INFERENCE_FIELDS.items() if name not in FIRST},
}

LABELS: dict[str, str] = {
    **MODEL_LABELS,
    **{name: field.declared.setting.label for name, field in INFERENCE_FIELDS.items()},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceForm(TypedForm):
    """The typed text of every field of the page."""

    defaults = DEFAULTS

    @property
    def method(self) -> str:
        """The name of the selected method."""
        return self.typed["method"]

    @property
    def shown_methods(self) -> tuple[str, ...]:
        """The methods whose settings the form shows. It shows all, because choosing another one loads no new page."""
        return tuple(METHODS)

    def body(self) -> dict[str, Any]:
        """Return the request body.

        Raises:
            PlanError: if a pasted config cannot be read.
        """
        method = {"name": self.method, **non_default(METHOD.get(self.method, ()), self.typed)}
        return {
            "model": typed_model(self.typed),
            "method": method,
            "serving": non_default(SERVING, self.typed),
            "device": non_default(CARD, self.typed),
            **({"stack": stack} if (stack := non_default(SERVED_STACK, self.typed)) else {}),
            **non_default(RESERVED, self.typed),
        }

    def messages(self, problems: Iterable[Problem]) -> dict[str, str]:
        """Return the problems by field; problems of no single field have the empty name."""
        return form_messages.messages(problems, self.typed, _field_of)


def read(pairs: Iterable[tuple[str, str]]) -> InferenceForm:
    """Return the form of an address or a submitted body."""
    typed, unknown = typed_fields(pairs, DEFAULTS)
    return InferenceForm(typed=typed, unknown=unknown)


def address_of(plan: Form, **serving: str) -> str:
    """Return the address of the page for what a plan trains, on its GPU, with serving fields."""
    card, method = (field.name for field in CARD), (field.name for field in METHOD.get(plan.method, ()))
    typed = {
        **DEFAULTS,
        **{name: plan.typed[name] for name in ("model", "config", "method", *card, *method)},
        **serving,
    }
    return f"/inference{InferenceForm(typed=typed).address()}"


def _field_of(loc: str) -> str:
    parts = loc.split(".")
    if parts[0] == "model":
        return "config" if parts[1:2] == ["config"] else "model"
    if parts[:2] == ["method", "name"] or loc == "method":
        return "method"
    if loc == "device":
        return "gpu"
    return next((field.name for field in INFERENCE_FIELDS.values() if field.declared.name == parts[-1]), "")
