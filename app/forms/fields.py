"""Form fields made from the calculator's declared settings, under the flat names of the address bar."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from app.forms.numbers_by_name import read_numbers_by_name, text_of_numbers, whole_numbers
from app.http.bodies import decode_json
from app.http.problems import HTTPProblem
from calculator.devices.gpus import GIB
from calculator.estimation.request import Choices, ReservedMemory
from calculator.inference.settings import Serving
from calculator.inputs.by_name import is_by_name
from calculator.inputs.device import Device
from calculator.inputs.run import RunSettings
from calculator.inputs.settings import PAIRS, Declared, declared
from calculator.inputs.stack import StackVersions
from calculator.inputs.training import Training
from calculator.methods import METHODS
from calculator.planning.needs import Needs
from calculator.planning.trainer_settings import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Numbers with separators, as a histogram is typed.
_PAIRED = re.compile(r"[\d\s:,;×]+")

_THOUSANDS = re.compile(r"[-+]?[1-9][0-9]{0,2}(,[0-9]{3})+")

Control = Literal["checkbox", "select", "number", "text", "area"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A declared setting as a form field. Sizes are typed in GiB."""

    #: The dotted path of the request's object that has the setting.
    part: str
    declared: Declared
    #: The method that the field belongs to, if the setting of that name differs between methods.
    method: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """The names that lead to the setting from the request's own object, such as `training`."""
        return (*self.part.split(".")[1:], self.declared.name)

    @property
    def name(self) -> str:
        """The field's name in the form and in the address."""
        own = self.declared.setting.field_name or self.declared.name
        name = own.replace("_bytes", "_gib") if self.sized else own
        return f"{self.method}_{name}" if self.method else name

    @property
    def sized(self) -> bool:
        """Whether the setting is a size in bytes."""
        return self.declared.setting.unit == "bytes"

    @property
    def unit(self) -> str:
        """The unit in which the value is typed."""
        return "GiB" if self.sized else self.declared.setting.unit

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The types that the setting accepts."""
        members = () if get_origin(self.declared.type) is tuple else get_args(self.declared.type)
        return members if {type(None), int, bool}.intersection(members) else (self.declared.type,)

    @property
    def or_word(self) -> bool:
        """Whether the setting is a number or one of several words."""
        return int in self.kinds and bool(self.declared.choices)

    @property
    def nullable(self) -> bool:
        """Whether an empty field means null."""
        return type(None) in self.kinds

    @property
    def control(self) -> Control:
        """The HTML control of the field."""
        if self.declared.type is bool:
            return "checkbox"
        if PAIRS in self.kinds:
            return "area"
        if self.or_word or bool in self.kinds:
            return "text"
        if int in self.kinds or float in self.kinds:
            return "number"
        typed = str in self.kinds or any(get_origin(kind) is tuple or is_by_name(kind) for kind in self.kinds)
        return "text" if typed else "select"

    @property
    def default_text(self) -> str:
        """The value of an empty field, as a person would type it. `none` for null."""
        return self.text(self.value("")) or "none"

    def text(self, value: Any) -> str:
        """Return the text that the field shows for a value."""
        if value is None:
            return ""
        if isinstance(value, bool):
            return "true" if value else "false"
        if self.control == "area":
            return ", ".join(f"{length}:{count}" for length, count in value)
        if isinstance(value, dict):
            return text_of_numbers(value)
        if isinstance(value, tuple | list):
            return ", ".join(map(str, value))
        return f"{value / GIB:g}" if self.sized else str(value)

    def value(self, text: str) -> Any:
        """Return the JSON value of typed text. Invalid text is unchanged, and the calculator refuses it."""
        text = text.strip()
        if not text:
            return None if self.nullable else self.declared.default
        if self.declared.type is bool or bool in self.kinds:
            return {"true": True, "on": True, "false": False}.get(text, text)
        if self.or_word:
            return text if text in self.declared.choices else _number(without_commas(text))
        if self.control == "number":
            return _bytes(text) if self.sized else _number(text if float in self.kinds else without_commas(text))
        if self.control == "area":
            return _pairs(text)
        if any(map(is_by_name, self.kinds)):
            return _json(text) if text.startswith("{") else read_numbers_by_name(text)
        if self.control == "text" and str not in self.kinds and text not in self.declared.choices:
            names = _names(text)
            return names if tuple[int, ...] not in self.kinds else whole_numbers(names)
        return text


def without_commas(text: str) -> str:
    """Remove the commas of a whole number as the pages print it (2,048); other text is unchanged."""
    return text.replace(",", "") if _THOUSANDS.fullmatch(text) else text


def _names(text: str) -> Any:
    """Return names separated by commas or spaces, or a JSON list."""
    return _json(text) if text.startswith("[") else text.replace(",", " ").split()


def _pairs(text: str) -> Any:
    """Return pairs of numbers: `256:9000, 512:900`, two numbers a line, a JSON list, or a list as Python prints it."""
    if _PAIRED.fullmatch(text):
        try:
            numbers = [int(digits) for digits in re.findall(r"\d+", text)]
        except ValueError:  # Python converts at most 4,300 digits
            return text
        return [[*pair] for pair in zip(numbers[::2], numbers[1::2], strict=True)] if not len(numbers) % 2 else text
    return _json(text.replace("(", "[").replace(")", "]"))


def _json(text: str) -> Any:
    """Return the value of a JSON text; other text is unchanged."""
    try:
        return decode_json(text.encode("utf-8", "replace"))
    except HTTPProblem:
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


def fields_of(part: str, cls: type) -> tuple[Field, ...]:
    """Return the fields of a dataclass of settings. A setting that is an object has a field for each of its own."""
    fields: list[Field] = []
    for declaration in declared(cls):
        if not declaration.setting.form:
            continue
        nested = declaration.nested
        own_fields = (Field(part=part, declared=declaration),)
        fields += own_fields if nested is None else fields_of(f"{part}.{declaration.name}", nested)
    return tuple(fields)


def set_at(body: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Set a value in a body at a path. Missing objects on the path are created."""
    for key in keys[:-1]:
        body = body.setdefault(key, {})
    body[keys[-1]] = value


def value_at(body: Any, keys: Sequence[str], default: Any) -> Any:
    """Return the value at a path in a body of objects, or in settings; null if it is null there.

    The default is returned where the value, or an object on its path, is missing.
    """
    *outer, name = keys
    for key in outer:
        body = body.get(key) if isinstance(body, Mapping) else getattr(body, key)
        if body is None:
            return default
    return body.get(name, default) if isinstance(body, Mapping) else getattr(body, name)


DEVICE = fields_of("device", Device)
TRAINING = fields_of("training", Training)
STACK = fields_of("stack", StackVersions)
RESERVED = fields_of("", ReservedMemory)
CHOICES = fields_of("", Choices)
NEEDS = fields_of("needs", Needs)
SERVING = fields_of("serving", Serving)
RUN = fields_of("run", RunSettings)

#: The fields of an evaluation and of merging, in which a run may end out of GPU memory.
PHASES = tuple(
    field
    for field in RUN
    if field.name.startswith(("eval_", "prediction", "predict_", "generation_", "merge_"))
    or field.name in ("per_device_eval_batch_size", "compute_metrics")
)

#: The fields of the training that a plan's request has.
TRAINER = tuple(field for field in TRAINING if field.name in SETTINGS)

#: The label of each method.
METHOD_LABELS: dict[str, str] = {name: cls.facts.label for name, cls in METHODS.items()}


def _fields_of_methods() -> dict[str, tuple[Field, ...]]:
    """Return the fields of each method. Methods that declare the same setting share its field."""
    shared: dict[str, Field] = {}
    fields: dict[str, tuple[Field, ...]] = {}
    for method, cls in METHODS.items():
        method_fields = fields_of("method", cls)
        fields[method] = tuple(
            replace(method_field, method=method)
            if method_field.declared.setting.has_field_of_its_own
            or not is_alike(method_field, shared.setdefault(method_field.name, method_field))
            else method_field
            for method_field in method_fields
        )
    return fields


def is_alike(field: Field, other: Field) -> bool:
    """Return whether two fields accept the same values and have the same default."""

    def accepted(form_field: Field) -> tuple[Any, ...]:
        setting = form_field.declared.setting
        return form_field.declared.type, form_field.declared.default, setting.minimum, setting.maximum

    return accepted(field) == accepted(other)


METHOD: dict[str, tuple[Field, ...]] = _fields_of_methods()

#: The fields of an estimate's request.
FIELDS: dict[str, Field] = {
    field.name: field for group in (*METHOD.values(), DEVICE, TRAINING, STACK, CHOICES) for field in group
}

#: The GPU's memory, typed in GiB.
MEMORY = FIELDS["memory_gib"]

#: Whose kernels' tensors are counted.
DEVICE_TYPE = FIELDS["device_type"]

#: The device type of every form where the address has none. Forms are for a run on a GPU. The API's default is that of
#: the traces that its answers are compared with.
DEVICE_TYPE_OF_FORMS = "cuda"

#: The price of an hour of a GPU.
PRICE = FIELDS["price_per_hour"]

#: The fields that describe a single GPU.
CARD = tuple(field for field in DEVICE if field.name in ("gpu", "memory_gib", "device_type"))

#: The releases of the libraries that `generate` runs.
SERVED_STACK = tuple(
    field for field in STACK if field.declared.name in ("transformers", "peft", "bitsandbytes", "torch")
)

#: The fields of an inference request.
INFERENCE_FIELDS: dict[str, Field] = {
    field.name: field for group in (*METHOD.values(), CARD, SERVING, SERVED_STACK, RESERVED) for field in group
}
