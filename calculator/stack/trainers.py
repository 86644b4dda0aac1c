"""The releases of TRL and of transformers with which the steps of trainers are modeled, and were traced."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from calculator.stack.releases import is_older, release

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.inputs.stack import StackVersions
    from calculator.stack.releases import Release

#: The pairs of TRL and an older transformers with which steps were traced, by trainer, and the releases of transformers
#: with which steps of its Trainer were (tests/calculator/stack/traced_trainers.json).
TRACED_PAIRS: dict[str, frozenset[tuple[Release, Release]]] = {
    "trl-sft": frozenset(
        {
            ((0, 15), (4, 49)),
            ((0, 16), (4, 51)),
            ((0, 17), (4, 48)),
            ((0, 18), (4, 52)),
            ((0, 19), (4, 52)),
            ((0, 20), (4, 53)),
            ((0, 21), (4, 55)),
            ((0, 21), (4, 57)),
            ((0, 22), (4, 57)),
            ((0, 23), (4, 56)),
            ((0, 23), (4, 57)),
            ((0, 24), (4, 57)),
            ((1, 0), (4, 57)),
            ((1, 9), (4, 57)),
            ((1, 15), (4, 57)),
            ((1, 16), (4, 57)),
        }
    ),
    "trl-dpo": frozenset(
        {
            ((0, 15), (4, 48)),
            ((0, 19), (4, 52)),
            ((0, 22), (4, 57)),
            ((0, 23), (4, 56)),
            ((0, 24), (4, 57)),
        }
    ),
    "trl-grpo": frozenset(
        {
            ((0, 16), (4, 51)),
            ((0, 17), (4, 52)),
            ((0, 18), (4, 55)),
            ((0, 19), (4, 52)),
            ((0, 20), (4, 57)),
            ((0, 21), (4, 55)),
            ((0, 22), (4, 55)),
            ((0, 23), (4, 57)),
            ((0, 24), (4, 56)),
            ((0, 24), (4, 57)),
        }
    ),
    "trl-kto": frozenset({((0, 15), (4, 48)), ((0, 24), (4, 57))}),
    "trl-orpo": frozenset({((0, 15), (4, 48)), ((0, 24), (4, 57))}),
    "trl-reward": frozenset(
        {
            ((0, 15), (4, 48)),
            ((0, 17), (4, 51)),
            ((0, 19), (4, 52)),
            ((0, 21), (4, 55)),
            ((0, 22), (4, 57)),
            ((0, 23), (4, 56)),
            ((0, 24), (4, 57)),
        }
    ),
    "trl-rloo": frozenset({((0, 22), (4, 57)), ((0, 23), (4, 56)), ((0, 23), (4, 57)), ((0, 24), (4, 57))}),
}
TRACED_TRAINER: tuple[Release, ...] = ((4, 45), (4, 47), (4, 48), (4, 52), (4, 53), (4, 57))

#: The releases of TRL of which steps were traced with the default transformers.
TRACED_TRL: tuple[Release, ...] = ((0, 24), (1, 0), (1, 9), (1, 15), (1, 16))

#: The older releases of TRL whose other trainers are modeled, by trainer: the first and the last one.
OLDER_TRAINERS: dict[str, tuple[Release, Release]] = {
    "trl-dpo": ((0, 15), (0, 24)),
    "trl-grpo": ((0, 16), (0, 24)),
    "trl-kto": ((0, 15), (0, 24)),
    "trl-orpo": ((0, 15), (0, 24)),
    "trl-reward": ((0, 15), (0, 24)),
    "trl-rloo": ((0, 22), (0, 24)),
}


def untraced_trainer(versions: StackVersions, trainer: str | None) -> Iterator[str]:
    """Yield a sentence if no step of the trainer was traced with the releases."""
    version, trl = release(versions.transformers)[:2], release(versions.trl)[:2]
    named = f"TRL {versions.trl} on transformers {versions.transformers}"
    if trainer == "trl-sft":
        traced = (trl, version) in TRACED_PAIRS[trainer] if is_older(versions) else trl in TRACED_TRL
    elif is_older_trainer(trainer, versions):
        traced = (trl, version) in TRACED_PAIRS[trainer or ""]
    elif trainer == "transformers" and is_older(versions):
        traced, named = version in TRACED_TRAINER, f"transformers {versions.transformers}"
    else:
        return
    if not traced:
        yield f"No step of {trainer} was traced with {named}: the figures follow from the source of both releases."


def is_older_trainer(trainer: str | None, versions: StackVersions) -> bool:
    """Return whether the release of TRL is an older one of a trainer other than trl-sft, and is modeled."""
    return trainer in OLDER_TRAINERS and _is_between(versions.trl, *OLDER_TRAINERS[trainer])


@lru_cache(maxsize=256)
def _is_between(text: str, first: Release, last: Release) -> bool:
    """Return whether a release is one of those between the first and the last one."""
    return first <= release(text)[:2] <= last


def knows_trainer(trainer: str | None, versions: StackVersions) -> bool:
    """Return whether the trainer's step in an older transformers is known."""
    return trainer in (None, "transformers", "trl-sft") or is_older_trainer(trainer, versions)
