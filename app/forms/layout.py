"""The layout of forms: groups of fields, the GPU list, and labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING

from app.forms.fields import CHOICES, DEVICE, FIELDS, METHOD, METHOD_LABELS, STACK, TRAINING, Field
from calculator.common.errors import PlanError
from calculator.devices import gpu, gpus
from calculator.methods import USUAL_METHODS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.devices import GPU

#: Training fields that are always visible. The others are folded.
FIRST_TRAINING = (
    "micro_batch_size",
    "sequence_length",
    "gradient_checkpointing",
    "attention",
    "optimizer",
    "dtype",
    "autocast",
)

#: Options of the request that are always visible, before the training fields.
FIRST_CHOICES = ("task",)

#: Training fields that the choice of a trainer or tool sets, instead of an input of their own.
CHOSEN = ("trainer",)

#: Device fields that are always visible.
FIRST_DEVICE = ("gpu", "memory_gib", "count", "sharding")

#: The maximum number of method labels in the heading of a group.
MOST_LABELS = 5

#: Labels of the fields without a declared setting.
MODEL_LABELS = {"model": "Model", "config": "config.json", "method": "Method"}

#: Labels of the fields of an estimate's form.
LABELS: dict[str, str] = {**MODEL_LABELS, **{name: field.declared.setting.label for name, field in FIELDS.items()}}


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodGroup:
    """Fields that the same methods have."""

    methods: tuple[str, ...]
    fields: tuple[Field, ...]

    @property
    def label(self) -> str:
        """The labels of the methods. If there are many, only the first ones."""
        labels = [METHOD_LABELS[name] for name in self.methods]
        if len(labels) > MOST_LABELS:
            labels = [*labels[: MOST_LABELS - 1], f"{len(labels) - MOST_LABELS + 1} more"]
        *others, last = labels
        return f"{', '.join(others)} and {last}" if others else last

    @property
    def is_further(self) -> bool:
        """Whether none of the methods is compared by default."""
        return not set(self.methods).intersection(USUAL_METHODS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """The fields of an estimate's form in groups."""

    device: tuple[Field, ...]
    training: tuple[Field, ...]
    methods: tuple[MethodGroup, ...]
    rest: tuple[Field, ...]


@cache
def groups() -> Groups:
    """Return every field of an estimate's form, in its group."""
    rest = [field for field in (*TRAINING, *DEVICE) if field.name not in (*CHOSEN, *FIRST_TRAINING, *FIRST_DEVICE)]
    return Groups(
        device=_select(DEVICE, FIRST_DEVICE),
        training=(*_select(CHOICES, FIRST_CHOICES), *_select(TRAINING, FIRST_TRAINING)),
        methods=_method_groups(),
        rest=(*rest, *STACK, *(field for field in CHOICES if field.name not in FIRST_CHOICES)),
    )


def _select(fields: Iterable[Field], names: tuple[str, ...]) -> tuple[Field, ...]:
    by_name = {field.name: field for field in fields}
    return tuple(by_name[name] for name in names)


def _method_groups() -> tuple[MethodGroup, ...]:
    """Return the fields of methods by the methods that have them. Those of full fine-tuning alone come last."""
    owners: dict[str, list[str]] = {}
    for method, fields in METHOD.items():
        for field in fields:
            owners.setdefault(field.name, []).append(method)
    by_name: dict[str, Field] = {}
    for method in (*(name for name in METHOD if name != "full"), "full"):
        for field in METHOD[method]:
            by_name.setdefault(field.name, field)
    sharing: dict[tuple[str, ...], list[Field]] = {}
    for name, field in by_name.items():
        sharing.setdefault(tuple(owners[name]), []).append(field)
    return tuple(MethodGroup(methods=methods, fields=tuple(fields)) for methods, fields in sharing.items())


@cache
def gpu_choices() -> tuple[tuple[str, tuple[GPU, ...]], ...]:
    """Return the catalogue's GPUs by vendor and segment, for a select element."""

    def segment(card: GPU) -> str:
        return f"{card.vendor}, {card.segment}"

    segments = list(dict.fromkeys(segment(card) for card in gpus()))
    ordered = sorted(gpus(), key=lambda card: segments.index(segment(card)))
    return tuple((name, tuple(group)) for name, group in groupby(ordered, segment))


def gpu_id(typed: str) -> str:
    """Return the catalogue id of a typed GPU name, or an empty text if the catalogue lacks it."""
    try:
        return gpu(typed).id if typed else ""
    except PlanError:
        return ""
