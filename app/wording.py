"""Problems of a request in a page's words: at the input that they speak of, with what was given there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.config import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from calculator.errors import Problem

_CONFIG = "model.config."


def messages(problems: Iterable[Problem], typed: Mapping[str, str], input_of: Callable[[str], str]) -> dict[str, str]:
    """What is wrong, by the page's inputs; what is of no single input stands under the empty name.

    `typed` is what the page's inputs hold, and `input_of` says to which of them a path in the request belongs.
    """
    held: dict[str, list[Problem]] = {}
    for problem in problems:
        held.setdefault(_pasted_or_named(input_of(problem.loc), typed), []).append(problem)
    return {name: _told(several) for name, several in held.items()}


def _pasted_or_named(name: str, typed: Mapping[str, str]) -> str:
    """The input that holds the model, where a problem is of its config: one of the catalogue is named, not pasted."""
    return "model" if name == "config" and not typed["config"].strip() else name


def _told(problems: Iterable[Problem]) -> str:
    """Each thing that is wrong at one input, once; keys of a config with the same fault together, missing ones last."""
    keys: dict[str, list[str]] = {}
    for problem in sorted(problems, key=lambda problem: problem.input is None):
        key = problem.loc.removeprefix(_CONFIG) if problem.loc.startswith(_CONFIG) else ""
        listed = keys.setdefault(_sentence(problem, key), [])
        if key and key not in listed:
            listed.append(key)
    return "; ".join(_of_keys(listed, message) if listed else message for message, listed in keys.items())


def _of_keys(keys: list[str], message: str) -> str:
    """What is wrong with one key, or alike with several."""
    told = f"are {message.removeprefix('is ')}" if keys[1:] and message.startswith("is ") else message
    return f"{', '.join(keys)}: {told}"


def _sentence(problem: Problem, key: str) -> str:
    given = problem.input
    if not key or not isinstance(given, str | int | float) or shown(given) in problem.msg:
        return problem.msg
    return f"{problem.msg} (it is {str(given).lower() if isinstance(given, bool) else shown(given)})"
