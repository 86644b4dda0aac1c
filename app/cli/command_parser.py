"""The parser of a command's arguments. Its errors are short and name the option that was probably meant."""

from __future__ import annotations

import argparse
import re
from difflib import get_close_matches
from typing import NoReturn

from calculator.inputs.unknown_fields import suggested_field

#: The longest usage that is printed in full, in lines. Some commands have over a hundred options.
MOST_LINES = 12

_OPTION = re.compile(r"--[\w-]+")
_CHOICE = re.compile(r"invalid choice: '(?P<given>[^']*)' \(choose from (?P<choices>.*)\)$")
_QUOTED = re.compile(r"'([^']*)'")


class CommandParser(argparse.ArgumentParser):
    """An `ArgumentParser` for commands with many options."""

    @property
    def options(self) -> frozenset[str]:
        """The names of the options, the first of each."""
        return frozenset(_OPTION.findall(self.format_usage()))

    @property
    def _short_usage(self) -> str:
        return f"usage: {' '.join((self.prog, '[OPTION]...', *self._names_of_arguments))}\n"

    @property
    def _names_of_arguments(self) -> list[str]:
        return [str(action.metavar or action.dest) for action in self._get_positional_actions()]

    def format_help(self) -> str:
        """Return the help, with a short usage if every option's would take many lines."""
        usage, text = self.format_usage(), super().format_help()
        return text.replace(usage, self._short_usage, 1) if usage.count("\n") > MOST_LINES else text

    def error(self, message: str) -> NoReturn:
        """Print the error with the usage, or with a hint to --help if the usage is long. Exit with status 2."""
        usage = self.format_usage()
        message += _close_choice(message) or self._without_option(message) or _close_options(message, usage)
        if usage.count("\n") > MOST_LINES:
            lines = (
                self._short_usage.rstrip(),
                f"{self.prog}: error: {message}",
                f"{self.prog} --help lists the options",
            )
            self.exit(2, "".join(f"{line}\n" for line in lines))
        super().error(message)

    def _without_option(self, message: str) -> str:
        """Return a hint if an unknown option has the name of an argument that is given without one."""
        names = {f"--{name.lower()}": name for name in self._names_of_arguments}
        option = next((option for option in _unknown(message) if option in names), None)
        return f": {names[option]} is given without {option}" if option else ""


def _unknown(message: str) -> list[str]:
    return _OPTION.findall(message) if message.startswith("unrecognized arguments") else []


def _close_options(message: str, usage: str) -> str:
    """Return the options whose names are close to those that are unknown."""
    options = sorted({*_OPTION.findall(usage)})
    given = [option.replace("-", "_").lstrip("_") for option in _unknown(message)]
    close = [meant for name in given if (meant := _meant(name, options) or _close(name, options))]
    return f": did you mean {' and '.join(close)}?" if close else ""


def _meant(name: str, options: list[str]) -> str | None:
    """Return the option of a field that has another name in other libraries, with its value if it has one."""
    meant = suggested_field(name)
    if meant is None:
        return None
    option = f"--{meant.field.rpartition('.')[2]}"
    if option in options:
        return f"{option} {meant.value}".rstrip()
    return f"{option} of the command run" if meant.is_of_a_run else None


def _close(name: str, options: list[str]) -> str | None:
    return next(iter(get_close_matches(f"--{name}", options, n=1, cutoff=0.7)), None)


def _close_choice(message: str) -> str:
    """Return the choice that is close to an invalid one."""
    match = _CHOICE.search(message)
    close = get_close_matches(match["given"], _QUOTED.findall(match["choices"]), n=1) if match else []
    return f": did you mean {close[0]}?" if close else ""
