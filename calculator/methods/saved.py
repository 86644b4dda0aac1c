"""Modules that are trained as copies beside their originals: PEFT's modules_to_save, found by how names end.

Source: peft/utils/other.py, _set_trainable; tuners/tuners_utils.py, check_target_module_exists.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate, permutations
from typing import TYPE_CHECKING

from calculator.common.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.architecture.model import Model
    from calculator.methods.settings import LowRank


def is_saved(path: str, method: LowRank) -> bool:
    """Whether a module is, or lies in, one of `modules_to_save`, found by how a path ends (peft.utils.other)."""
    if not method.modules_to_save:
        return False
    parts = path.split(".")
    owners = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return any(owner.endswith(name) for owner in owners for name in method.modules_to_save)


def problems(method: LowRank, model: Model, targets: Sequence[str]) -> Iterator[Problem]:
    """Names of no module, of a target's name in part, and of modules that lie in one another."""
    names = method.modules_to_save
    if not names:
        return
    owners = {owner for path, _ in model.paths for owner in accumulate(path.split("."), _joined)}
    told = [*_unknown(method, model), *_in_part(names, owners, targets), *_nested(names, owners)]
    yield from (Problem(loc="method.modules_to_save", msg=message, input=list(names)) for message in told)


def _unknown(method: LowRank, model: Model) -> Iterator[str]:
    for name in method.modules_to_save or ():
        if not any(is_saved(path, replace(method, modules_to_save=(name,))) for path, _ in model.paths):
            yield f"no module's name ends in {name}"


def _in_part(names: tuple[str, ...], owners: set[str], targets: Sequence[str]) -> Iterator[str]:
    """PEFT copies what a name is the mere end of, but keeps its targets only out of what has it for a whole name."""
    for name in names:
        ends = {owner for owner in owners if owner.endswith(name) and not _is(owner, name)}
        holding = {owner for owner in ends if any(f"{target}.".startswith(f"{owner}.") for target in targets)}
        cut = sorted({owner.rpartition(".")[2] for owner in holding})
        if cut:
            yield f"{name} is a part of the name {cut[0]}, by which PEFT would find it too: name modules whole"


def _nested(names: tuple[str, ...], owners: set[str]) -> Iterator[str]:
    for outer, inner in permutations(names, 2):
        held = tuple(f"{owner}." for owner in owners if _is(owner, outer))
        if any(_is(owner, inner) and owner.startswith(held) for owner in owners):
            yield f"{inner} lies in {outer}, which is saved whole: leave one of them out"


def _is(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _joined(owner: str, part: str) -> str:
    return f"{owner}.{part}"
