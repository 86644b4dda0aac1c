"""Upper bounds on a setting that do not depend on memory: the model's context, matrix sizes, the field's maximum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from calculator.allocator.out_of_memory import format_size
from calculator.common.errors import refusal
from calculator.estimation import image_requests
from calculator.estimation.image_requests import MOST_CHUNKS
from calculator.estimation.positions import most_positions, positions_reason
from calculator.inputs.settings import Declared, declared
from calculator.inputs.size_settings import SizeName
from calculator.inputs.training import Training
from calculator.methods.low_rank.ranks import sentence, smaller_sides

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.common.names import TaskName
    from calculator.estimation.request import Request
    from calculator.methods import Method

BoundedBy = Literal["memory", "context_length", "matrix", "field_maximum", "sharding"]

#: The settings that a limit can be requested for: the largest of every size, and the fewest GPUs.
SolveFor = Literal[SizeName, "count"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """An upper bound and its reason.

    `limit` is in bytes if memory is the bound. Otherwise it is a value of the setting.
    """

    by: BoundedBy
    limit: int
    reason: str


def excess_of(required: int, usable: int, card: str) -> str:
    """Say how much more than a GPU's memory a run requires, for the end of a sentence."""
    offered = f"the {format_size(usable)} that {card} offers"
    return f"{format_size(required - usable)} more than {offered}" if required > usable else f"all of {offered}"


def solved(request: Request, name: SizeName) -> Declared:
    """Return the declaration of the setting that is solved for.

    Raises:
        PlanError: if the method has no such setting.
    """
    names = solvable(request.method, request.task)
    if name not in names:
        owner = request.task if name in solvable(request.method) else request.method.name
        raise refusal("solve_for", f"{owner} has no {name}: solve for {', '.join(names)}", name)
    return names[name]


def without_length(request: Request, model: Model, name: SizeName) -> None:
    """Refuse the length of audio, which the model's config determines.

    Raises:
        PlanError: if it is solved for.
    """
    if name == "sequence_length" and model.reads_audio:
        others = ", ".join(solvable_of(request, model))
        raise refusal("solve_for", f"audio has no {name} to choose: solve for {others}", name)


def solvable_of(request: Request, model: Model) -> dict[SizeName, Declared]:
    """Return the sizes of a request that a limit can be requested for. Images and audio have no length to choose."""
    sizes = solvable(request.method, request.task)
    return {name: field for name, field in sizes.items() if name != "sequence_length" or not model.reads_audio}


def solvable(method: Method, task: TaskName = "causal_lm") -> dict[SizeName, Declared]:
    """Return the sizes of a method and its training that a limit can be requested for.

    Images have no length to choose.
    """
    kinds: tuple[type, ...] = (type(method), Training)
    fields = {field.name: field for kind in kinds for field in declared(kind)}
    fixed = ("sequence_length",) if task == "image_cls" else ()
    return {name: fields[name] for name in get_args(SizeName) if name in fields and name not in fixed}


def bound(request: Request, model: Model, name: SizeName) -> Bound:
    """Return the lowest bound on a setting, apart from memory."""
    return min(_bounds(request, model, name), key=lambda candidate: candidate.limit)


def _bounds(request: Request, model: Model, name: SizeName) -> Iterator[Bound]:
    most = int(solved(request, name).setting.maximum or 0)
    yield Bound(by="field_maximum", limit=most, reason=f"{name} is at most {most:,} here")
    chunks = image_requests.chunks_of_sequence(request, model) if name == "micro_batch_size" else 0
    if chunks:
        reason = f"a tower attends within {chunks:,} windows or images of a sequence, and {MOST_CHUNKS:,} are modeled"
        yield Bound(by="field_maximum", limit=max(1, MOST_CHUNKS // chunks), reason=reason)
    if name in ("sequence_length", "num_virtual_tokens"):
        yield from _positions(request, model, name)
    if name == "r":
        yield _matrix(request, model)


def _positions(request: Request, model: Model, name: SizeName) -> Iterator[Bound]:
    context, most = model.config.get("max_position_embeddings"), most_positions(model)
    if context is not None:
        reason = f"the model's context length is {context:,} positions (max_position_embeddings)"
        yield _context_length(request, int(context), name, reason)
    if most is not None and not model.reads_audio:
        yield _context_length(request, most, name, f"{positions_reason(model, most)} positions")


def _context_length(request: Request, context: int, name: SizeName, reason: str) -> Bound:
    tokens, virtual = request.training.sequence_length, int(getattr(request.method, "num_virtual_tokens", 0))
    if name == "num_virtual_tokens":
        less, value = f" less the sequence's {tokens:,}", context - tokens
    else:
        less, value = f" less {virtual:,} virtual tokens" if virtual else "", context - virtual
    return Bound(by="context_length", limit=value, reason=f"{reason}{less}")


def _matrix(request: Request, model: Model) -> Bound:
    """Return the largest of the adapted matrices' smaller sides.

    The rank of B·A can't exceed it in any matrix.
    """
    sides = smaller_sides(request.method, model, request.training)
    name = max(sides, key=lambda side: sides[side])
    reason = f"the smaller side of {name} is {sides[name]:,}, the largest of all adapted matrices: rank is at most that"
    return Bound(by="matrix", limit=sides[name], reason=reason)


def outgrown(request: Request, model: Model, r: int) -> tuple[str, ...]:
    """Return a warning if a rank exceeds the smaller side of some adapted matrices."""
    sides = smaller_sides(request.method, model, request.training)
    exceeded = {name: side for name, side in sides.items() if side < r}
    return (sentence(r, exceeded),) if exceeded else ()
