"""Trace the step of a request, of its trainer or the reference, and show what is alive at its peaks.

A request with device.count above 1 is traced for one rank of its sharded run.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError, refusal
from calculator.devices.kernels import kernels_of
from calculator.estimation.compatibility import check
from calculator.estimation.estimate import model_of, training_step
from calculator.estimation.request import parse_request
from calculator.estimation.sharded_request import parse_sharded_request
from calculator.inputs.sharding import STAGES, parse_sharding
from calculator.stack.changes import older_behavior
from validation.cli.files import read_request
from validation.reference.trainers.recipe import parse_recipe
from validation.tracing.silence import silence_libraries

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    from calculator.estimation.request import Request
    from calculator.estimation.sharded_request import ShardedRequest
    from validation.reference.trainers.recipe import Recipe
    from validation.tracing.ledger import Storage
    from validation.tracing.trace import Trace


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("request", help="the file of an estimate request as JSON; - reads standard input")
    parser.add_argument("--json", action="store_true", help="print the whole trace as JSON: storages, events, peaks")
    parser.add_argument("--case", metavar="ID", help="print a line of that id for a file of tests/cases")
    parser.add_argument("--rank", type=int, default=0, metavar="R", help="the rank of a sharded run (0)")
    parser.add_argument(
        "--rows", type=int, default=0, metavar="N", help="print the N largest storages of each peak too"
    )


def run(args: argparse.Namespace) -> int:
    """Trace and print."""
    silence_libraries()
    body = read_request(args.request)
    traced = traced_body(body, rank=args.rank)
    if args.case:
        print(json.dumps(case(args.case, body, traced)))
    elif args.json:
        json.dump(document(traced), sys.stdout)
        print()
    else:
        print("\n".join(lines(traced, args.rows)))
    return 0


def traced_body(body: Any, *, rank: int = 0) -> Trace:
    """Return the trace of a request: of its trainer's step, of the reference step, or of one rank's in a sharded run.

    PyTorch is the one that is imported. The attention kernels are those that the release in `stack.torch` chooses. A
    step under FSDP2 needs a release that frees its buffers at the same moments.

    Raises:
        PlanError: if the request is wrong, or a library refuses it.
    """
    if _names_torchtune(body):
        return _torchtune_trace(parse_request(body))
    recipe = parse_recipe(body)
    if recipe is not None:
        with _release_of(recipe.request):
            return _trainer_trace(recipe, body, rank)
    sharded = parse_sharded_request(body)
    with _release_of(sharded.request):
        return _reference_trace(sharded, rank)


def _release_of(request: Request) -> AbstractContextManager[None]:
    from validation.tracing.emulations.release import release_of  # noqa: PLC0415  (as above)

    training = request.training
    kernels = kernels_of(request.device, request.stack, training.kernels)
    return release_of(kernels, has_flash_package=training.attention == "flash_attention_2")


def _reference_trace(sharded: ShardedRequest, rank: int) -> Trace:
    before_2_14 = _is_before_2_14(sharded.request)
    if sharded.sharding.name == "none":
        from validation.tracing.trace import trace  # noqa: PLC0415  (as above)

        return trace(sharded.request, before_2_14=before_2_14)
    from validation.sharding.refusals import check_torch  # noqa: PLC0415  (as above)
    from validation.sharding.trace import trace as trace_rank  # noqa: PLC0415  (as above)

    check_torch(sharded.request.stack, sharded.sharding)
    return trace_rank(sharded, rank, before_2_14=before_2_14)


def _names_torchtune(body: Any) -> bool:
    training = body.get("training") if isinstance(body, dict) else None
    return isinstance(training, dict) and training.get("trainer") == "torchtune"


def _torchtune_trace(request: Request) -> Trace:
    try:
        from validation.torchtune_recipes.trace import trace  # noqa: PLC0415  (torchtune need not be installed)
    except ImportError as error:
        reason = f"no torchtune is installed ({error}): docs/traces.md has the command that installs it"
        raise refusal("training.trainer", reason, "torchtune") from None
    return trace(request)


def peak_rank(body: Any) -> int:
    """Return the rank that an answer is about; 0 for a refused request.

    Those of a run under ZeRO's stages 1 and 2 differ. Without `reduce_scatter`, stage 3 pads the last one's gradients.
    """
    try:
        request = parse_request(body)
        if STAGES.get(request.device.sharding) == 3 and not request.training.zero.reduce_scatter:
            return request.device.count - 1
        if STAGES.get(request.device.sharding) not in (1, 2):
            return 0
        check(request, model_of(request.model))
        flat = training_step(request).flat
    except PlanError:
        return 0
    return 0 if flat is None else flat.peak_rank.number


def _is_before_2_14(request: Request) -> bool:
    return "math_kernel_for_float32_groups" in older_behavior(request.stack)


def _trainer_trace(recipe: Recipe, body: Any, rank: int) -> Trace:
    device, before_2_14 = recipe.request.device, _is_before_2_14(recipe.request)
    sharding = parse_sharding(body, device.sharding, device.count)
    if sharding.name == "none":
        from validation.tracing.trainer_trace import trace  # noqa: PLC0415  (takes seconds to import)

        return trace(recipe, before_2_14=before_2_14)
    from validation.sharding.refusals import check_torch  # noqa: PLC0415  (as above)
    from validation.sharding.trainer_trace import trace as trace_rank  # noqa: PLC0415  (as above)

    check_torch(recipe.request.stack, sharding)
    return trace_rank(recipe, sharding, rank, before_2_14=before_2_14)


def case(name: str, body: Any, traced: Trace) -> dict[str, Any]:
    """Return a traced request as a case that an estimate must equal to the byte in every phase."""
    reference = parse_request(body)
    tags = [
        "tiny",
        "peak",
        "exact",
        f"family:{model_of(reference.model).model_type}",
        f"method:{reference.method.name}",
    ]
    figures = {name: getattr(traced, name) for name in ("parameters", "static", "phases")}
    peak = {"peak_phase": traced.peak_phase, "peak_allocated_bytes": traced.peak_allocated_bytes}
    return {"id": name, "tags": tags, "request": body, "expected": figures | peak}


def document(traced: Trace) -> dict[str, Any]:
    """Return a trace as JSON values."""
    return {
        "parameters": traced.parameters,
        "static": traced.static,
        "phases": traced.phases,
        "peak_phase": traced.peak_phase,
        "peak_allocated_bytes": traced.peak_allocated_bytes,
        "peaks": {phase: asdict(peak) for phase, peak in traced.ledger.peaks.items()},
        "marks": traced.ledger.phase_starts,
        "resident": traced.resident,
        "emulations": list(traced.emulations),
        "storages": [asdict(storage) for storage in traced.ledger.storages],
        "events": traced.events,
    }


def lines(traced: Trace, rows: int) -> list[str]:
    """Return a trace as lines of text; sizes are in bytes."""
    shown = [f"parameters  {traced.parameters}", f"peak        {traced.peak_allocated_bytes:,} in {traced.peak_phase}"]
    for phase, peak in traced.ledger.peaks.items():
        alive = traced.alive_at_peak(phase)
        shown += ["", f"{phase}: {peak.bytes:,} at {peak.op}"]
        shown += [f"  {bytes_:>18,}  {component}" for component, bytes_ in bytes_by_component(alive).items()]
        for storage in sorted(alive, key=lambda storage: -storage.bytes)[:rows]:
            shape = "×".join(map(str, storage.shape))
            description = (
                f"{storage.moment:9} {storage.name or storage.site} {shape} {storage.dtype} {storage.component}"
                f"{storage.stream and f' on {storage.stream}'}"
            )
            shown.append(f"    {storage.bytes:>16,}  {description}")
    return shown


def bytes_by_component(storages: Iterable[Storage]) -> dict[str, int]:
    """Return bytes by component, largest first."""
    sums: dict[str, int] = defaultdict(int)
    for storage in storages:
        sums[storage.component] += storage.bytes
    return dict(sorted(sums.items(), key=lambda item: -item[1]))
