"""Trace the phases of whole runs in tests/cases/run again, and print those whose bytes differ from the recorded ones.

python -m validation phase-traces --write                             # record what is traced
python -m validation phase-traces --file loading --add REQUEST.json   # trace a request and record it
python -m validation phase-traces --file loading --seed SEED --count 20   # compare random requests under ZeRO-3
python -m validation phase-traces --file evaluation --seed SEED --trainer all --sharding fsdp   # compare random ones

Each trace has a process of its own. DeepSpeed's need it installed.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError
from calculator.families import FAMILIES
from calculator.inputs.sharding import MODELED
from calculator.methods import METHODS
from calculator.run.request import parse_run, with_trainer
from calculator.run.run import whole_run
from validation.cli.files import read_request
from validation.cli.progress import Progress
from validation.comparison.phases import CASES
from validation.random_grid.evaluation_requests import random_evaluation_request
from validation.random_grid.sharded_requests import random_sharded_request
from validation.reference.trainers.recipe import TRAINERS
from validation.tracing.isolation import each_alone, in_new_process

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    Case = dict[str, Any]

#: The files of cases.
FILES = ("evaluation", "loading", "merge")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--file", choices=FILES, help="only the cases of this file; default: all")
    parser.add_argument("--write", action="store_true", help="write what is traced into the files")
    parser.add_argument("--add", nargs="+", default=[], metavar="REQUEST", help="add requests to --file")
    parser.add_argument("--seed", type=int, help="draw random requests instead, and compare their --file")
    parser.add_argument("--count", type=int, default=10, help="how many are drawn")
    parser.add_argument("--trainer", choices=["all", *TRAINERS], default="all", help="the trainer of evaluations")
    parser.add_argument("--sharding", choices=sorted(MODELED - {"none"}), help="evaluations on several GPUs")
    parser.add_argument("--method", choices=METHODS, help="the method of evaluations on one GPU")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=(), metavar="FAMILY", help="only these")
    parser.add_argument("--processes", type=int, default=1, help="parallel traces of evaluations (1)")


def run(args: argparse.Namespace) -> int:
    """Trace phases again. Return 1 if bytes differ from those recorded or predicted."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed looks for a GPU while it is imported
    if args.seed is not None and args.file == "evaluation":
        return int(_evaluations_differ(args))
    if args.seed is not None:
        return int(max(_differs(args.seed, number) for number in range(args.count)))
    differ = False
    for name in [args.file] if args.file else FILES:
        file = CASES / f"{name}.jsonl"
        recorded = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        given = [case for path in args.add for case in _cases(name, read_request(path))]
        traced = [_traced(name, case) for case in given]
        if not given:
            traced = [_traced(name, case) for case in recorded]
            differ |= max(_printed(name, *pair) for pair in zip(recorded, traced, strict=True))
        if args.write or given:
            lines = (json.dumps(case) + "\n" for case in ((*recorded, *traced) if given else traced))
            file.write_text("".join(lines), encoding="utf-8")
    return int(differ)


def _cases(name: str, request: dict[str, Any]) -> list[Case]:
    """Return the cases of a request, one for each phase that is traced."""
    if name != "evaluation":
        return [{"request": request}]
    phases = ("evaluation", "generation") if parse_run(request).run.generates else ("evaluation",)
    return [{"phase": phase, "request": request} for phase in phases]


def _printed(name: str, recorded: Case, traced: Case) -> bool:
    """Return whether a case differs from its trace, which is printed."""
    if recorded == traced:
        return False
    figures = [{key: value for key, value in case.items() if key != "request"} for case in (recorded, traced)]
    print(f"{name}: recorded {figures[0]}, traced {figures[1]}: {json.dumps(recorded['request'])}")
    return True


def _differs(seed: int, number: int) -> bool:
    """Return whether the loading of a random request differs from its trace."""
    body = random_sharded_request(seed, number, sharding="zero3") | {"reserved": "rule", "run": {"save_strategy": "no"}}
    try:
        loaded = next(phase for phase in whole_run(parse_run(body)).phases if phase.name == "load")
        traced = in_new_process(_loading, {"request": body})["load_bytes"]
    except PlanError as error:
        print(f"{number}: refused: {error}")
        return False
    print(f"{number}: predicted {loaded.gpu_bytes:,} ({loaded.operation}), traced {traced:,}")
    return bool(loaded.gpu_bytes != traced)


def _evaluations_differ(args: argparse.Namespace) -> bool:
    """Return whether evaluations of random requests differ from their traces. Those that are refused are counted."""
    trainers = TRAINERS if args.trainer == "all" else (args.trainer,)
    drawn: list[tuple[int, str, Case, int]] = []
    number = 0
    while len({number for number, *_ in drawn}) < args.count:
        body = random_evaluation_request(args.seed, number, trainers, args.sharding, args.families, args.method)
        drawn += _predicted(number, body)
        number += 1
    equal = total = failed = 0
    cases = [{"phase": phase, "request": body, "number": number, "bytes": size} for number, phase, body, size in drawn]
    progress = Progress(len(cases), "evaluations")
    for case, traced in each_alone(_evaluation_or_error, cases, args.processes):
        progress.step()
        failed += "error" in traced
        total += "error" not in traced
        equal += traced.get("peak_bytes") == case["bytes"]
        if traced.get("peak_bytes") != case["bytes"]:
            print(f"{case['number']}: {case['phase']}: predicted {case['bytes']:,}, traced {traced}")
            print(json.dumps(case["request"]), flush=True)
    progress.close()
    print(f"{equal} of {total} traced phases are equal; {failed} traces failed; {number} requests were drawn")
    return equal < total


def _predicted(number: int, body: Case) -> list[tuple[int, str, Case, int]]:
    """Return the traced phases of a request with their bytes; none if it is refused."""
    try:
        phases = whole_run(parse_run(body)).phases
    except PlanError:
        return []
    return [
        (number, phase.name, body, phase.gpu_bytes) for phase in phases if phase.name in ("evaluation", "generation")
    ]


def _evaluation_or_error(case: Case) -> Case:
    try:
        return _evaluation(case)
    except Exception as error:  # noqa: BLE001  a grid goes on after a trace that fails
        return {"error": f"{type(error).__name__}: {error}"}


def _traced(name: str, case: Case) -> Case:
    """Return a case with what a trace shows."""
    trace: dict[str, Callable[[Case], Case]] = {"evaluation": _evaluation, "loading": _loading, "merge": _merge}
    return {**case, **in_new_process(trace[name], case)}


def body_of_step(case: Case) -> Case:
    """Return the request of a step of the run's trainer."""
    return {name: value for name, value in with_trainer(case["request"]).items() if name not in ("run", "reserved")}


def _loading(case: Case) -> Case:
    from validation.sharding.loading import trace_sharding  # noqa: PLC0415  (a trace's process imports the libraries)
    from validation.tracing.initialization import trace_initialization  # noqa: PLC0415  (as above)
    from validation.tracing.reading import trace_reading  # noqa: PLC0415  (as above)

    request = parse_run(case["request"])
    if request.estimate.device.sharding == "none":
        trace = trace_initialization if "init_lora_weights" in case["request"]["method"] else trace_reading
        return {"load_bytes": trace(request.estimate), "gathered_bytes": None}
    load, gathered = trace_sharding(body_of_step(case))
    return {"load_bytes": load, "gathered_bytes": gathered if request.run.saves else 0}


def _evaluation(case: Case) -> Case:
    from validation.sharding.evaluation import trace_sharded_evaluation  # noqa: PLC0415  (as above)
    from validation.tracing.evaluation import trace_evaluation  # noqa: PLC0415  (as above)

    request = parse_run(case["request"])
    trace = trace_evaluation if request.estimate.device.sharding == "none" else trace_sharded_evaluation
    traced = trace(body_of_step(case), request.run)
    peak = traced.generation_bytes if case["phase"] == "generation" else traced.peak_bytes
    return {"resident_bytes": traced.resident_bytes, "peak_bytes": peak}


def _merge(case: Case) -> Case:
    from calculator.inference.served_method import ServedMethod  # noqa: PLC0415  (as above)
    from calculator.inference.settings import Serving  # noqa: PLC0415  (as above)
    from validation.tracing.merging import trace_merge  # noqa: PLC0415  (as above)

    estimate = parse_run(case["request"]).estimate
    serving = Serving(dtype=estimate.training.dtype, adapter_dtype=estimate.training.adapter_dtype)
    before, peak = trace_merge(estimate.model, ServedMethod(method=estimate.method, quantization=None), serving)
    return {"phase": "merge", "peak_bytes": peak - before}
