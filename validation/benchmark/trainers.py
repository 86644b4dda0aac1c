"""Time estimates with a trainer and without, alternately."""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from time import process_time
from typing import TYPE_CHECKING, Any, NamedTuple

from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.estimation.request import Request

#: The trainers that are timed, with what else their requests set.
TRAINERS: dict[str, dict[str, Any]] = {
    "transformers": {},
    "trl-sft": {},
    "trl-dpo": {},
    "trl-kto": {},
    "trl-orpo": {},
    "trl-grpo": {"max_completion_length": 1024},
    "trl-rloo": {"max_completion_length": 1024},
    "torchtune": {"adapter_dtype": "model"},
}

_TRAINING = {"micro_batch_size": 2, "sequence_length": 2048, "gradient_checkpointing": True}

#: The most that an estimate with a trainer may take of the time of one without.
MOST = 1.5


class Ratio(NamedTuple):
    """How much longer estimates of a kind take with a trainer."""

    title: str
    ratio: float


def ratios(body: dict[str, Any], methods: list[dict[str, Any]], runs: int) -> Iterator[Ratio]:
    """Yield the ratios of every trainer, method and way to find reserved memory."""
    for reserved in ("rule", "replay"):
        for method in methods:
            body_of_method = {**body, "method": method, "reserved": reserved}
            plain = request_of(body_of_method)
            for trainer in TRAINERS:
                other = request_of(body_of_method, trainer)
                for kind, estimating in _KINDS.items():
                    if kind == WHOLE and reserved != "rule":
                        continue
                    ratio = _ratio(estimating(plain), estimating(other), runs)
                    yield Ratio(f"{trainer}, {method['name']}, reserved by {reserved}: {kind}", ratio)


def request_of(body: dict[str, Any], trainer: str | None = None) -> Request:
    """Return a request with the timed training, with a trainer or without."""
    settings = {} if trainer is None else {"trainer": trainer, **TRAINERS[trainer]}
    return parse_request({**body, "training": {**_TRAINING, **settings}})


def estimating_alone(request: Request) -> Callable[[], object]:
    """Return a function that estimates the request as the first of its kind."""
    return lambda: estimate(request, SeriesCache())


def answering(request: Request) -> Callable[[], object]:
    """Return a function that estimates the request as the first of its kind, and reads all of the answer."""

    def answered() -> object:
        memory = estimate(request, SeriesCache(), whole=True).memory
        return memory.phases, memory.timeline, [part.rows for part in memory.components]

    return answered


def estimating_in_a_series(request: Request) -> Callable[[], object]:
    """Return a function that estimates the request with a further length each time, in a series of two before it."""
    series = SeriesCache()
    lengths = iter(range(request.training.sequence_length, 1 << 20, 64))

    def next_estimate() -> object:
        return estimate(replace(request, training=replace(request.training, sequence_length=next(lengths))), series)

    next_estimate()
    next_estimate()
    return next_estimate


#: The kind of an estimate whose answer is read as a whole.
WHOLE = "a whole answer"

#: By kind of estimate, a function that returns one that estimates a request.
_KINDS: dict[str, Callable[[Request], Callable[[], object]]] = {
    "by itself": estimating_alone,
    "a further length": estimating_in_a_series,
    WHOLE: answering,
}


def _ratio(plain: Callable[[], object], other: Callable[[], object], runs: int) -> float:
    """Return the ratio of the medians of runs that alternate, after one that is not counted."""
    times: tuple[list[float], list[float]] = [], []
    for run in range(runs + 1):
        for durations, timed in zip(times, (plain, other), strict=True):
            start = process_time()
            timed()
            if run:
                durations.append(process_time() - start)
    before, after = map(median, times)
    return after / before
