"""Search each endpoint for the accepted request that takes the most CPU time.

The search begins with a plain request. It tries the values of each field in turn and keeps the slowest, twice over. A
request that takes longer than --limit ends there and is listed as such. Nothing is cached between requests. Sweeps are
streamed: their figure is the time to the first row.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from time import process_time
from typing import TYPE_CHECKING, Any

from calculator.common.budget import OverBudgetError, limited
from calculator.common.errors import PlanError
from calculator.comparison.methods import compare, parse_comparison
from calculator.estimation.estimate import estimate
from calculator.estimation.recent_series import RECENT_SERIES
from calculator.estimation.request import parse_request
from calculator.inference.inference import inference
from calculator.inference.request import parse_inference
from calculator.limit_search.limits import limit, parse_limit
from calculator.limit_search.sweep import MAX_POINTS, answers, parse_sweep
from calculator.planning.plan import plan
from calculator.planning.request import parse_plan
from validation.benchmark.machine_speed import loop_seconds

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

#: Fields by dotted path, each with the values that are tried.
Axes = dict[str, tuple[Any, ...]]

MODELS = ("meta-llama/Llama-3.1-405B", "deepseek-ai/DeepSeek-V3", "google/gemma-2-27b", "meta-llama/Llama-3.1-8B")
METHODS: tuple[Any, ...] = (
    {"name": "lora", "target_modules": "all-linear"},
    {"name": "qlora", "target_modules": "all-linear"},
    {"name": "full"},
    {"name": "oft", "target_modules": "all-linear"},
)
HISTORY: tuple[Any, ...] = (None, [[length, 1] for length in range(64, 2048, 64)])
RUN: Axes = {
    "model": MODELS,
    "method": METHODS,
    "training.gradient_checkpointing": (False, True),
    "training.gradient_accumulation_steps": (1, 16),
    "training.sequence_lengths": HISTORY,
    "training.trainer": (None, "trl-kto"),
    "device": ({"gpu": "h200"}, {"gpu": "rtx-4090"}, {"gpu": "h200", "count": 8, "sharding": "zero2"}),
}
_PLAIN: dict[str, Any] = {"model": MODELS[-1], "method": METHODS[0], "device": {"gpu": "h200"}, "reserved": "replay"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """An endpoint, a request of it, and the fields that are varied."""

    endpoint: str
    answer: Callable[[Any], Any]
    plain: dict[str, Any]
    axes: Axes


def _estimate(body: Any) -> Any:
    return estimate(parse_request(body), whole=True)


def _compare(body: Any) -> Any:
    return compare(parse_comparison(body))


def _limits(body: Any) -> Any:
    return limit(parse_limit(body))


def _plan(body: Any) -> Any:
    return plan(parse_plan(body))


def _inference(body: Any) -> Any:
    return inference(parse_inference(body))


def _first_row(body: Any) -> Any:
    return next(answers(parse_sweep(body)))


def _without(body: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in names}


SEARCHES = (
    Search(endpoint="estimate", answer=_estimate, plain=_PLAIN, axes=RUN),
    Search(
        endpoint="compare",
        answer=_compare,
        plain=_without(_PLAIN, "method"),
        axes={
            **{path: values for path, values in RUN.items() if path != "method"},
            "methods": ([*METHODS], [{"name": "lora", "r": rank} for rank in range(1, 65)]),
        },
    ),
    Search(
        endpoint="limits",
        answer=_limits,
        plain={**_PLAIN, "solve_for": "r"},
        axes={**RUN, "solve_for": ("r", "sequence_length", "micro_batch_size")},
    ),
    Search(
        endpoint="plan",
        answer=_plan,
        plain=_without(_PLAIN, "method"),
        axes={
            "model": MODELS,
            "device": ({"gpu": "h200"}, {"gpu": "rtx-4090"}, {"gpu": "h200", "count": 8, "sharding": "fsdp"}),
            "training.trainer": (None, "trl-sft"),
            "needs.sequence_length": (512, 32_768),
            "needs.tasks": (1, 100),
        },
    ),
    Search(
        endpoint="inference",
        answer=_inference,
        plain=_PLAIN,
        axes={
            "model": MODELS,
            "method": METHODS,
            "serving.new_tokens": (16, 4096, 32_768),
            "serving.batch_size": (1, 64),
            "serving.tasks": (1, 100),
        },
    ),
    Search(
        endpoint="sweep",
        answer=_first_row,
        plain={"request": _PLAIN, "grid": {"method.r": [8]}},
        axes={
            "request": ({**_PLAIN, "model": MODELS[0]}, _PLAIN),
            "grid": ({"method.r": list(range(1, MAX_POINTS + 1))},),
        },
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowestRequest:
    """The slowest request that was found, and how many were tried."""

    body: dict[str, Any]
    seconds: float
    over: bool
    tried: int


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    names = [search.endpoint for search in SEARCHES]
    parser.add_argument("--endpoint", choices=names, action="append", help="the endpoints that are searched (all)")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds of CPU time of one request (20)")
    parser.add_argument("--rounds", type=int, default=2, help="how often every field is varied (2)")


def run(args: argparse.Namespace) -> int:
    """Print a row for each endpoint."""
    print(f"A turn of a plain loop takes {loop_seconds() * 1e9:.0f} ns.")
    for search in SEARCHES:
        if not args.endpoint or search.endpoint in args.endpoint:
            results = searched(search, args.limit, args.rounds)
            over = "over " if results.over else ""
            print(
                f"| {search.endpoint} | {results.tried} | {over}{results.seconds:.2f} s | `{_short(results.body)}` |",
                flush=True,
            )
    return 0


def searched(search: Search, limit: float, rounds: int) -> SlowestRequest:
    """Return the slowest request of a search."""
    seconds, over = spent(search.answer, search.plain, limit)
    best = SlowestRequest(body=search.plain, seconds=seconds, over=over, tried=1)
    for path, value in [
        (path, value) for _ in range(rounds) for path, values in search.axes.items() for value in values
    ]:
        if best.over:
            break
        body = _with_value(best.body, path.split("."), value)
        seconds, over = spent(search.answer, body, limit) if body != best.body else (0.0, False)
        dearer = seconds > best.seconds
        best = SlowestRequest(
            body=body if dearer else best.body,
            seconds=max(seconds, best.seconds),
            over=over,
            tried=best.tried + (body != best.body),
        )
    return best


def spent(answer: Callable[[Any], Any], body: dict[str, Any], limit: float) -> tuple[float, bool]:
    """Return the CPU time of a request, and whether it is over the limit; none of a request that is refused."""
    RECENT_SERIES.clear()
    begun = process_time()
    try:
        with limited(limit):
            answer(body)
    except OverBudgetError:
        return process_time() - begun, True
    except PlanError:
        return 0.0, False
    return process_time() - begun, False


def _with_value(body: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    first, *rest = path
    return {**body, first: _with_value(body.get(first, {}), rest, value) if rest else value}


def _short(body: dict[str, Any]) -> str:
    text = json.dumps(body)
    return text if len(text) < 400 else f"{text[:400]}…"
