"""Time an estimate, a sweep of estimates, and the trace of the same request.

Timings are warm: the catalogue's model is built, and the same code ran just before. Nothing is cached between
requests, except in a sweep and a limit, whose plans share their resident tensors and a symbolic trace. An answer has
every figure; its rows and its timeline are computed when they are read, which is timed separately.

A process that was busy with something else takes longer, because the processor's caches have other contents. Lines that
end in "after other work" show by how much.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import count
from statistics import median
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

from calculator.comparison.methods import parse_comparison, side_by_side
from calculator.estimation.estimate import estimate
from calculator.estimation.recent_series import RECENT_SERIES
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from calculator.limit_search.limits import limit, parse_limit
from calculator.limit_search.sweep import answers, parse_sweep
from calculator.planning.suggestions import suggestions
from validation.benchmark import trainers
from validation.benchmark.machine_speed import loop_seconds
from validation.tracing.silence import silence_libraries

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from calculator.estimation.answer import Estimate
    from calculator.estimation.request import Request

LORA = {"name": "lora", "r": 16, "target_modules": "all-linear"}
QLORA = {"name": "qlora", "r": 16, "target_modules": "all-linear"}

#: The request whose trace and estimate are compared.
LLAMA_8B = {"model": "meta-llama/Llama-3.1-8B", "method": LORA, "reserved": "rule"}
LLAMA_70B = {"model": "meta-llama/Llama-3.1-70B", "method": QLORA, "reserved": "rule"}

#: Timed estimates: a title, a request, and the target in milliseconds.
ESTIMATES: tuple[tuple[str, dict[str, Any], float], ...] = (
    ("Llama-3.1-8B, LoRA r 16 all-linear", LLAMA_8B, 1.0),
    ("Llama-3.1-8B, the same, checkpointed", {**LLAMA_8B, "training": {"gradient_checkpointing": True}}, 1.0),
    ("Llama-3.1-70B, QLoRA r 16 all-linear", LLAMA_70B, 1.0),
    ("Llama-3.1-8B, LoRA, reserved by replay", {**LLAMA_8B, "reserved": "replay"}, 25.0),
    ("Llama-3.1-70B, QLoRA, reserved by replay", {**LLAMA_70B, "reserved": "replay"}, 60.0),
)

_CHECKPOINTED: dict[str, Any] = {"training": {"gradient_checkpointing": True}, "reserved": "replay"}

#: Timed estimates on several GPUs: the sharding and the method. Each is also timed with a further length.
SHARDED: tuple[tuple[str, dict[str, Any]], ...] = tuple(
    (sharding, method)
    for sharding in ("ddp", "fsdp", "zero1", "zero2", "zero3")
    for method in ({"name": "full"}, LORA, {**QLORA, "quant_storage": "bfloat16"} if sharding == "fsdp" else QLORA)
)

#: The number of runs between two measurements of the machine's speed.
IN_ROUND = 6

#: The target for an estimate on several GPUs, in milliseconds where an iteration of a plain loop takes `PACE`.
SHARDED_MOST = 5.0

#: The target for the second plan of a kind in a process, in the same milliseconds.
SECOND_MOST = 0.4

#: The page's plans on devices: a title, a request, and the bytes of the device.
ON_DEVICES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Llama-3.1-8B, QLoRA checkpointed", {**LLAMA_8B, "method": QLORA, **_CHECKPOINTED, "device": {"gpu": "rtx-4090"}}),
    ("Llama-3.1-8B, LoRA", {**LLAMA_8B, "reserved": "replay", "device": {"gpu": "h100"}}),
    ("Llama-3.1-70B, QLoRA checkpointed", {**LLAMA_70B, **_CHECKPOINTED, "device": {"gpu": "h100"}}),
    (
        "Llama-3.1-70B, QLoRA checkpointed, out of memory",
        {**LLAMA_70B, **_CHECKPOINTED, "device": {"gpu": "rtx-4090"}},
    ),
    (
        "Llama-3.1-8B, QLoRA checkpointed, out of memory",
        {**LLAMA_8B, "method": QLORA, **_CHECKPOINTED, "device": {"gpu": "rtx-4070"}},
    ),
)

#: Timed limits: a title, a request, and the target in milliseconds.
LIMITS: tuple[tuple[str, dict[str, Any], float], ...] = (
    (
        "Llama-3.1-8B, QLoRA on 24 GB: longest sequence",
        {**LLAMA_8B, "method": QLORA, "device": {"gpu": "rtx-4090"}, "solve_for": "sequence_length"},
        200.0,
    ),
    (
        "Gemma 3 270M, checkpointed QLoRA on 24 GB: longest sequence",
        {
            "model": "google/gemma-3-270m",
            "method": QLORA,
            "training": {"gradient_checkpointing": True},
            "device": {"gpu": "rtx-4090"},
            "solve_for": "sequence_length",
        },
        200.0,
    ),
    (
        "Llama-3.1-70B, QLoRA on 80 GB: highest rank",
        {**LLAMA_70B, "device": {"gpu": "h100"}, "solve_for": "r"},
        200.0,
    ),
)

#: A request for each method, whose model, training and device are replaced.
_METHODS = parse_comparison({"model": LLAMA_8B["model"]})

#: The timed sweep: ranks, lengths and batches of one model.
SWEEP: dict[str, Any] = {
    "request": LLAMA_8B,
    "grid": {
        "method.r": [4, 8, 16, 32, 64],
        "training.sequence_length": [512, 1024, 2048, 4096],
        "training.micro_batch_size": [1, 2, 4, 8],
    },
}

#: The target for the sweep: estimates per second on one core.
ESTIMATES_PER_SECOND = 1000

#: Seconds of a plain loop's iteration on the machine that figures of replays are compared on.
PACE = 25e-9

#: The target ratio of a trace's time to its estimate's time.
SPEEDUP = 1000

#: The message printed if the libraries are not installed.
WITHOUT_TORCH = "the trace is skipped: it needs torch, transformers, peft and bitsandbytes; `make bench` installs them"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One figure of the table, with its target."""

    title: str
    figure: str
    target: str = ""
    met: bool = True


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--runs", type=int, default=31, help="timed runs of each estimate; the median is printed (31)")
    parser.add_argument(
        "--traces", type=int, default=3, help="timed traces; the median is printed (3; 0 skips the trace)"
    )


def run(args: argparse.Namespace) -> int:
    """Time everything and print one table; returns 1 if a target is missed."""
    silence_libraries()
    lines = [
        _machine_speed(),
        *_estimates(args.runs),
        *_sharded(args.runs),
        *_trainers(args.runs),
        *_device_lines(args.runs),
        *_limits(),
        _sweep(),
    ]
    missing = find_spec("torch") is None
    if args.traces and not missing:
        lines += _trace_and_estimate(args.traces)
    width = max(len(line.title) for line in lines)
    for line in lines:
        verdict = f"{'met' if line.met else 'MISSED'}  {line.target}" if line.target else ""
        print(f"{line.title:{width}}  {line.figure:>22}  {verdict}".rstrip())
    if missing:
        print(WITHOUT_TORCH)
    return int(not all(line.met for line in lines))


def _machine_speed() -> Line:
    """Return the machine's speed, which the other timings depend on."""
    return Line(title="one iteration of a plain loop (this machine's speed)", figure=f"{loop_seconds() * 1e9:.0f} ns")


def _estimates(runs: int) -> Iterator[Line]:
    for title, body, most in ESTIMATES:
        timed = partial(_estimate_alone, parse_request(body))
        timed()
        elapsed, paced = (duration * 1e3 for duration in _paced(timed, runs))
        figure = f"{elapsed:.2f} ms" if body["reserved"] == "rule" else f"{elapsed:.1f} ms, {paced:.1f} at 25 ns"
        yield Line(title=title, figure=figure, target=f"under {most:g} ms", met=elapsed < most)
        elapsed, paced = (duration * 1e3 for duration in _paced(timed, runs, in_round=1))
        yield Line(title=f"{title}: after other work", figure=f"{elapsed:.2f} ms, {paced:.2f} at 25 ns")
    yield _second(runs)
    yield _further_estimates(runs, LLAMA_8B, 0.5)
    yield _further_estimates(runs, ESTIMATES[3][1], 20.0)
    read = seconds(partial(_read, parse_request(LLAMA_8B)), runs) * 1e3
    yield Line(title=f"{ESTIMATES[0][0]}, with every row and the timeline read", figure=f"{read:.2f} ms")


def _sharded(runs: int) -> Iterator[Line]:
    """Yield estimates of a model on 8 and 64 GPUs, by themselves and with a further length."""
    for sharding, method in SHARDED:
        for gpus in (8, 64):
            body = {**LLAMA_70B, "method": method, "device": {"count": gpus, "sharding": sharding}}
            first = parse_request({**body, "training": {"autocast": "bfloat16", "gradient_checkpointing": True}})
            title = f"Llama-3.1-70B, {method['name']} under {sharding} on {gpus} GPUs"
            yield _sharded_line(title, partial(_estimate_alone, first), min(runs, 7))
        series = SeriesCache()
        requests = (
            replace(first, training=replace(first.training, sequence_length=length)) for length in count(1024, 64)
        )
        for _ in range(2):
            _estimate_next(requests, series)
        yield _sharded_line(f"{title}: a further length", partial(_estimate_next, requests, series), min(runs, 7))


def _trainers(runs: int) -> Iterator[Line]:
    """Yield estimates with a trainer, as multiples of one without."""
    for title, ratio in trainers.ratios(LLAMA_8B, [LORA, {"name": "full"}], min(runs, 7)):
        met, target = ratio <= trainers.MOST, f"at most {trainers.MOST:g} x"
        yield Line(title=title, figure=f"{ratio:.2f} x", target=target, met=met)


def _sharded_line(title: str, timed: Callable[[], object], runs: int) -> Line:
    timed()
    elapsed, paced = (duration * 1e3 for duration in _paced(timed, runs))
    target = f"under {SHARDED_MOST:g} ms at 25 ns"
    return Line(title=title, figure=f"{elapsed:.2f} ms, {paced:.2f} at 25 ns", target=target, met=paced < SHARDED_MOST)


def _estimate_next(requests: Iterator[Request], series: SeriesCache) -> Estimate:
    return estimate(next(requests), series)


def _estimate_alone(request: Request) -> Estimate:
    """Return an estimate that shares nothing with those before it."""
    return estimate(request, SeriesCache())


def _second(runs: int) -> Line:
    """Return the second estimate of a kind in a process."""
    first, second = (parse_request({**LLAMA_8B, "training": {"sequence_length": length}}) for length in (1024, 1088))

    def forget() -> None:
        RECENT_SERIES.clear()
        estimate(first)

    elapsed, paced = (duration * 1e3 for duration in _paced(partial(estimate, second), runs, prepare=forget))
    title = "Llama-3.1-8B, LoRA, reserved by rule: the second plan of a kind"
    figure = f"{elapsed:.2f} ms, {paced:.2f} at 25 ns"
    return Line(title=title, figure=figure, target=f"under {SECOND_MOST:g} ms at 25 ns", met=paced < SECOND_MOST)


def _further_estimates(runs: int, body: dict[str, Any], most: float) -> Line:
    """Return estimates of one kind that differ in length, in a process that has answered two of them."""
    lengths = [1024 + 64 * number for number in range(runs + 2)]
    requests = [parse_request({**body, "training": {"sequence_length": length}}) for length in lengths]
    for request in requests[:2]:
        estimate(request)
    later_requests = iter(requests[2:])
    elapsed = seconds(lambda: estimate(next(later_requests, requests[-1])), runs) * 1e3
    title = f"Llama-3.1-8B, LoRA, reserved by {body['reserved']}: a further length"
    return Line(title=title, figure=f"{elapsed:.2f} ms", target=f"under {most:g} ms", met=elapsed < most)


def _read(request: Request) -> list[object]:
    """Return an estimate with its rows and its timeline, as the API answers it."""
    memory = estimate(request, SeriesCache(), whole=True).memory
    return [memory.timeline, *(part.rows for part in memory.components)]


def _device_lines(runs: int) -> Iterator[Line]:
    """Yield parts of a new plan's page, without a warm-up: what `fit` states, and all other methods and suggestions."""
    for title, body in ON_DEVICES:
        request = parse_request(body)
        for part, figures in (("fit", _fit), ("fit, other methods and suggestions", _page)):
            timed = partial(figures, request)
            elapsed, paced = _paced(timed, min(runs, 3), in_round=1)
            yield Line(title=f"{title}: {part}", figure=f"{elapsed * 1e3:.0f} ms, {paced * 1e3:.0f} at 25 ns")


def _paced(
    timed: Callable[[], object], runs: int, *, in_round: int = IN_ROUND, prepare: Callable[[], object] | None = None
) -> tuple[float, float]:
    """Return the median of several runs in seconds, and the median if an iteration of a plain loop took `PACE`.

    The loop is timed before and after each round of runs. `prepare` runs before each run. The first run of a round is
    not counted if there are several, because the loop takes so long that the caches are cold after it.
    """
    timings: list[tuple[float, float]] = []
    while len(timings) < runs:
        before, elapsed = loop_seconds(), []
        for _ in range(in_round):
            if prepare is not None:
                prepare()
            elapsed.append(_time_once(timed, process_time))
        pace = PACE * 2 / (before + loop_seconds())
        timings += [(duration, duration * pace) for duration in elapsed[in_round > 1 :]]
    return median(elapsed for elapsed, _ in timings), median(paced for _, paced in timings)


def _fit(request: Request) -> Estimate:
    """Return an estimate with what replays on the device tell a page, in a process that has answered none like it."""
    RECENT_SERIES.clear()
    answer = estimate(request)
    if answer.fit is not None:
        assert answer.fit.minimum_bytes is not None
        deque((answer.fit.out_of_memory,), maxlen=0)
        if answer.fit.outcome is not None and answer.fit.outcome.tensors_fit:
            deque((answer.fit.with_expandable_segments,), maxlen=0)
    return answer


def _page(request: Request) -> object:
    """Return all figures of the estimate page."""
    answer = _fit(request)
    requests = (
        replace(method, model=request.model, training=request.training, device=request.device) for method in _METHODS
    )
    return side_by_side(requests), suggestions(request, answer)


def _limits() -> Iterator[Line]:
    for title, body, most in LIMITS:
        elapsed = seconds(partial(limit, parse_limit(body)), 5) * 1e3
        yield Line(title=title, figure=f"{elapsed:.0f} ms", target=f"under {most:g} ms", met=elapsed < most)


def _sweep() -> Line:
    sweep = parse_sweep(SWEEP)
    elapsed = seconds(lambda: deque(answers(sweep), maxlen=0), 3)
    rate = sweep.count / elapsed
    target = f"at least {ESTIMATES_PER_SECOND:,}/s"
    title = f"sweep of {sweep.count} plans, one core"
    return Line(title=title, figure=f"{rate:,.0f} estimates/s", target=target, met=rate >= ESTIMATES_PER_SECOND)


def _trace_and_estimate(runs: int) -> Iterator[Line]:
    """Yield the trace and the estimate of one request, timed alternately."""
    from validation.tracing.trace import trace  # noqa: PLC0415  (takes seconds to import)

    request = parse_request(LLAMA_8B)
    trace(request)
    timed = (partial(estimate, request), 15), (partial(trace, request), 1)
    pairs = [[seconds(call, times, perf_counter) for call, times in timed] for _ in range(runs)]
    quick, slow = (median(times) for times in zip(*pairs, strict=True))
    yield Line(title="Llama-3.1-8B, LoRA: trace", figure=f"{slow:.2f} s")
    yield Line(title="Llama-3.1-8B, LoRA: estimate, timed alternately", figure=f"{quick * 1e3:.2f} ms")
    ratio = slow / quick
    target = f"at least {SPEEDUP:,} times"
    yield Line(title="trace / estimate", figure=f"{ratio:,.0f} times", target=target, met=ratio >= SPEEDUP)


def seconds(timed: Callable[[], object], runs: int, clock: Callable[[], float] = process_time) -> float:
    """Return the median CPU time of several runs in seconds, after one warm-up; other processes are not counted."""
    timed()
    return median(_time_once(timed, clock) for _ in range(runs))


def _time_once(timed: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    timed()
    return clock() - start
