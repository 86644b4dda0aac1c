"""Problems of a request as the command line states them: with its options in place of the API's dotted paths."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError, Problem

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

#: Options whose names are not the last part of a dotted path.
_RENAMED = {"method.name": "--method"}

#: Options that take a list, by the key of the list.
_LISTS = {"methods": "--methods", "models": "--model", "devices": "--gpus"}

_PARTS = "device|training|stack|method|needs|serving|run"

#: The place of a problem that an option may have caused.
_PLACE = re.compile(rf"(?:{_PARTS})(?:\.\w+)+|(?:models|methods|devices|grid)\.|(?!(?:grid|request)$)\w+$")

#: A dotted path in a message. Quoted text is skipped, because it is the user's own.
_PATH = re.compile(rf"""(?<!\w)(?:'[^']*'|"[^"]*")|(?<![\w.])(?P<path>(?:{_PARTS})(?:\.[a-z]\w*)+)""")

#: A method, and settings of the training, as a request writes them in JSON.
_METHOD = re.compile(r'(\{"name": [^{}]*\})(?: with "training": (\{[^{}]*\}))?')

#: Phrases about a JSON request, and what to type instead.
_INSTEAD = (
    (
        'must be a catalogue id, {"config": {...}} with a config.json, or {"parameters": N} with textbook accounting',
        "must be a catalogue id or a hub URL. Or give its config.json with --config FILE",
    ),
    ('give its config.json as {"config": {...}}', "give its config.json with --config FILE"),
    ('with "accounting": "textbook"', "with --accounting textbook"),
)

#: Options without which a command has no request, with an example of each.
_EXAMPLES = {
    "model": "--model meta-llama/Llama-3.1-8B",
    "method": "--method lora",
    "device": '--gpu "RTX 4090"',
    "grid": "--grid r=8,16",
}


def require(body: Mapping[str, Any], *keys: str) -> None:
    """Check that a request body has each key, or the key of the list of its values.

    Raises:
        PlanError: with the option and an example of each that is missing.
    """
    missing = [_EXAMPLES[key] for key in keys if body.get(key) is None and body.get(f"{key}s") is None]
    if missing:
        problems = (Problem(loc=example.split()[0], msg=f"is required, such as {example}") for example in missing)
        raise PlanError(*problems)


def sentences(problems: Iterable[Problem], options: Collection[str], argv: Collection[str]) -> Iterator[str]:
    """Yield the sentence of each problem.

    `options` are those of the command, and `argv` is what was typed: a problem of a --request file keeps the path that
    the file has.
    """
    typed = {argument.partition("=")[0] for argument in argv}
    for problem in problems:
        path = problem.loc.removeprefix("request.")
        option = _option(path, options, typed) if _PLACE.match(path) else ""
        if "--request" in typed and option.partition(".")[0] not in typed:
            yield problem.sentence
        else:
            yield replace(problem, loc=option or problem.loc, msg=_worded(problem.msg, options, typed)).sentence


def worded(text: str, options: Collection[str], argv: Collection[str]) -> str:
    """Return the text of an answer with options in place of dotted paths, unless the request is that of a file."""
    typed = {argument.partition("=")[0] for argument in argv}
    return text if "--request" in typed else "\n".join(_worded(line, options, typed) for line in text.split("\n"))


def _option(path: str, options: Collection[str], typed: Collection[str]) -> str:
    """Return the option of a dotted path, with the rest of the path after a dot. Empty if there is none."""
    names = path.split(".")
    if names[0] in _LISTS:
        return _LISTS[names[0]]
    if names[0] == "grid":
        return f"--grid {'.'.join(names[1:])}"
    for count in range(len(names), 0, -1):
        option = _name(".".join(names[:count]), options, typed)
        if option:
            return ".".join((option, *names[count:]))
    return ""


def _name(path: str, options: Collection[str], typed: Collection[str]) -> str:
    """Return the option of exactly this path; of a size, the option in GiB unless the one in bytes was typed."""
    exact = _RENAMED.get(path, f"--{path.rpartition('.')[2]}")
    in_gib = exact.replace("_bytes", "_gib")
    name = exact if exact in typed else in_gib
    return name if name in options else ""


def _worded(message: str, options: Collection[str], typed: Collection[str]) -> str:
    """Return a message with the options of the paths and of the JSON in it."""
    for phrase, instead in _INSTEAD:
        message = message.replace(phrase, instead)
    message = _METHOD.sub(_method_options, message)
    return _PATH.sub(lambda match: (match["path"] and _option(match["path"], options, typed)) or match[0], message)


def _method_options(match: re.Match[str]) -> str:
    """Return the options that give the method, and the settings of the training, of a request."""
    method = json.loads(match[1])
    training = json.loads(match[2]) if match[2] else {}
    given = {"method": method.pop("name"), **method, **training}
    return " ".join(f"--{name} {_typed(value)}" for name, value in given.items())


def _typed(value: Any) -> str:
    """Return a value as an option takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, list) else str(value)
