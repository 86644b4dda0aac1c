"""Problems of a request as a page shows them: next to the field, with labels instead of the API's names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from app.forms.fields import FIELDS, MEMORY, METHOD_LABELS, NEEDS, SERVING
from calculator.common.errors import shown
from calculator.devices.gpus import GIB
from calculator.planning.request import MOST_OF_A_KIND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from calculator.common.errors import Problem

_CONFIG = "model.config."

#: Text that looks like a number and needs no quotes.
_DIGITS = re.compile(r"[-+]?\d[\d.,e]{0,39}")

#: The labels of settings, by the API's names.
LABELS: dict[str, str] = {
    field.declared.name: field.declared.setting.label for field in (*FIELDS.values(), *NEEDS, *SERVING)
}

#: Phrases that only make sense in JSON, and what to do on a page instead.
_INSTEAD = (
    (
        'must be a catalogue id, {"config": {...}} with a config.json, or {"parameters": N} with textbook accounting',
        "give a model's id or its hub URL, or paste its config.json into the form",
    ),
    ('give its config.json as {"config": {...}}', "paste its config.json into the form"),
    ('with "accounting": "textbook"', "with “Accounting”, under More settings, set to textbook"),
    ("give its size as device.memory_bytes", "give its size under “Memory”"),
    ("use false", "untick it"),
    (" or null", ", or empty"),
)

#: Names of settings in messages; quoted text is skipped, because it is the user's own.
_SETTING = re.compile(
    r"""(?<!\w)(?:'[^']*'|"[^"]*")|(?<![\w.])(?P<part>(?:device|training|stack|method|needs|serving)\.)?"""
    rf"(?P<name>{'|'.join(sorted(LABELS, key=len, reverse=True))})(?P<state> true| false)?(?!\w)"
)

#: The items of a plan request's lists.
_SHORTLISTS = {"devices": "GPUs, including the one above", "models": "models"}

#: A method's name at the start of a message.
_METHOD = re.compile(rf"^({'|'.join(METHOD_LABELS)})(?= needs )")


def messages(problems: Iterable[Problem], typed: Mapping[str, str], field_of: Callable[[str], str]) -> dict[str, str]:
    """Return the messages by field; problems of no single field have the empty name.

    `typed` has the text of every field; `field_of` returns the field of a dotted path in the request.
    """
    by_field: dict[str, list[Problem]] = {}
    for problem in problems:
        by_field.setdefault(_config_or_model(field_of(problem.loc), typed), []).append(problem)
    return {name: _message(several, typed.get(name, "").strip()) for name, several in by_field.items()}


def worded(message: str) -> str:
    """Reword a message of the calculator for a page: labels of settings, and what to do on the page."""
    for phrase, instead in _INSTEAD:
        message = message.replace(phrase, instead)
    return _SETTING.sub(_labeled, _METHOD.sub(lambda method: METHOD_LABELS[method[1]], message))


def _labeled(match: re.Match[str]) -> str:
    """Return the label of a setting. A plain English word stays a word, although a setting has that name."""
    name, state = match["name"], match["state"]
    if name is None or not (match["part"] or state or "_" in name):
        return match[0]
    return f"“{LABELS[name]}”{ {' true': ' on', ' false': ' off'}.get(state, '') }"


def _config_or_model(name: str, typed: Mapping[str, str]) -> str:
    """Return `model` for a problem of a config that was not pasted: the catalogue's model causes it."""
    return "model" if name == "config" and not typed["config"].strip() else name


def _message(problems: Iterable[Problem], typed: str) -> str:
    """Join the problems of one field, each once; config keys with the same problem together, missing keys last."""
    keys: dict[str, list[str]] = {}
    for problem in sorted(problems, key=lambda problem: problem.input is None):
        key = problem.loc.removeprefix(_CONFIG) if problem.loc.startswith(_CONFIG) else ""
        listed = keys.setdefault(_key_message(problem) if key else _field_message(problem, typed), [])
        if key and key not in listed:
            listed.append(key)
    return "; ".join(_keys_message(listed, message) if listed else message for message, listed in keys.items())


def _keys_message(keys: list[str], message: str) -> str:
    """Return the message of one or several keys."""
    predicate = f"are {message.removeprefix('is ')}" if keys[1:] and message.startswith("is ") else message
    return f"{', '.join(keys)}: {predicate}"


def _key_message(problem: Problem) -> str:
    """Return the message of a config key, with its value."""
    given = problem.input
    if not isinstance(given, str | int | float) or shown(given) in problem.msg:
        return problem.msg
    return f"{problem.msg} (it is {str(given).lower() if isinstance(given, bool) else shown(given)})"


def _field_message(problem: Problem, typed: str) -> str:
    """Return the message of a field, with the typed text."""
    if problem.loc in _SHORTLISTS and problem.msg.startswith("must be ") and isinstance(problem.input, list):
        return f"name at most {MOST_OF_A_KIND} {_SHORTLISTS[problem.loc]}, not {len(problem.input)}"
    message = _size_message(problem.msg) if problem.loc.endswith("memory_bytes") else worded(problem.msg)
    if not message.startswith("must be ") or not typed:
        return message
    return f"{message}, not {typed if _DIGITS.fullmatch(typed) else shown(typed)}"


def _size_message(message: str) -> str:
    """Return the message of a size, in GiB."""
    most = MEMORY.declared.setting.maximum
    if not message.startswith("must be "):
        return worded(message)
    if message.startswith("must be at most ") and most is not None:
        return f"must be at most {most / GIB:,.0f} GiB"
    return "must be a number of GiB above 0, such as 24 or 23.5"
