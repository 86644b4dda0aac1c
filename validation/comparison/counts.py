"""Compare what each method adds and trains with PEFT's own parameters, for every method and family.

A pair of a method and a family is that of random requests, drawn from a seed until one is answered. A refused request
is built by the real libraries too, to find what only one side refuses.
"""

from __future__ import annotations

import gc
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from calculator.common.errors import PlanError
from calculator.estimation.compatibility import check
from calculator.estimation.estimate import model_of, resident_state
from calculator.estimation.positions import within_positions
from calculator.estimation.request import Request, parse_request
from calculator.families import FAMILIES, FAMILIES_WITH_FORWARD
from calculator.families.tasks import families_of
from calculator.methods import METHODS
from validation.cli.progress import Progress
from validation.random_grid.random_requests import random_request
from validation.random_grid.task_requests import UNMODELED, random_task_request
from validation.reference.build import ReferenceModel, build_model
from validation.tracing.silence import silence_libraries
from validation.tracing.trace import trace

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from calculator.common.names import MethodName, TaskName

#: How often each shape is added, and how often it is trained.
Shapes = tuple[Counter[tuple[int, ...]], Counter[tuple[int, ...]]]

Outcome = Literal[
    "equal", "different", "both refuse", "not modeled", "only Headroom refuses", "only the libraries refuse"
]

#: Families whose classes are in their repositories, not in transformers.
REMOTE = ("baichuan", "internlm2")

#: The training settings that a drawn request keeps.
_KEPT = ("dtype", "adapter_dtype", "autocast")

#: The requests of a pair that are drawn until one is answered.
MOST_DRAWN = 12

#: The words of refusals of what the libraries may accept.
_NOT_MODELED = ("not modeled", "is modeled for", "are modeled")

#: The task of families without a causal language model, the first that a family has.
OTHER_TASKS: tuple[TaskName, ...] = ("seq_2_seq_lm", "seq_cls", "image_cls")


@dataclass(frozen=True, slots=True)
class Compared:
    """A request with its outcome, and what differs or why it is refused."""

    outcome: Outcome
    request: dict[str, Any]
    detail: str = ""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--seed", type=int, default=0, help="the random seed (0)")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, metavar="FAMILY", help="only these")
    parser.add_argument("--methods", nargs="+", choices=METHODS, metavar="METHOD", help="only these")
    parser.add_argument("--refusals", action="store_true", help="also trace requests that only Headroom refuses")


def run(args: argparse.Namespace) -> int:
    """Compare the pairs, and print those that differ and a table; returns 1 if a count differs."""
    silence_libraries()
    families, methods = (
        args.families or [name for name in FAMILIES if name not in REMOTE],
        args.methods or list(METHODS),
    )
    results: dict[tuple[str, str], list[Compared]] = {}
    progress = Progress(len(families) * len(methods), "compared")
    for family in families:
        for method in methods:
            results[family, method] = list(compared_pair(args.seed, family, method, refusals=args.refusals))
            progress.step()
        gc.collect()
    progress.close()
    for line in document(results):
        print(line)
    return int(any(result.outcome == "different" for pair in results.values() for result in pair))


def document(results: dict[tuple[str, str], list[Compared]]) -> Iterator[str]:
    """Yield the differences, then how many pairs are equal, and why the others have no request that is answered."""
    for (family, method), pair in results.items():
        for result in pair:
            if result.outcome not in ("equal", "both refuse", "not modeled"):
                yield f"{family} {method}: {result.outcome}: {result.detail}\n    {result.request}"
    outcomes = Counter(result.outcome for pair in results.values() for result in pair)
    equal = sum(any(result.outcome == "equal" for result in pair) for pair in results.values())
    yield f"{equal} of {len(results)} pairs of a family and a method have equal parameters"
    yield "requests: " + ", ".join(f"{outcome} {count}" for outcome, count in outcomes.most_common())
    refused = {key: pair[-1].detail for key, pair in results.items() if pair[-1].outcome not in ("equal", "different")}
    for detail, count in Counter(refused.values()).most_common():
        families = dict.fromkeys(family for (family, _), reason in refused.items() if reason == detail)
        yield f"{count} without an answered request ({', '.join(families)}): {detail}"


def compared_pair(seed: int, family: str, method: MethodName, *, refusals: bool) -> Iterator[Compared]:
    """Compare random requests of a pair, until one is answered by both, or the method is not modeled for the task."""
    for number in range(MOST_DRAWN):
        result = compared(drawn(seed, number, family, method), refusals=refusals)
        yield result
        if result.outcome in ("equal", "different") or result.detail.startswith(
            f"task: {METHODS[method].facts.label} is"
        ):
            return


def drawn(seed: int, number: int, family: str, method: MethodName) -> dict[str, Any]:
    """Return a random request of a method for a family, whose learned positions are enough for its sequence."""
    if family in FAMILIES_WITH_FORWARD:
        request = random_request(seed, number, [family], method)
    else:
        request = _task_request(seed, number, family, method)
    training = {name: request["training"][name] for name in _KEPT if name in request["training"]}
    lengths = dict.fromkeys(request["training"].keys() & {"sequence_length", "target_length"}, 8)
    return {**request, "training": training | lengths}


def _task_request(seed: int, number: int, family: str, method: MethodName) -> dict[str, Any]:
    """Return a random request for the family's first task, with this method."""
    task = next((other for other in OTHER_TASKS if family in families_of(FAMILIES, other)), None)
    request = random_request(seed, number, [family], method)
    if task is None:
        return request
    task_request = random_task_request(seed, number, task, [family])
    chosen = {"name": "lora"} if method in UNMODELED[task] else request["method"]
    return {**task_request, "model": request["model"], "method": chosen}


def compared(body: dict[str, Any], *, refusals: bool = False) -> Compared:
    """Compare the parameters of a request with those of the real modules.

    With `refusals`, a request that Headroom refuses and that the libraries build is traced too: some fail as they run.
    """
    try:
        request = parse_request(body)
        expected = modeled(request)
    except PlanError as error:
        return Compared(_refused_by(body, str(error), refusals=refusals), body, str(error))
    try:
        built = real(build_model(request))
    except Exception as error:  # noqa: BLE001  any error of the real stack is its refusal
        return Compared("only the libraries refuse", body, f"{type(error).__name__}: {error}"[:300])
    return Compared("equal", body) if built == expected else Compared("different", body, _differences(expected, built))


def _refused_by(body: dict[str, Any], error: str, *, refusals: bool) -> Outcome:
    """Return whether the libraries refuse a refused request too.

    Requests that are not modeled, or whose method PEFT does not have, are skipped.
    """
    is_of_peft = METHODS[body["method"]["name"]].facts.config_class is not None
    if not is_of_peft or any(words in error for words in _NOT_MODELED):
        return "not modeled"
    if not refusals:
        return "both refuse"
    try:
        trace(parse_request(body))
    except Exception:  # noqa: BLE001  any error of the real stack is its refusal
        return "both refuse"
    return "only Headroom refuses"


def _differences(expected: Shapes, built: Shapes) -> str:
    """Return the shapes that the two do not have in equal numbers."""
    parts = []
    for name, calculated, other in zip(("added", "trained"), expected, built, strict=True):
        odd = {
            shape: (calculated[shape], other[shape])
            for shape in {*calculated, *other}
            if calculated[shape] != other[shape]
        }
        parts += [f"{name} {shape}: {ours} for {theirs}" for shape, (ours, theirs) in sorted(odd.items())]
    return "; ".join(parts)


def modeled(request: Request) -> Shapes:
    """Return the shapes of the parameters that a method adds, and of those that it trains, as they are modeled.

    Raises:
        PlanError: if the request is refused.
    """
    model = model_of(request.model)
    request = within_positions(request, model)
    check(request, model)
    added: Counter[tuple[int, ...]] = Counter()
    trained: Counter[tuple[int, ...]] = Counter()
    for tensor in resident_state(request).tensors:
        shape = tuple(map(int, tensor.shape))
        if not tensor.base and tensor.parameters:
            added[shape] += tensor.count
        if tensor.trained:
            trained[shape] += tensor.count
    return added, trained


def real(reference: ReferenceModel) -> Shapes:
    """Return the shapes of the parameters that the real method adds, and of those that it trains."""
    named = [*reference.named_parameters()]
    return (
        Counter(tuple(parameter.shape) for name, parameter in named if name not in reference.base),
        Counter(tuple(parameter.shape) for _, parameter in named if parameter.requires_grad),
    )
