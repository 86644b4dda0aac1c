"""Settings of an imported request that the calculator refuses, and those of a similar run that it answers.

Each one that is replaced is a warning, which states the reason: the figures are for another run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from app.interop.imports.imported import NotUnderstood
from app.interop.imports.other_runs import text_of
from calculator.common.errors import PlanError
from calculator.estimation.compatibility import check
from calculator.estimation.estimate import model_of
from calculator.estimation.positions import within_positions
from calculator.estimation.request import parse_request
from calculator.estimation.traced.check import OTHER_STEPS, check_traced, is_traced
from calculator.estimation.trainer_settings import OF_TRAINERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.interop.imports.imported import Imported
    from calculator.common.errors import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Substitute:
    """The value that replaces a refused one, and the run that the figures are then for.

    The value None leaves the setting out. Without another run, no figure depends on the setting.
    """

    loc: str
    value: Any
    modeled: str = ""


_REFERENCE = "one of the reference step, a plain PyTorch loop"

#: Substitutes in the order in which they are tried. One is used if it ends a refusal, and none begins.
SUBSTITUTES = (
    Substitute(loc="training.attention", value="sdpa", modeled="one with sdpa"),
    Substitute(
        loc="training.gradient_checkpointing_kwargs.use_reentrant",
        value=False,
        modeled="one that checkpoints with use_reentrant false",
    ),
    Substitute(loc="training.use_liger_kernel", value=None, modeled="one with transformers' own layers and loss"),
    Substitute(loc="training.cut_cross_entropy", value=None, modeled="one that keeps the logits and their gradient"),
    Substitute(loc="training.autocast", value="bfloat16", modeled="one with autocast in bfloat16"),
    Substitute(loc="training.optimizer", value="adamw_torch", modeled="one with adamw_torch"),
    Substitute(loc="training.num_generations", value=None),
    Substitute(loc="stack", value=None, modeled="one with the default releases"),
    Substitute(loc="training.trainer", value=None, modeled=_REFERENCE),
)

#: Refused settings of a trainer that the reference step answers.
_OF_TORCHTUNE = ("method.use_dora", "method.target_modules")

#: The most settings that are replaced.
_MOST = 6


def with_modeled_settings(imported: Imported) -> Imported:
    """Return the import with settings that the calculator answers, with a warning for each one that it refuses."""
    for _ in range(_MOST):
        problems = _problems(imported.request)
        changed = next(_answers(imported.request, problems), None) if problems else None
        if changed is None:
            break
        request, problem, substitute = changed
        tool = imported.tool if request.get("training", {}).get("trainer") else ""
        imported = replace(imported, request=request, tool=tool, **_remark(imported, problem, substitute))
    return imported


def _problems(request: dict[str, Any]) -> tuple[Problem, ...]:
    """Return why a request is refused, before its step is computed."""
    try:
        parsed = parse_request(request)
        if is_traced(parsed):
            check_traced(parsed)
        else:
            model = model_of(parsed.model)
            check(within_positions(parsed, model), model)
    except PlanError as error:
        return error.problems
    return ()


def _answers(
    request: dict[str, Any], problems: tuple[Problem, ...]
) -> Iterator[tuple[dict[str, Any], Problem, Substitute]]:
    """Yield requests that are refused for fewer reasons, each with the refusal that its substitute ends."""
    for substitute in SUBSTITUTES:
        for problem in problems:
            if not _is_for(substitute, problem, request):
                continue
            changed = _changed(request, substitute)
            if {(left.loc, left.msg) for left in _problems(changed)} < {(left.loc, left.msg) for left in problems}:
                yield changed, problem, substitute


def _is_for(substitute: Substitute, problem: Problem, request: dict[str, Any]) -> bool:
    is_torchtune = problem.loc in _OF_TORCHTUNE and request.get("training", {}).get("trainer") == "torchtune"
    return problem.loc == substitute.loc or (is_torchtune and substitute.loc == "training.trainer")


def _changed(request: dict[str, Any], substitute: Substitute) -> dict[str, Any]:
    """Return the request with a substitute. Without a trainer, the settings of trainers are left out."""
    path = substitute.loc.split(".")
    if substitute.loc == "training.trainer":
        others = {*OF_TRAINERS, *OTHER_STEPS} - {"deepspeed", "fsdp_config", "ddp"}
        training = {name: value for name, value in request.get("training", {}).items() if name not in others}
        return {**request, "training": training}
    return _set(request, path, substitute.value)


def _set(values: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    name, *rest = path
    if rest:
        return {**values, name: _set(values.get(name) or {}, rest, value)}
    return {key: given for key, given in values.items() if key != name} | ({} if value is None else {name: value})


def _remark(imported: Imported, problem: Problem, substitute: Substitute) -> dict[str, Any]:
    """Return the import's remarks with that on a refused setting: a warning, or a setting that is left out."""
    reason, _, _ = problem.msg.partition(": ")
    name = problem.loc.rpartition(".")[2]
    if not substitute.modeled:
        left_out = NotUnderstood(
            key=name, value=problem.input, why=f"{reason}: it is left out, and no figure depends on it"
        )
        return {"not_understood": (*imported.not_understood, left_out)}
    value = "" if problem.input is None else f": {text_of(problem.input)}"
    says = f"it {reason}" if reason.startswith(("is ", "must ")) else reason
    warning = (
        f"Headroom does not model {name}{value} here ({says}). The figures are for another run: {substitute.modeled}."
    )
    return {"warnings": (*imported.warnings, warning)}
