"""A command line of TRL as the keys of its configuration.

Source: TRL 1.16, cli/commands/training.py; transformers 5.24, hf_argparser.py (a flag alone is true, --no_NAME
is false).
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

from app.http.problems import shortened
from app.interop.imports.peft_command import is_of_peft, keys_of_peft
from app.interop.imports.text import LONGEST, scalar
from calculator.common.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: The key that the reader of TRL's configurations gets the subcommand under.
SUBCOMMAND = "trl command"

#: The key that it gets the name of a script for images under.
SCRIPT = "script"

#: What stands for the subcommand of a command that runs PEFT's own script.
PEFT = "peft"

_NAMES = "sft|dpo|kto|reward|orpo|grpo|rloo"
#: The scripts of TRL's examples: `gspo.py` has a loss of GRPOTrainer, and `dpo_online.py` a trainer of its own.
_SCRIPTS = rf"(?:({_NAMES})(?!_online)|gspo)(?:_\w{{1,40}})?\.py"
_COMMAND = re.compile(
    rf"(?m)^(?:[^#\n]*[ \t!])?(?:trl[ \t]+(?:{_NAMES})|[\"']?(?:[\w:./-]*/)?{_SCRIPTS}[\"']?)(?=\s|$)"
    r"|^[ \t!$]*(?:python3?|torchrun|deepspeed|accelerate[ \t]+launch)[ \t](?:[^#\n\\]|\\.|\\\n)*\.py(?=\s|$)"
)
_COMMENT = re.compile(r"(?m)^[ \t]*#.*$")
_SCRIPT = re.compile(rf"(?:.*/)?{_SCRIPTS}")


#: A comment of a configuration that names its subcommand: `# dpo_config.yaml`, or the command that reads it.
_NAMED = re.compile(rf"(?m)^[ \t]*#[^\n]{{0,200}}?(?:(?<![\w-])({_NAMES})_config\b|\btrl[ \t]+({_NAMES})\b)")


def subcommand_in(text: str) -> dict[str, str]:
    """Return the subcommand that a comment of a configuration names; nothing if there is none."""
    match = _NAMED.search(text[:LONGEST])
    return {SUBCOMMAND: match[1] or match[2]} if match else {}


def is_command(text: str) -> bool:
    """Return whether a text is a command line that runs a trainer of TRL, or another script."""
    match = _COMMAND.search(text[:LONGEST])
    return match is not None and ":" not in _COMMENT.sub("", text[: match.start()]).replace("://", "")


def keys_of(text: str) -> dict[str, Any]:
    """Return the keys of a command line.

    Raises:
        PlanError: if it cannot be split into words, or reads its keys from a file.
    """
    if len(text) > LONGEST:
        raise refusal("content", f"is longer than {LONGEST:,} characters", shortened(text))
    line = _one_command(text)
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise refusal("content", f"is not a command line: {str(error).lower()}", shortened(text)) from error
    name, options = _split(words)
    keys = dict(options_of(options))
    if name == PEFT:
        return {SUBCOMMAND: "sft", **keys_of_peft(keys)}
    if "config" in keys:
        message = f"reads its keys from {keys['config']}: paste that file, with the command's other options in it"
        raise refusal("content", message, keys["config"])
    return {SUBCOMMAND: name, **keys}


def _one_command(text: str) -> str:
    """Return the only command line of a text that runs a trainer, with its continuation lines.

    Raises:
        PlanError: if there are several.
    """
    lines = re.sub(r"\\[ \t]*\n", " ", text).split("\n")
    commands = [line for line in lines if _COMMAND.search(line)]
    if len(commands) > 1:
        raise refusal("content", f"has {len(commands)} commands that run a trainer: paste one", shortened(commands[1]))
    return commands[0] if commands else "\n".join(lines)


def _split(words: list[str]) -> tuple[str, list[str]]:
    """Return the subcommand, and the options before it (the launcher's) and after it."""
    for place, word in enumerate(words):
        script = _SCRIPT.fullmatch(word)
        if script:
            images = [f"--{SCRIPT}={word.rpartition('/')[2]}"] if "_vlm" in script[0] else []
            launcher = (
                [] if words[0] == "hf" else words[:place]
            )  # a job's machine and secrets, not accelerate's options
            return script[1] or "grpo", [*launcher, *words[place + 1 :], *images]
        if word.lstrip("!") == "trl" and place + 1 < len(words):
            return words[place + 1], [*words[:place], *words[place + 2 :]]
    script_of = next((word for word in words if word.endswith(".py")), None)
    if script_of is not None and is_of_peft(dict(options_of(words))):
        place = words.index(script_of)
        return PEFT, [*words[:place], *words[place + 1 :]]
    named = f"runs {script_of}, whose code decides what it trains" if script_of else "runs no trainer of TRL"
    message = f"{named}: paste the code, or a command of trl {', '.join(_NAMES.split('|'))}"
    raise refusal("content", message, script_of)


def options_of(words: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Yield each option with its value: one, a list of several, or true if there is none."""
    name, values = "", list[str]()
    for word in (*words, "--"):
        if not word.startswith("--"):
            values.append(word)
            continue
        if name:
            yield _option(name, values)
        name, _, first = word[2:].partition("=")
        values = [first] if first else []


def _option(name: str, values: list[str]) -> tuple[str, Any]:
    key = name.replace("-", "_")
    if not values:
        return (key[3:], False) if key.startswith("no_") else (key, True)
    read = [scalar(value) for value in values]
    return key, read[0] if len(read) == 1 else read
