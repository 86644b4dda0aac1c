"""The page's inputs, made from the calculator's declarations: one flat name each, as the address bar spells it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, get_args, get_origin

from app.http.bodies import decoded
from app.http.problems import Refusal
from calculator.devices.gpus import GIB
from calculator.estimate.request import Choices
from calculator.inputs.settings import Declared, declared
from calculator.inputs.training import Device, Training
from calculator.methods import METHODS

_THOUSANDS = re.compile(r"[-+]?[1-9][0-9]{0,2}(,[0-9]{3})+")

Control = Literal["checkbox", "select", "number", "text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A declared input under its name in the address bar; sizes are typed in GiB there."""

    part: str
    declared: Declared

    @property
    def name(self) -> str:
        """The input's name on the page."""
        return self.declared.name.replace("_bytes", "_gib") if self.sized else self.declared.name

    @property
    def sized(self) -> bool:
        """Whether it holds bytes."""
        return self.declared.setting.unit == "bytes"

    @property
    def unit(self) -> str:
        """The unit that is typed."""
        return "GiB" if self.sized else self.declared.setting.unit

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The types that it admits."""
        return get_args(self.declared.type) if type(None) in get_args(self.declared.type) else (self.declared.type,)

    @property
    def nullable(self) -> bool:
        """Whether it may be left empty to say null."""
        return type(None) in self.kinds

    @property
    def control(self) -> Control:
        """How a person gives it."""
        if self.declared.type is bool:
            return "checkbox"
        if int in self.kinds or float in self.kinds:
            return "number"
        return "text" if str in self.kinds or any(get_origin(kind) is tuple for kind in self.kinds) else "select"

    @property
    def default_text(self) -> str:
        """What is taken where the input is left empty, as it would be typed; none where that is null."""
        return self.text(self.value("")) or "none"

    def text(self, value: Any) -> str:
        """A value as the input shows it."""
        if value is None:
            return ""
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, tuple | list):
            return ", ".join(value)
        return f"{value / GIB:g}" if self.sized else str(value)

    def value(self, text: str) -> Any:
        """What is typed as the JSON that it stands for; text that stands for nothing else stays text."""
        text = text.strip()
        if not text:
            return None if self.nullable else self.declared.default
        if self.control == "checkbox":
            return {"true": True, "on": True, "false": False}.get(text, text)
        if self.control == "number":
            return _bytes(text) if self.sized else _number(text if float in self.kinds else ungrouped(text))
        if self.control == "text" and str not in self.kinds and text not in self.declared.choices:
            return _names(text)
        return text


def ungrouped(text: str) -> str:
    """A whole number as the pages print it, 2,048, without the commas between thousands; other text as it is."""
    return text.replace(",", "") if _THOUSANDS.fullmatch(text) else text


def _names(text: str) -> Any:
    """Names with commas or spaces between, or a list in JSON as a request has it."""
    if not text.startswith("["):
        return text.replace(",", " ").split()
    try:
        return decoded(text.encode("utf-8", "replace"))
    except Refusal:
        return text


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if kind is int or isfinite(number) else text
    return text


def _bytes(text: str) -> Any:
    size = _number(text)
    return round(size * GIB) if isinstance(size, int | float) and 0 < size < 1e290 else text


def of(part: str, cls: type) -> tuple[Field, ...]:
    """The inputs that a dataclass of settings declares."""
    return tuple(Field(part=part, declared=declaration) for declaration in declared(cls))


DEVICE = of("device", Device)
TRAINING = of("training", Training)
CHOICES = of("", Choices)

#: Inputs of the methods; methods that declare the same name share it.
METHOD: dict[str, tuple[Field, ...]] = {name: of("method", cls) for name, cls in METHODS.items()}

FIELDS: dict[str, Field] = {
    field.name: field for group in (*METHOD.values(), DEVICE, TRAINING, CHOICES) for field in group
}
