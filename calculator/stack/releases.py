"""Release numbers, and the known releases of each library."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError, Problem
from calculator.inputs.settings import declared, parse
from calculator.inputs.stack import DEFAULT_STACK, StackVersions

if TYPE_CHECKING:
    from collections.abc import Iterator

    #: The major, the minor and, if it is given, the patch number.
    Release = tuple[int, ...]

#: A release as `__version__` spells it. A local suffix such as +cu128 names a build of the same release.
_RELEASE = re.compile(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?(?:\+[a-z0-9.]{1,40})?")

#: The first and the last minor release of each known range.
KNOWN: dict[str, tuple[tuple[Release, Release], ...]] = {
    "transformers": (((4, 39), (4, 57)), ((5, 0), (5, 24))),
    "peft": (((0, 11), (0, 21)),),
    "bitsandbytes": (((0, 43), (0, 50)),),
    "trl": (((0, 9), (0, 13)), ((0, 15), (0, 24)), ((1, 0), (1, 0)), ((1, 9), (1, 9)), ((1, 15), (1, 16))),
    "unsloth": (((2026, 8), (2026, 8)), ((2026, 10), (2026, 10))),
    "liger_kernel": (((0, 8), (0, 8)),),
    "torch": (((2, 6), (2, 15)),),
}


@lru_cache(maxsize=256)
def release(text: str) -> Release:
    """Return the numbers of a well-formed release."""
    match = _RELEASE.fullmatch(text)
    assert match is not None
    return tuple(int(number) for number in match.groups() if number is not None)


def is_older(versions: StackVersions) -> bool:
    """Return whether the release of transformers is older than that of the reference step."""
    return release(versions.transformers)[:2] < release(DEFAULT_STACK.transformers)


def parse_stack(body: Any, loc: str = "stack") -> StackVersions:
    """Parse the versions of a stack, and check that each release is known.

    Raises:
        PlanError: with every problem found, each at its dotted path.
    """
    versions = parse(StackVersions, body, loc)
    problems = _problems(versions, loc)
    if problems:
        raise PlanError(*problems)
    return versions


@lru_cache(maxsize=256)
def _problems(versions: StackVersions, loc: str) -> tuple[Problem, ...]:
    return tuple(_unknown(versions, loc))


def _unknown(versions: StackVersions, loc: str) -> Iterator[Problem]:
    for field in declared(StackVersions):
        given, accepted = getattr(versions, field.name), KNOWN[field.name]
        if not _RELEASE.fullmatch(given):
            message = f"must be a release such as {field.default!r}; known are {listed(accepted)}"
            yield Problem(loc=f"{loc}.{field.name}", msg=message, input=given)
        elif not any(first <= release(given)[:2] <= last for first, last in accepted):
            message = f"{field.name} {given[:40]} is not known: use {listed(accepted)}"
            yield Problem(loc=f"{loc}.{field.name}", msg=message, input=given)


def dotted(numbers: Release) -> str:
    """Return a release in dotted form, such as 4.57."""
    return ".".join(map(str, numbers))


def listed(ranges: tuple[tuple[Release, Release], ...]) -> str:
    """Return ranges of releases as text, such as 4.48 to 4.57 or 5.0 to 5.24."""
    return " or ".join(
        dotted(first) if first == last else f"{dotted(first)} to {dotted(last)}" for first, last in ranges
    )
