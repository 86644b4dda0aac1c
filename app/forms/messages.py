"""Problems of a request in a page's words: at the input that they speak of, with what was given there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from app.forms.fields import FIELDS, of
from app.presentation.labels import METHOD_LABELS
from calculator.architecture.config import shown
from calculator.devices.gpus import GIB
from calculator.inference.settings import Serving
from calculator.plan.needs import Needs
from calculator.plan.request import MOST_OF_A_KIND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from calculator.common.errors import Problem

_CONFIG = "model.config."

#: What is typed as a number, or nearly so, and needs no quotes.
_DIGITS = re.compile(r"[-+]?\d[\d.,e]{0,39}")

#: What the pages' inputs are called, by the API's names of the settings.
LABELS: dict[str, str] = {
    field.declared.name: field.declared.setting.label
    for field in (*FIELDS.values(), *of("needs", Needs), *of("serving", Serving))
}

#: What of the API's words a person can't type, and what to do on a page instead.
_INSTEAD = (
    (
        'must be a catalogue id, {"config": {...}} with a config.json, or {"parameters": N} with textbook accounting',
        "give a model's id or its hub URL, or paste its config.json below",
    ),
    ('give its config.json as {"config": {...}}', "paste its config.json below"),
    ('with "accounting": "textbook"', "with “Accounting”, under More settings, set to textbook"),
    ("give its size as device.memory_bytes", "give its size under “Memory”"),
    ("take false", "untick it"),
    (" or null", ", or empty"),
)

#: Settings by the API's names, as messages speak of them; what is quoted is somebody's own.
_SETTING = re.compile(
    r"""(?<!\w)(?:'[^']*'|"[^"]*")|(?<![\w.])(?P<part>(?:device|training|method|needs|serving)\.)?"""
    rf"(?P<name>{'|'.join(sorted(LABELS, key=len, reverse=True))})(?P<state> true| false)?(?!\w)"
)

#: What a plan's lists are of.
_SHORTLISTS = {"devices": "cards, the one above among them", "models": "models"}

#: Methods by the API's names, where a message begins with one.
_METHOD = re.compile(rf"^({'|'.join(METHOD_LABELS)})(?= needs )")


def messages(problems: Iterable[Problem], typed: Mapping[str, str], input_of: Callable[[str], str]) -> dict[str, str]:
    """What is wrong, by the page's inputs; what is of no single input stands under the empty name.

    `typed` is what the page's inputs hold, and `input_of` says to which of them a path in the request belongs.
    """
    held: dict[str, list[Problem]] = {}
    for problem in problems:
        held.setdefault(_pasted_or_named(input_of(problem.loc), typed), []).append(problem)
    return {name: _told(several, typed.get(name, "").strip()) for name, several in held.items()}


def worded(message: str) -> str:
    """A message of the calculator's as a page says it: settings by their labels, and the way out as it is there."""
    for words, instead in _INSTEAD:
        message = message.replace(words, instead)
    return _SETTING.sub(_labelled, _METHOD.sub(lambda method: METHOD_LABELS[method[1]], message))


def _labelled(found: re.Match[str]) -> str:
    """The label of a setting; a lone word that is a setting's name is a word, where nothing says that it is one."""
    name, state = found["name"], found["state"]
    if name is None or not (found["part"] or state or "_" in name):
        return found[0]
    return f"“{LABELS[name]}”{ {' true': ' on', ' false': ' off'}.get(state, '') }"


def _pasted_or_named(name: str, typed: Mapping[str, str]) -> str:
    """The input that holds the model, where a problem is of its config: one of the catalogue is named, not pasted."""
    return "model" if name == "config" and not typed["config"].strip() else name


def _told(problems: Iterable[Problem], typed: str) -> str:
    """Each thing that is wrong at one input, once; keys of a config with the same fault together, missing ones last."""
    keys: dict[str, list[str]] = {}
    for problem in sorted(problems, key=lambda problem: problem.input is None):
        key = problem.loc.removeprefix(_CONFIG) if problem.loc.startswith(_CONFIG) else ""
        listed = keys.setdefault(_of_key(problem) if key else _of_input(problem, typed), [])
        if key and key not in listed:
            listed.append(key)
    return "; ".join(_of_keys(listed, message) if listed else message for message, listed in keys.items())


def _of_keys(keys: list[str], message: str) -> str:
    """What is wrong with one key, or alike with several."""
    predicate = f"are {message.removeprefix('is ')}" if keys[1:] and message.startswith("is ") else message
    return f"{', '.join(keys)}: {predicate}"


def _of_key(problem: Problem) -> str:
    """What is wrong with a key of a config, and what it holds."""
    given = problem.input
    if not isinstance(given, str | int | float) or shown(given) in problem.msg:
        return problem.msg
    return f"{problem.msg} (it is {str(given).lower() if isinstance(given, bool) else shown(given)})"


def _of_input(problem: Problem, typed: str) -> str:
    """What is wrong with an input, and what is typed there."""
    if problem.loc in _SHORTLISTS and problem.msg.startswith("must be ") and isinstance(problem.input, list):
        return f"name at most {MOST_OF_A_KIND} {_SHORTLISTS[problem.loc]}, not {len(problem.input)}"
    message = _of_size(problem.msg) if problem.loc.endswith("memory_bytes") else worded(problem.msg)
    if not message.startswith("must be ") or not typed:
        return message
    return f"{message}, not {typed if _DIGITS.fullmatch(typed) else shown(typed)}"


def _of_size(message: str) -> str:
    """The same of what is typed in GiB."""
    most = FIELDS["memory_gib"].declared.setting.maximum
    if not message.startswith("must be "):
        return worded(message)
    if message.startswith("must be at most ") and most is not None:
        return f"must be at most {most / GIB:,.0f} GiB"
    return "must be a number of GiB above 0, such as 24 or 23.5"
