"""The comparison of plans by their addresses: what differs between them, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from app.api.answers.estimate import Answer, described
from app.forms import plan_form as form
from app.forms.fields import FIELDS
from app.pages.estimate.view import labels, messages
from app.presentation import verdict
from app.presentation.labels import METHOD_LABELS
from calculator.common.errors import PlanError, Problem
from calculator.compare.plans import ComponentLine, SettingLine, component_lines, setting_lines
from calculator.estimate.estimate import estimate
from calculator.estimate.request import parse_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.estimate.answer import Estimate
    from calculator.estimate.request import Request

#: The most plans that are held beside each other.
MOST_PLANS = 6

#: The name that each plan's address goes by in the page's address.
INPUT = "plan"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A plan that its address leads to."""

    form: form.Form
    request: Request
    estimate: Estimate

    @property
    def address(self) -> str:
        """The page of the plan."""
        return f"/{self.form.address()}"

    @property
    def label(self) -> str:
        """The plan in words."""
        model = self.estimate.model
        name = model.id or f"a {model.model_type or 'model'} of {model.parameters:,} parameters"
        card = f" on {verdict.device_name(self.estimate.fit)}" if self.estimate.fit else ""
        return f"{self.request.method.facts.label}, {name}{card}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeLine:
    """Bytes of one kind in each plan."""

    label: str
    bytes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Plans side by side; the first is what the others are held against."""

    plans: tuple[Compared, ...]

    @cached_property
    def settings(self) -> tuple[SettingLine, ...]:
        """The settings that are not the same in all of them."""
        return setting_lines([each.request for each in self.plans])

    @cached_property
    def components(self) -> tuple[ComponentLine, ...]:
        """The peaks by component, with the rows that differ."""
        return component_lines([each.estimate for each in self.plans])

    def figures(self) -> Iterator[SizeLine]:
        """What stands above the components."""
        memories = [each.estimate.memory for each in self.plans]
        yield SizeLine(label="Required", bytes=tuple(each.required_bytes for each in memories))
        yield SizeLine(label="Peak, reserved", bytes=tuple(each.peak_reserved_bytes for each in memories))
        yield SizeLine(label="Peak, allocated", bytes=tuple(each.peak_allocated_bytes for each in memories))


class PlanOfDifference(Answer):
    """A plan that is held beside others."""

    label: str = described("The plan in words.", "QLoRA, meta-llama/Llama-3.1-8B on GeForce RTX 4090")
    address: str = described("Its page.", "/?r=32")
    required_bytes: int = described("What it requires of the card.", 21_494_661_120)
    peak_allocated_bytes: int = described("The live tensors at its peak.", 20_341_251_584)


class SettingAnswer(Answer):
    """A setting that is not the same in all plans."""

    path: str = described("Its path in a request.", "method.r")
    values: tuple[Any, ...] = described("Its value in each plan; null where a plan has none.", [16, 32])


class RowAnswer(Answer):
    """Storages that differ."""

    name: str = described("Their name.", "hidden states")
    dtype: str = described("Their data type.", "bfloat16")
    bytes: tuple[int, ...] = described("Their bytes in each plan.", [8_388_608, 16_777_216])


class ComponentAnswer(Answer):
    """A component in each plan."""

    name: str = described("Its name.", "activations")
    bytes: tuple[int, ...] = described("Its bytes in each plan.", [1_000_000_000, 2_000_000_000])
    rows: tuple[RowAnswer, ...] = described("Those of its rows that differ.", [{"name": "hidden states"}])


class DifferenceAnswer(Answer):
    """What differs between plans."""

    plans: tuple[PlanOfDifference, ...] = described("The plans, in order.", [{"address": "/?r=32"}])
    settings: tuple[SettingAnswer, ...] = described("Settings that differ.", [{"path": "method.r"}])
    components: tuple[ComponentAnswer, ...] = described("The peaks by component.", [{"name": "activations"}])


def answer_of(found: Difference) -> DifferenceAnswer:
    """The same for a script."""
    plans = [
        {
            "label": each.label,
            "address": each.address,
            "required_bytes": each.estimate.memory.required_bytes,
            "peak_allocated_bytes": each.estimate.memory.peak_allocated_bytes,
        }
        for each in found.plans
    ]
    answer = {"plans": plans, "settings": found.settings, "components": found.components}
    return DifferenceAnswer.model_validate(answer, from_attributes=True)


def read(typed: str) -> form.Form:
    """The plan form that an address stands for: the link of a plan's page, or its query alone.

    Raises:
        PlanError: where it is no plan's address.
    """
    if urlsplit(typed.strip()).path not in ("", "/") and not _bare(typed):
        raise PlanError(Problem(loc=INPUT, msg="is no plan's link: copy the address of a plan's page", input=typed))
    found = form.read(_pairs(typed))
    if found.unknown:
        message = f"has {found.unknown[0]}, which no input of a plan has: copy the address of a plan's page"
        raise PlanError(Problem(loc=INPUT, msg=message, input=typed))
    return found


def _bare(typed: str) -> bool:
    """Whether it is a query without a question mark before it."""
    return "?" not in typed and "=" in typed


def _pairs(typed: str) -> list[tuple[str, str]]:
    text = typed.strip()
    return parse_qsl(text if _bare(text) else urlsplit(text).query, keep_blank_values=True)


def compared(typed: str) -> Compared:
    """The plan of an address, answered.

    Raises:
        PlanError: where it is no plan's address, or the plan has no answer.
    """
    found = read(typed)
    request = parse_request(found.estimate())
    return Compared(form=found, request=request, estimate=estimate(request))


def reason(typed: str, error: PlanError) -> str:
    """Why a plan has no answer, in a sentence."""
    found = messages(form.read(_pairs(typed)), error.problems)
    return "; ".join(f"{labels()[name]}: {message}" if name else message for name, message in found.items())


def address_of(plans: Iterable[str]) -> str:
    """The page's address for the addresses of plans."""
    pairs = [(INPUT, each) for each in plans if each.strip()]
    return f"/difference?{urlencode(pairs)}" if pairs else "/difference"


def setting_label(path: str) -> str:
    """What a setting is called on the page."""
    head, *rest = path.split(".")
    if path in ("model", "method.name"):
        return labels()[head]
    name = rest[-1] if rest else head
    return next(field.declared.setting.label for field in FIELDS.values() if field.declared.name == name)


def setting_value(path: str, value: Any) -> str:
    """A setting's value as people read it."""
    if value is None:
        return "–"
    if path == "method.name":
        return METHOD_LABELS[value]
    if isinstance(value, dict):
        return f"a config.json of {value.get('model_type', 'no model_type')}"
    if path == "model":
        return f"{value:,} parameters" if isinstance(value, int) else str(value)
    name = path.rsplit(".", 1)[-1]
    return next(field.text(value) for field in FIELDS.values() if field.declared.name == name)
