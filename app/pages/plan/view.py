"""The needs form: what is typed in the address bar as a plan's request, and what its page shows."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from app.forms import messages as form_messages
from app.forms import plan_form as form
from app.forms.fields import DEVICE, of
from app.pages.estimate.view import card_id
from app.pages.inference import view as inference_view
from app.presentation.format import size
from calculator.devices.verdict import card_of
from calculator.plan.needs import USUAL_PRIORITIES, Needs
from calculator.plan.plan import plan
from calculator.plan.request import parse_plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from calculator.common.errors import Problem
    from calculator.estimate.request import Request
    from calculator.plan.nearest_miss import NearestMiss
    from calculator.plan.plan import DevicePlan, Plan

NEEDS = of("needs", Needs)

#: A card's memory, which is typed in GiB.
MEMORY = next(field for field in DEVICE if field.name == "memory_gib")

#: What the page plans before anything is asked of it.
DEFAULTS: dict[str, str] = {
    "model": "meta-llama/Llama-3.1-8B",
    "config": "",
    "gpu": "rtx-4090",
    "memory_gib": "",
    "gpus": "",
    **{field.name: field.text(field.declared.default) for field in NEEDS},
    "priorities": USUAL_PRIORITIES[0],
}

LABELS: dict[str, str] = {
    "model": "Model",
    "config": "config.json",
    "gpu": "GPU",
    "memory_gib": MEMORY.declared.setting.label,
    "gpus": "More cards",
    **{field.name: field.declared.setting.label for field in NEEDS},
    "priorities": "What matters first",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedsForm:
    """What is typed, by input, and the names in the address that no input has."""

    typed: Mapping[str, str]
    unknown: tuple[str, ...] = ()

    def address(self, **changes: str) -> str:
        """The query that leads to this plan, with changes: what differs from the first view."""
        typed = {**self.typed, **changes}
        query = {name: value for name, value in typed.items() if value != DEFAULTS[name]}
        if query.get("config", "").strip():
            query.pop("model", None)
        return f"?{urlencode(query)}" if query else ""

    @property
    def card(self) -> str:
        """The id of the card that is typed, whichever of its names that is; empty where the catalogue lacks it."""
        return card_id(self.typed["gpu"])

    def body(self) -> dict[str, Any]:
        """The body of the plan's request.

        Raises:
            PlanError: where a pasted config can't be read.
        """
        devices = [device for _, device in self._devices()]
        cards = {"device": devices[0] if devices else {}} if len(devices) < 2 else {"devices": devices}
        needs = form.said(NEEDS, self.typed)
        if self.typed["priorities"].strip() in ("", DEFAULTS["priorities"]):
            needs.pop("priorities", None)
        return {**self._models(), **cards, "needs": needs}

    def input_of(self, loc: str) -> str:
        """The input that a path in the request speaks of; empty where it is of no single one."""
        head, *rest = loc.split(".")
        if head in ("model", "models"):
            return "config" if "config" in rest and self.typed["config"].strip() else "model"
        if head == "needs":
            return rest[0] if rest and rest[0] in DEFAULTS else ""
        if rest[-1:] == ["memory_bytes"]:
            return "memory_gib"
        if loc == "devices":
            return "gpus"
        inputs = [name for name, _ in self._devices()]
        if head == "devices" and rest and rest[0].isdecimal() and int(rest[0]) < len(inputs):
            return inputs[int(rest[0])]
        return (inputs[0] if inputs else "gpu") if head == "device" else ""

    def _models(self) -> dict[str, Any]:
        named = self.typed["model"].replace(",", " ").split()
        if self.typed["config"].strip() or len(named) < 2:
            return {"model": form.model_typed(self.typed)}
        return {"models": named}

    def _devices(self) -> list[tuple[str, dict[str, Any]]]:
        """Each device with the input that it is typed in."""
        first = {"gpu": self.typed["gpu"].strip() or None, "memory_bytes": MEMORY.value(self.typed["memory_gib"])}
        card = {name: value for name, value in first.items() if value is not None}
        more = [name.strip() for name in re.split(r"[,\n]", self.typed["gpus"]) if name.strip()]
        one = [("gpu" if "gpu" in card else "memory_gib", card)] if card else []
        return [*one, *(("gpus", {"gpu": name}) for name in more)]


def read(pairs: Iterable[tuple[str, str]]) -> NeedsForm:
    """The form as an address or a posted body gives it; the last of several values counts, what is absent is usual."""
    given = dict(pairs)
    typed = {name: given.get(name, usual) for name, usual in DEFAULTS.items()}
    if typed["config"].strip():
        typed["config"] = form.compact(typed["config"])
        typed["model"] = ""
    return NeedsForm(typed=typed, unknown=tuple(sorted(given.keys() - DEFAULTS.keys())))


def planned(typed: NeedsForm) -> Plan:
    """The form's answer.

    Raises:
        PlanError: where what is typed has no answer.
    """
    return plan(parse_plan(typed.body()))


def messages(typed: NeedsForm, problems: Iterable[Problem]) -> dict[str, str]:
    """What is wrong, by input; what is of no single input stands under the empty name."""
    return form_messages.messages(problems, typed.typed, typed.input_of)


def page_of(request: Request) -> str:
    """The address of the page that shows exactly this configuration."""
    return f"/{_plan_of(request).address()}"


def served_at(needed: NeedsForm, request: Request) -> str:
    """The address that serves what a configuration tunes, for as many tasks, merged where it must be."""
    merged = needed.typed["must_merge"] == "true" and bool(request.method.facts.mergeable)
    return inference_view.address_of(_plan_of(request), tasks=needed.typed["tasks"], merged=str(merged).lower())


def _plan_of(request: Request) -> form.Form:
    reference = request.model
    config = json.dumps(reference.config, separators=(",", ":"), ensure_ascii=False) if reference.config else ""
    typed = {**form.DEFAULTS, "model": reference.id or "", "config": config, **form.typed_of(request)}
    typed |= {field.name: field.text(getattr(request.device, field.declared.name)) for field in DEVICE}
    return form.Form(typed=typed)


def address_of(plan: form.Form, request: Request) -> str:
    """The address that asks for configurations of a plan's model on its card, for its batch and its sequences."""
    training = request.training
    batch = training.micro_batch_size * training.gradient_accumulation_steps
    kept = {name: plan.typed[name] for name in ("model", "config", "gpu", "memory_gib")}
    asked = {"sequence_length": str(training.sequence_length), "effective_batch_size": str(batch)}
    return f"/plan{NeedsForm(typed={**DEFAULTS, **kept, **asked}).address()}"


def typed_changes(sets: Mapping[str, Any]) -> dict[str, str]:
    """What a change to the needs or the model makes of the inputs."""
    fields = {field.name: field for field in NEEDS}
    typed = {name: fields[name].text(value) if name in fields else str(value) for name, value in sets.items()}
    return {**typed, "config": ""} if "model" in typed else typed


def device_name(part: DevicePlan) -> str:
    """A plan's card in words."""
    card = card_of(part.device)
    return card.name if card else f"a card of {size(part.device.memory_bytes or 0)}"


def short(miss: NearestMiss) -> str:
    """By how much the nearest configuration misses, and in what."""
    if miss.together is not None and not miss.together.held:
        held = miss.together
        tasks = (
            f"With the base and a request, {held.tasks:,} tasks take {size(held.bytes)} of {size(held.usable_bytes)}"
        )
        return f"{tasks}, {size(held.short_bytes)} too much; {held.most:,} would be held."
    fit = miss.estimate.fit
    assert fit is not None
    required = size(miss.estimate.memory.required_bytes)
    return f"It needs {required} of {size(fit.usable_bytes)} usable, {size(miss.short_bytes)} too much."


def count(answer: Plan) -> str:
    """How many configurations fit."""
    return counted(sum(len(part.configurations) for part in answer.plans))


def counted(fitting: int) -> str:
    """A number of configurations that fit, in words."""
    if not fitting:
        return "Nothing fits"
    return f"{fitting} configurations fit" if fitting > 1 else "1 configuration fits"


def sentence(part: DevicePlan) -> str:
    """What came of a plan, in a sentence."""
    subject = f"{part.model} on {device_name(part)}"
    if not part.configurations:
        return f"{subject}: nothing that meets these needs fits."
    return f"{subject}: {counted(len(part.configurations))}, first {part.configurations[0].label}."
