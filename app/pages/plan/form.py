"""The form of the plan page."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.forms import messages as form_messages
from app.forms import plan_form
from app.forms.fields import (
    DEVICE,
    DEVICE_TYPE,
    DEVICE_TYPE_OF_FORMS,
    FIELDS,
    MEMORY,
    NEEDS,
    PRICE,
    RESERVED,
    STACK,
    TRAINER,
)
from app.forms.plan_form import non_default, typed_fields, typed_model
from app.forms.typed_form import TypedForm
from app.pages.inference import form as inference_form
from calculator.planning.needs import USUAL_PRIORITIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from calculator.common.errors import Problem
    from calculator.estimation.request import Request

#: The number of GPUs of a device, their sharding, and the nodes that they are in.
SEVERAL = tuple(FIELDS[name] for name in ("count", "sharding", "nodes"))

#: The needs of the bare address.
DEFAULTS: dict[str, str] = {
    "model": "meta-llama/Llama-3.1-8B",
    "config": "",
    "gpu": "rtx-4090",
    "memory_gib": "",
    "device_type": DEVICE_TYPE_OF_FORMS,
    "price_per_hour": "",
    "gpus": "",
    **{field.name: field.text(field.declared.default) for field in SEVERAL},
    "sharding": "",
    **{field.name: field.text(field.declared.default) for field in NEEDS},
    "priorities": USUAL_PRIORITIES[0],
    **{field.name: field.text(field.declared.default) for field in (*TRAINER, *STACK, *RESERVED)},
}

LABELS: dict[str, str] = {
    "model": "Model",
    "config": "config.json",
    "gpu": "GPU",
    "memory_gib": MEMORY.declared.setting.label,
    "device_type": DEVICE_TYPE.declared.setting.label,
    "price_per_hour": PRICE.declared.setting.label,
    "gpus": "Other GPUs",
    **{field.name: field.declared.setting.label for field in SEVERAL},
    **{field.name: field.declared.setting.label for field in NEEDS},
    "priorities": "What matters first",
    **{field.name: field.declared.setting.label for field in (*TRAINER, *STACK, *RESERVED)},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedsForm(TypedForm):
    """The typed text of every field of the page."""

    defaults = DEFAULTS

    def body(self) -> dict[str, Any]:
        """Return the request body.

        Raises:
            PlanError: if a pasted config cannot be read.
        """
        devices = [device for _, device in self._devices()]
        cards = {"device": devices[0] if devices else {}} if len(devices) < 2 else {"devices": devices}
        needs = non_default(NEEDS, self.typed)
        if self.typed["priorities"].strip() in ("", DEFAULTS["priorities"]):
            needs.pop("priorities", None)
        training = non_default(TRAINER, self.typed)
        stack = non_default(STACK, self.typed)
        run = {
            "needs": needs,
            **({"training": training} if training else {}),
            **({"stack": stack} if stack else {}),
        }
        return {**self._models(), **cards, **run, **non_default(RESERVED, self.typed)}

    def messages(self, problems: Iterable[Problem]) -> dict[str, str]:
        """Return the problems by field; problems of no single field have the empty name."""
        return form_messages.messages(problems, self.typed, self.field_of)

    def field_of(self, loc: str) -> str:
        """Return the field of a dotted path in the request, or an empty text if the path is of no single field."""
        head, *rest = loc.split(".")
        if head in ("model", "models"):
            return "config" if "config" in rest and self.typed["config"].strip() else "model"
        if head in ("needs", "training", "stack"):
            return rest[0] if rest and rest[0] in DEFAULTS else ""
        if head in {field.name for field in RESERVED}:
            return head
        if rest[-1:] == ["memory_bytes"]:
            return "memory_gib"
        if rest[-1:] == ["type"]:
            return DEVICE_TYPE.name
        if rest and rest[-1] in ("price_per_hour", *(field.name for field in SEVERAL)):
            return rest[-1]
        if loc == "devices":
            return "gpus"
        fields = [name for name, _ in self._devices()]
        if head == "devices" and rest and rest[0].isdecimal() and int(rest[0]) < len(fields):
            return fields[int(rest[0])]
        return (fields[0] if fields else "gpu") if head == "device" else ""

    def _models(self) -> dict[str, Any]:
        names = self.typed["model"].replace(",", " ").split()
        if self.typed["config"].strip() or len(names) < 2:
            return {"model": typed_model(self.typed)}
        return {"models": names}

    def _devices(self) -> list[tuple[str, dict[str, Any]]]:
        """Return each device with the field in which it is typed."""
        first = {"gpu": self.typed["gpu"].strip() or None, "memory_bytes": MEMORY.value(self.typed["memory_gib"])}
        device = {name: value for name, value in first.items() if value is not None}
        price = PRICE.value(self.typed["price_per_hour"])
        priced = {} if price is None else {"price_per_hour": price}
        several = {**non_default((DEVICE_TYPE,), self.typed), **self._several()}
        more = [name.strip() for name in re.split(r"[,\n]", self.typed["gpus"]) if name.strip()]
        one = [("gpu" if "gpu" in device else "memory_gib", {**device, **several, **priced})] if device else []
        return [*one, *(("gpus", {"gpu": name, **several}) for name in more)]

    def _several(self) -> dict[str, Any]:
        """Return the settings for several GPUs. Without a sharding, the plan chooses one."""
        typed = {field.name: (field, self.typed[field.name].strip()) for field in SEVERAL}
        values = {name: field.value(text) for name, (field, text) in typed.items() if text}
        return {name: value for name, value in values.items() if name == "sharding" or value != 1}


def read(pairs: Iterable[tuple[str, str]]) -> NeedsForm:
    """Return the form of an address or a submitted body."""
    typed, unknown = typed_fields(pairs, DEFAULTS)
    return NeedsForm(typed=typed, unknown=unknown)


def address_of(plan: plan_form.Form, request: Request) -> str:
    """Return the address of the page for a plan's model, GPU, batch and sequence length."""
    training = request.training
    batch = training.micro_batch_size * training.gradient_accumulation_steps * request.device.count
    names = (
        "model",
        "config",
        "gpu",
        "memory_gib",
        "device_type",
        "price_per_hour",
        "count",
        "nodes",
        "reserved",
        *(field.name for field in (*TRAINER, *STACK)),
    )
    kept = {name: plan.typed[name] for name in names}
    needs = {"sequence_length": str(training.sequence_length), "effective_batch_size": str(batch)}
    sharding = {"sharding": request.device.sharding} if request.device.count > 1 else {}
    return f"/plan{NeedsForm(typed={**DEFAULTS, **kept, **needs, **sharding}).address()}"


def estimate_address(request: Request) -> str:
    """Return the address of the estimate page of a configuration."""
    return f"/{_plan_of(request).address()}"


def inference_address(needs: NeedsForm, request: Request) -> str:
    """Return the address of the inference page of a configuration, for all tasks, merged if it must be."""
    merged = needs.typed["must_merge"] == "true" and bool(request.method.facts.mergeable)
    return inference_form.address_of(_plan_of(request), tasks=needs.typed["tasks"], merged=str(merged).lower())


def _plan_of(request: Request) -> plan_form.Form:
    reference = request.model
    config = json.dumps(reference.config, separators=(",", ":"), ensure_ascii=False) if reference.config else ""
    model = {"model": reference.id or "", "config": config}
    device = {field.name: field.text(getattr(request.device, field.declared.name)) for field in DEVICE}
    stack = {field.name: field.text(getattr(request.stack, field.declared.name)) for field in STACK}
    typed = {**model, **plan_form.typed_request(request), **device, **stack, "reserved": request.reserved}
    return plan_form.Form(typed={**plan_form.DEFAULTS, **typed})


def typed_changes(sets: Mapping[str, Any]) -> dict[str, str]:
    """Return the form fields that a change to the needs or the model sets."""
    fields = {field.name: field for field in NEEDS}
    typed = {name: fields[name].text(value) if name in fields else str(value) for name, value in sets.items()}
    return {**typed, "config": ""} if "model" in typed else typed
