"""Modules that PEFT copies and trains in full: `modules_to_save`, matched with the end of a module's name.

Source: peft/utils/other.py, _set_trainable; tuners/tuners_utils.py, check_target_module_exists.
"""

from __future__ import annotations

from itertools import accumulate, permutations
from typing import TYPE_CHECKING

from calculator.common.errors import Problem, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.architecture.model import Model
    from calculator.inputs.training import Training
    from calculator.methods.targeted.method import TargetedMethod


#: The loops in which copies are cast to float32: that of a script, and LLaMA-Factory's, which is transformers'.
TRAINERS = (None, "transformers")


def is_saved(path: str, names: tuple[str, ...] | None) -> bool:
    """Return whether the module at a path is one of the names or inside one.

    The end of the path is compared (peft.utils.other).
    """
    if not names:
        return False
    parts = path.split(".")
    owners = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return any(owner.endswith(name) for owner in owners for name in names)


def problems(names: tuple[str, ...] | None, model: Model, targets: Sequence[str]) -> Iterator[Problem]:
    """Yield names that are part of a target's name, and modules inside one another."""
    if not names:
        return
    owners = {owner for path, _ in model.paths for owner in accumulate(path.split("."), _joined)}
    given = tuple(name for name in names if name not in model.task.head_names)
    messages = [*_partial_names(given, owners, targets), *_nested(names, owners)]
    yield from (Problem(loc="method.modules_to_save", msg=message, input=list(names)) for message in messages)


def unused_names(names: tuple[str, ...] | None, model: Model) -> tuple[str, ...]:
    """Return the names without a module, which PEFT ignores (peft.utils.other, _set_trainable)."""
    return tuple(name for name in names or () if not any(is_saved(path, (name,)) for path, _ in model.paths))


def check_dtype(method: TargetedMethod, training: Training) -> None:
    """Refuse copies in float32 where there are none, where no autocast casts them, and with trained biases or rows.

    Raises:
        PlanError: with the reason.
    """
    if method.unfrozen_dtype == "model":
        return
    loc, given = "method.unfrozen_dtype", method.unfrozen_dtype
    if not method.modules_to_save:
        raise refusal(loc, "is for copies of modules: name them in modules_to_save, or use model", given)
    if training.autocast is None and training.dtype != "float32":
        message = f"multiplies {training.dtype} with float32: set training.autocast, as bf16=True of a Trainer does"
        raise refusal(loc, message, given)
    if training.trainer not in TRAINERS:
        message = f"is modeled in the reference step and with transformers, not with {training.trainer}: use model"
        raise refusal(loc, message, given)
    if training.adapter_dtype != "float32":
        message = f"casts adapters to float32 too, and training.adapter_dtype is {training.adapter_dtype}: use float32"
        raise refusal(loc, f"{message} there, or model here", given)
    for name, none in (("bias", "none"), ("trainable_token_indices", None)):
        if getattr(method, name, none) not in (none, ()):
            raise refusal(loc, f"is modeled for copies only: use method.{name} {none or 'null'}, or model", given)


def _partial_names(names: tuple[str, ...], owners: set[str], targets: Sequence[str]) -> Iterator[str]:
    """Yield names that are only the end of a module's name.

    PEFT copies that module. From its targets, it only excludes modules whose whole name is given.
    """
    for name in names:
        ends = {owner for owner in owners if owner.endswith(name) and not _is(owner, name)}
        holding = {owner for owner in ends if any(f"{target}.".startswith(f"{owner}.") for target in targets)}
        cut = sorted({owner.rpartition(".")[2] for owner in holding})
        if cut:
            yield f"{name} is part of the name {cut[0]}, which PEFT would match too: give whole names"


def _nested(names: tuple[str, ...], owners: set[str]) -> Iterator[str]:
    for outer, inner in permutations(names, 2):
        outer_paths = tuple(f"{owner}." for owner in owners if _is(owner, outer))
        if any(_is(owner, inner) and owner.startswith(outer_paths) for owner in owners):
            yield f"{inner} is inside {outer}, which is saved whole: leave one of them out"


def _is(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _joined(owner: str, part: str) -> str:
    return f"{owner}.{part}"
