"""Compare estimates of seeded random requests, over all families and options, with traces; print a table of errors."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from calculator.bases import BASES
from calculator.common.errors import PlanError, refusal
from calculator.common.names import TaskName
from calculator.estimation.request import parse_request
from calculator.families import FAMILIES, FAMILIES_WITH_FORWARD
from calculator.inputs.sharding import MODELED
from calculator.methods import METHODS
from validation.cli.progress import Progress
from validation.comparison.compare import estimate
from validation.comparison.show import peak_rank, traced_body
from validation.random_grid import table
from validation.random_grid.base_requests import random_base_request
from validation.random_grid.image_requests import random_image_request
from validation.random_grid.journal import Journal, fingerprint
from validation.random_grid.random_requests import random_request
from validation.random_grid.sharded_requests import random_sharded_request
from validation.random_grid.sharded_trainer_requests import random_sharded_trainer_request
from validation.random_grid.table import Case
from validation.random_grid.task_requests import random_task_request
from validation.random_grid.torchtune_requests import random_torchtune_request
from validation.random_grid.trainer_requests import (
    random_image_trainer_request,
    random_offloaded_request,
    random_trainer_request,
)
from validation.reference.trainers.recipe import TRAINERS
from validation.tracing import snapshot
from validation.tracing.isolation import each_alone, each_in_pool
from validation.tracing.silence import silence_libraries

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from calculator.bases import QuantMethod
    from calculator.common.names import MethodName
    from calculator.inputs.sharding import ShardingName
    from validation.reference.trainers.recipe import TrainerName

#: Cases that a worker process traces before it is replaced, which frees the memory that libraries keep.
CASES_A_WORKER = 250

#: The search for a first request with the wanted field ends after this many.
MOST_UNWANTED = 20_000


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--count", type=int, default=1000, help="how many answered requests are traced (1000)")
    parser.add_argument("--seed", type=int, default=0, help="the random seed (0)")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, metavar="FAMILY", help="only these")
    parser.add_argument("--only", metavar="FIELD", help="only requests that set this: training.autocast, ...")
    parser.add_argument("--task", choices=get_args(TaskName), default="causal_lm", help="requests for this task")
    parser.add_argument("--images", action="store_true", help="requests with images")
    parser.add_argument("--sharding", choices=sorted(MODELED - {"none"}), help="requests for several GPUs")
    parser.add_argument(
        "--trainer",
        choices=["all", *TRAINERS, "torchtune"],
        help="requests for this trainer, or for each of them but torchtune",
    )
    parser.add_argument(
        "--offloading", action="store_true", help="requests of a trainer whose activations are offloaded"
    )
    parser.add_argument("--method", choices=METHODS, help="only requests of this method")
    parser.add_argument("--base", choices=BASES, help="only requests of LoRA over this quantized base")
    parser.add_argument("--torch", metavar="RELEASE", help="requests for this release of PyTorch, the installed one")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1), help="parallel traces (2)")
    parser.add_argument("--by", nargs="*", default=[], metavar="FIELD", help="also group by: training.attention, ...")
    parser.add_argument("--results", type=Path, default=Path("build/grid.jsonl"), help="the file of traces")
    parser.add_argument("--keep", action="store_true", help="reuse traces of another version of validation/")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the table to this file")


def run(args: argparse.Namespace) -> int:
    """Trace the requests without a stored trace and print the table. Return 1 if a target is missed."""
    silence_libraries()
    cases = drawn(
        args.seed,
        args.count,
        args.families or (),
        args.only,
        args.method,
        args.task,
        with_images=args.images,
        sharding=args.sharding,
        base=args.base,
        offloads=args.offloading,
        trainers=TRAINERS if args.trainer == "all" else [trainer for trainer in TRAINERS if trainer == args.trainer],
        torchtune_only=args.trainer == "torchtune",
        torch=args.torch,
    )
    journal = Journal(args.results, None if args.keep else fingerprint())
    _trace([case for case in cases if case.worth_tracing and case.request not in journal], journal, args.processes)
    for case in cases:
        case.add_trace(journal.get(case.request))
    text, missed = table.document(cases, ["training.trainer", *args.by] if args.trainer else args.by)
    print(text)
    if args.write:
        args.write.write_text(text + "\n", encoding="utf-8")
    return int(missed)


def drawn(
    seed: int,
    count: int,
    families: Sequence[str],
    only: str | None = None,
    method: MethodName | None = None,
    task: TaskName = "causal_lm",
    *,
    with_images: bool = False,
    sharding: ShardingName | None = None,
    base: QuantMethod | None = None,
    trainers: Sequence[TrainerName] = (),
    torchtune_only: bool = False,
    offloads: bool = False,
    torch: str | None = None,
) -> list[Case]:
    """Return the first requests of a seed, until `count` are answered. Refused ones are among them.

    `only` is a field that each must set, and `method` the method of each. Without families, all that have the task.
    `sharding` draws requests for several GPUs, `base` those of LoRA over a quantized base, `trainers` those of one of
    these trainers, and `torchtune_only` those of torchtune's recipes. `offloads` draws requests of a trainer whose
    activations are offloaded. `torch` is the release of PyTorch in each request.

    Raises:
        PlanError: if no request sets the field.
    """
    cases: list[Case] = []
    answered = number = 0
    while answered < count:
        if torchtune_only:
            request = random_torchtune_request(seed, number, families, method)
        elif trainers and sharding is not None:
            request = random_sharded_trainer_request(
                seed, number, trainers, [sharding], families, with_images=with_images, offloads=offloads
            )
        elif trainers and with_images:
            request = random_image_trainer_request(seed, number, trainers, families)
        elif trainers and offloads:
            request = random_offloaded_request(seed, number, trainers, families, method)
        elif trainers:
            request = random_trainer_request(seed, number, trainers, families, method)
        elif sharding is not None:
            request = random_sharded_request(seed, number, families, sharding, with_images=with_images, method=method)
        elif base is not None:
            request = random_base_request(seed, number, families or FAMILIES_WITH_FORWARD, base)
        elif with_images:
            request = random_image_request(seed, number, families)
        elif task == "causal_lm":
            request = random_request(seed, number, families or FAMILIES_WITH_FORWARD, method)
        else:
            request = random_task_request(seed, number, task, families)
        if torch is not None:
            request = {**request, "stack": {**request.get("stack", {}), "torch": torch}}
        wanted = only is None or Case(number=number, request=request).sets(only)
        if wanted and method in (None, request["method"]["name"]):
            cases.append(estimated(number, request))
            answered += cases[-1].refusal is None
        number += 1
        if not cases and number == MOST_UNWANTED:
            message = f"none of {number:,} random requests sets it: give a dotted path, such as training.autocast"
            raise refusal(f"--only {only}", message, only)
    return cases


def estimated(number: int, request: dict[str, Any]) -> Case:
    """Return a request with the calculator's answer or refusal."""
    case = Case(number=number, request=request)
    try:
        case.estimated = estimate(parse_request(request))
    except PlanError as error:
        case.refusal = str(error)
    return case


def _trace(cases: list[Case], journal: Journal, processes: int) -> None:
    progress = Progress(len(cases), "traced")
    for case, result in _results(cases, processes):
        journal.add(case.request, result)
        progress.step()
    progress.close()


def _results(cases: list[Case], processes: int) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Yield each case with the result of its trace, as they finish. Workers are replaced after `CASES_A_WORKER`.

    A trace with a trainer has a process of its own.
    """
    numbered = {case.number: case for case in cases}
    requests = [(number, case.request) for number, case in numbered.items()]
    if cases and cases[0].request["training"].get("trainer"):
        yield from ((numbered[number], result) for (number, _), result in each_alone(_traced, requests, processes))
        return
    for start in range(0, len(requests), CASES_A_WORKER * processes):
        batch = requests[start : start + CASES_A_WORKER * processes]
        with ProcessPoolExecutor(
            min(processes, len(batch)), get_context("spawn"), initializer=silence_libraries
        ) as pool:
            yield from ((numbered[number], result) for (number, _), result in each_in_pool(pool, _traced, batch))


def _traced(numbered: tuple[int, dict[str, Any]]) -> dict[str, Any]:
    return traced(numbered[1])


def traced(request: dict[str, Any]) -> dict[str, Any]:
    """Trace a request. Return the entry of a journal: the snapshot, or the error of the real stack."""
    try:
        return {"traced": snapshot.to_json(snapshot.traced(traced_body(request, rank=peak_rank(request))))}
    except Exception as error:  # noqa: BLE001  any error of the real stack is its refusal
        return {"refused": f"{type(error).__name__}: {error}"[:300]}
