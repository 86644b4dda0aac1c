"""Published runs on one GPU, with their speed and their efficiency: the reached share of the GPU's rated speed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from calculator import catalogue
from calculator.devices.verdict import card_of
from calculator.estimation.estimate import estimate, model_of
from calculator.estimation.request import parse_request
from calculator.speed.step_cost import step_cost

if TYPE_CHECKING:
    from calculator.estimation.request import Request
    from calculator.methods import Method

#: Whether the base model is trained, frozen in 16 bits, or frozen in 4 bits.
Kind = Literal["full", "frozen in 16 bits", "frozen in 4 bits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedSource:
    """A publication: what it ran, and how its figures become tokens per second.

    `left_out` says why its runs count in no interval. It is empty if they count.
    """

    name: str
    title: str
    licence: str
    address: str
    date: str
    tokens: str
    runs: str
    left_out: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRun:
    """A run with its speed.

    Attributes:
        source: The publication.
        place: Where in the publication the figure is.
        request: The request that describes the run.
        card: The id of its GPU.
        kind: Whether its base model is trained, or how it is frozen.
        tokens_per_second: The measured speed, converted to tokens per second as the source describes.
        rated_seconds: The seconds of one micro-batch at the GPU's rated speeds.
        efficiency: The rated seconds divided by the measured seconds.
        differs: Where the request differs from the run.
    """

    source: SpeedSource
    place: str
    request: dict[str, Any]
    card: str
    kind: Kind
    tokens_per_second: float
    rated_seconds: float
    efficiency: float
    differs: tuple[str, ...]

    @property
    def is_possible(self) -> bool:
        """Whether the run was no faster than its GPU's rated speed. If it was, its description is wrong."""
        return self.efficiency <= 1

    @property
    def counts(self) -> bool:
        """Whether the run counts in intervals."""
        return self.is_possible and not self.source.left_out


def kind_of(method: Method) -> Kind:
    """Return whether a method trains the base model, or how it freezes it."""
    if method.facts.trains_base and not method.trains_part:
        return "full"
    return "frozen in 4 bits" if method.facts.quantizes_base else "frozen in 16 bits"


def tokens_of_step(request: Request) -> int:
    """Return the tokens of one optimizer step, without virtual tokens."""
    training = request.training
    return training.micro_batch_size * training.gradient_accumulation_steps * training.sequence_length


@cache
def published_runs() -> tuple[PublishedRun, ...]:
    """Return every published run with a speed."""
    file = catalogue.read("throughput.json")
    sources = {name: SpeedSource(name=name, **fields) for name, fields in file["sources"].items()}
    return tuple(_run(row, sources[row["source"]]) for row in file["rows"])


def _run(row: dict[str, Any], source: SpeedSource) -> PublishedRun:
    request = parse_request({**row["request"], "reserved": "rule"})
    cost = step_cost(model_of(request.model), request, estimate(request))
    card = card_of(request.device)
    assert card is not None
    return PublishedRun(
        source=source,
        place=row["place"],
        request=row["request"],
        card=card.id,
        kind=kind_of(request.method),
        tokens_per_second=row["tokens_per_second"],
        rated_seconds=cost.rated_seconds / request.training.gradient_accumulation_steps,
        efficiency=cost.rated_seconds * row["tokens_per_second"] / tokens_of_step(request),
        differs=tuple(row["differs"]),
    )
