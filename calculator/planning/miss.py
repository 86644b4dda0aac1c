"""Where nothing fits: the nearest miss, what to change, and the smallest card that would do."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from calculator import catalogue
from calculator.comparison import AXES, cards
from calculator.devices import Verdict, gpus
from calculator.errors import PlanError
from calculator.methods import METHODS
from calculator.planning.attempts import Attempts
from calculator.planning.found import found
from calculator.planning.label import label
from calculator.planning.limits import LimitRequest, limit
from calculator.planning.needs import Needs, barred
from calculator.planning.reason import millions
from calculator.request import ModelReference
from calculator.training import Device

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.answer import Estimate
    from calculator.devices import GPU, Fit
    from calculator.planning.attempts import Choice
    from calculator.planning.together import Together
    from calculator.request import Request

_SIZE = re.compile(r"[-_]?\d+(?:\.\d+)?[bm]\b", re.IGNORECASE)

#: Which cards a plan that fits none of those at hand is tried on: those that the figures speak of.
AMONG = "of the catalogue's NVIDIA cards from compute capability 8.0 on"

#: Sequences shorter than so many tokens are not proposed, nor fewer tasks than there is something to switch between.
SHORTEST = 64
FEWEST = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change that makes a configuration fit: in words, and what of the plan's request it sets."""

    sentence: str
    sets: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """The configuration that comes nearest to the device, and the card that it fits.

    `short_bytes` are of its training or, where more is wanting there, of its tasks `together`, if all are held at once.
    `card` is the smallest of the catalogue that holds it, of those that the figures speak of: NVIDIA's from compute
    capability 8.0 on; None where none does. `card_request` is the plan on it, whose dtype is what that card computes
    in, and `card_fit` that plan's verdict.
    """

    request: Request
    estimate: Estimate
    short_bytes: int
    together: Together | None
    card: GPU | None
    card_request: Request | None
    card_fit: Fit | None

    @property
    def label(self) -> str:
        """The configuration in words."""
        return label(self.request.method)


def nearest(attempts: Attempts, thriftiest: Iterable[Choice]) -> tuple[Choice, Estimate] | None:
    """The choice among the thriftiest of the methods that misses by least, with its estimate.

    Before all others come those that miss by their tasks alone.
    """
    answers = [(choice, attempts.answer(choice)) for choice in thriftiest]
    known = [(choice, answer) for choice, answer in answers if answer is not None]
    return min(known, key=lambda pair: (not attempts.trains(pair[0]), attempts.short_bytes(pair[0])), default=None)


def missed(attempts: Attempts, choice: Choice, answer: Estimate) -> Miss:
    """A choice that does not fit, with the smallest card that it does fit."""
    there = smallest_card(attempts, choice)
    held = there.answer(choice) if there else None
    return Miss(
        request=attempts.request(choice),
        estimate=answer,
        short_bytes=attempts.short_bytes(choice),
        together=attempts.together(choice),
        card=there.card if there else None,
        card_request=there.request(choice) if there else None,
        card_fit=held.fit if held else None,
    )


def changes(attempts: Attempts, choice: Choice | None) -> tuple[Change, ...]:
    """What would make something fit, beside another card: changes to the needs, and a smaller model."""
    smaller = _smaller_needs(attempts, choice) if choice else ()
    return (*smaller, *_relaxed(attempts), *_smaller_model(attempts))


def smallest_card(attempts: Attempts, choice: Choice) -> Attempts | None:
    """The smallest card that the figures speak of and that holds a choice, by an estimate of the choice there.

    Such cards compute alike, so that what a choice needs on one tells of all.
    """
    spoken_of = [card for card in gpus() if card.compute_capability is not None and card.has_flash]
    answer = _on(spoken_of[0], attempts).answer(choice)
    for held in cards(answer) if answer else ():
        if held.gpu in spoken_of and held.verdict is Verdict.FITS:
            there = _on(held.gpu, attempts)
            if there.fits(choice):
                return there
    return None


def _on(card: GPU, attempts: Attempts) -> Attempts:
    """Attempts on another card."""
    return Attempts(attempts.reference, Device(gpu=card.id), attempts.needs, length_given=attempts.length_given)


def _smaller_needs(attempts: Attempts, choice: Choice) -> Iterator[Change]:
    """The longest sequence and the most tasks with which the choice fits, if there are any worth the name."""
    needs, together = attempts.needs, attempts.together(choice)
    told, sets = [], {}
    if not attempts.trains(choice):
        longest = limit(LimitRequest(request=attempts.request(choice), solve_for="sequence_length")).value
        if longest is None or not SHORTEST <= longest < needs.sequence_length:
            return
        told.append(f"{longest:,} tokens a sequence instead of {needs.sequence_length:,}")
        sets["sequence_length"] = longest
    if together is not None and not together.held:
        if together.most < FEWEST:
            return
        told.append(f"{together.most:,} tasks instead of {needs.tasks:,}")
        sets["tasks"] = together.most
    yield Change(sentence=f"With {' and '.join(told)} it fits.", sets=sets)


def _relaxed(attempts: Attempts) -> Iterator[Change]:
    """Each need without which a method fits."""
    usual = Needs()
    for need in ("must_merge", "frozen_base", "switch_per_request", "max_trainable_fraction"):
        if getattr(attempts.needs, need) == getattr(usual, need):
            continue
        changed = {need: getattr(usual, need)}
        freer = Attempts(
            attempts.reference, attempts.device, replace(attempts.needs, **changed), length_given=attempts.length_given
        )
        fitting = [
            AXES[name].label
            for name in METHODS
            if not barred(name, freer.needs, freer.model) and found(name, freer).choices
        ]
        if fitting:
            yield Change(sentence=f"Without {need} there fits: {', '.join(fitting)}.", sets=changed)


def _smaller_model(attempts: Attempts) -> Iterator[Change]:
    """The largest smaller model of the same series that fits by the low-rank methods."""
    series, count = _series(attempts.model.id), attempts.model.parameters
    family = sorted(
        (entry for entry in catalogue.models() if series and _series(entry.id) == series and entry.parameters < count),
        key=lambda entry: entry.parameters,
    )

    def too_large(entry: catalogue.ModelEntry) -> bool:
        try:
            smaller = Attempts(
                ModelReference(id=entry.id), attempts.device, attempts.needs, length_given=attempts.length_given
            )
        except PlanError:
            return True
        return not any(found(name, smaller).choices for name in ("qlora", "lora"))

    fitting = bisect_right(family, False, key=too_large)
    if fitting:
        entry = family[fitting - 1]
        yield Change(
            sentence=f"{entry.id}, of the same series with {millions(entry.parameters)} parameters, fits.",
            sets={"model": entry.id},
        )


def _series(id: str | None) -> str:  # noqa: A002  the API's word
    """A model's id up to its size: meta-llama/Llama-3.1 for meta-llama/Llama-3.1-70B; empty where it names none."""
    name, *rest = _SIZE.split(id or "", maxsplit=1)
    return name if rest else ""
