"""What the plan page shows: the form's groups, and the answer with its links."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING

from app.forms import messages as form_messages
from app.forms.fields import CHOICES, DEVICE, FIELDS, METHOD, TRAINING, Field
from app.forms.plan_form import input_of, typed_of
from app.presentation.labels import METHOD_LABELS
from calculator.common.errors import PlanError, Problem
from calculator.compare.methods import ComparisonRow, cards, parse_comparison, side_by_side
from calculator.devices import Verdict, gpu, gpus
from calculator.estimate.request import parse_request
from calculator.methods import METHODS
from calculator.plan.suggestions import suggestions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from app.forms.plan_form import Form
    from calculator.devices import GPU, Fit
    from calculator.estimate.answer import Estimate
    from calculator.estimate.request import Request
    from calculator.plan.suggestions import Suggestion

#: Training inputs that are always in sight; the others are folded away.
FIRST_TRAINING = (
    "micro_batch_size",
    "sequence_length",
    "gradient_checkpointing",
    "attention",
    "optimizer",
    "dtype",
)

FIRST_DEVICE = ("gpu", "memory_gib", "count")


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodGroup:
    """Inputs that the same methods have."""

    methods: tuple[str, ...]
    fields: tuple[Field, ...]

    @property
    def label(self) -> str:
        """The methods in words."""
        return " and ".join(METHOD_LABELS[name] for name in self.methods)


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """The form's inputs as they are laid out."""

    device: tuple[Field, ...]
    training: tuple[Field, ...]
    methods: tuple[MethodGroup, ...]
    rest: tuple[Field, ...]


@cache
def groups() -> Groups:
    """Every declared input, in its group."""
    rest = [field for field in (*TRAINING, *DEVICE) if field.name not in (*FIRST_TRAINING, *FIRST_DEVICE)]
    return Groups(
        device=_named(DEVICE, FIRST_DEVICE),
        training=_named(TRAINING, FIRST_TRAINING),
        methods=_method_groups(),
        rest=(*rest, *CHOICES),
    )


def _named(fields: Iterable[Field], names: tuple[str, ...]) -> tuple[Field, ...]:
    known = {field.name: field for field in fields}
    return tuple(known[name] for name in names)


def _method_groups() -> tuple[MethodGroup, ...]:
    owners: dict[str, list[str]] = {}
    known: dict[str, Field] = {}
    for method, fields in METHOD.items():
        for field in fields:
            owners.setdefault(field.name, []).append(method)
            known.setdefault(field.name, field)
    sharing: dict[tuple[str, ...], list[Field]] = {}
    for name, methods in owners.items():
        sharing.setdefault(tuple(methods), []).append(known[name])
    return tuple(MethodGroup(methods=methods, fields=tuple(fields)) for methods, fields in sharing.items())


@cache
def gpu_choices() -> tuple[tuple[str, tuple[GPU, ...]], ...]:
    """The catalogue's cards by vendor and segment, for a list of choices."""

    def segment(card: GPU) -> str:
        return f"{card.vendor}, {card.segment}"

    segments = list(dict.fromkeys(segment(card) for card in gpus()))
    ordered = sorted(gpus(), key=lambda card: segments.index(segment(card)))
    return tuple((name, tuple(group)) for name, group in groupby(ordered, segment))


def card_id(typed: str) -> str:
    """The id of the card that is typed, whichever of its names that is; empty where the catalogue lacks it."""
    try:
        return gpu(typed).id if typed else ""
    except PlanError:
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An answered form: a row a method, and the row of the chosen one."""

    form: Form
    rows: tuple[ComparisonRow, ...]

    @property
    def chosen(self) -> ComparisonRow:
        """The chosen method's row."""
        return next(row for row in self.rows if row.method.name == self.form.method)

    @property
    def model_name(self) -> str:
        """The model in words."""
        plan = next(row.estimate for row in self.rows if row.estimate)
        return plan.model.id or f"a {plan.model.model_type or 'model'} of {plan.model.parameters:,} parameters"

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The estimates by the methods' labels; of a refused method, its nearest alternative's."""
        shown: dict[str, Estimate] = {}
        for row in self.rows:
            if row.estimate:
                shown[row.method.facts.label] = row.estimate
            elif row.alternative:
                shown[f"{row.method.facts.label} *"] = row.alternative.estimate
        return shown

    def changes(self, row: ComparisonRow) -> dict[str, str]:
        """What the form must say to plan a row: its method, and where that is refused its alternative's settings."""
        typed: dict[str, str] = {"method": row.method.name}
        if row.estimate is None and row.alternative:
            typed |= _typed(row.alternative.changes)
        return typed


def planned(form: Form) -> Plan:
    """The form's answer.

    Raises:
        PlanError: where no method has an answer, with what the chosen one is refused for.
    """
    if form.method not in METHODS:
        parse_request(form.estimate())
    plan = Plan(form=form, rows=side_by_side(parse_comparison(form.comparison())))
    if not any(row.estimate for row in plan.rows):
        raise PlanError(*plan.chosen.problems)
    return plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggested:
    """A change that saves memory, and what the form must say to plan it."""

    suggestion: Suggestion
    changes: dict[str, str]


def suggested(form: Form, request: Request, answer: Estimate) -> tuple[Suggested, ...]:
    """What saves memory in an answered plan, the most first."""

    def changes(each: Suggestion) -> dict[str, str]:
        return {name: value for name, value in typed_of(each.request).items() if value != form.typed[name]}

    return tuple(Suggested(suggestion=each, changes=changes(each)) for each in suggestions(request, answer))


def messages(form: Form, problems: Iterable[Problem]) -> dict[str, str]:
    """What is wrong, by the page's inputs; what is of no single input stands under the empty name."""
    return form_messages.messages(problems, form.typed, input_of)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardGroup:
    """Cards of one data sheet size with the same verdict; margins are of the card that offers least."""

    memory_gb: int
    fits: tuple[Fit, ...]

    @property
    def least(self) -> Fit:
        """The card that offers least."""
        return self.fits[0]


def card_groups(plan: Estimate, attention: str) -> tuple[CardGroup, ...]:
    """The plan held against every card that has its attention's kernels, by size and verdict, smallest first."""

    def key(fit: Fit) -> tuple[int, str]:
        assert fit.gpu is not None
        return fit.gpu.memory_gb, fit.verdict

    ordered = sorted(cards(plan, attention), key=lambda fit: (key(fit)[0], fit.usable_bytes))
    sizes: dict[tuple[int, str], list[Fit]] = {}
    for fit in ordered:
        sizes.setdefault(key(fit), []).append(fit)
    return tuple(CardGroup(memory_gb=size, fits=tuple(fits)) for (size, _), fits in sizes.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class NearestSizes:
    """The sizes around the one from which on a plan fits, and that one."""

    smallest: CardGroup | None
    groups: tuple[CardGroup, ...]


def nearest_sizes(groups: tuple[CardGroup, ...]) -> NearestSizes:
    """The two sizes below the smallest that fits and the five after it; the four largest where none does."""
    first = next((i for i, group in enumerate(groups) if group.least.verdict is Verdict.FITS), None)
    if first is None:
        return NearestSizes(smallest=None, groups=groups[-4:])
    return NearestSizes(smallest=groups[first], groups=groups[max(0, first - 2) : first + 6])


def changed(changes: Mapping[str, object]) -> str:
    """Changes of a request in words: without gradient checkpointing, with attention sdpa."""
    return ", ".join(_worded(loc, value) for loc, value in changes.items())


def _worded(loc: str, value: object) -> str:
    if loc == "method.name":
        return METHOD_LABELS[str(value)]
    field = FIELDS[loc.rsplit(".", 1)[-1]]
    label = field.declared.setting.label
    label = label[0].lower() + label[1:] if label[1:2].islower() else label
    if isinstance(value, bool):
        return f"with {label}" if value else f"without {label}"
    return f"with {label} {field.text(value) or 'none'}"


@cache
def labels() -> dict[str, str]:
    """What each of the page's inputs is called."""
    return {
        "model": "Model",
        "config": "config.json",
        "method": "Method",
        **{name: field.declared.setting.label for name, field in FIELDS.items()},
    }


def _typed(changes: Mapping[str, object]) -> dict[str, str]:
    return {name: FIELDS[name].text(value) for loc, value in changes.items() for name in (loc.split(".")[-1],)}
