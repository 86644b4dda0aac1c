"""The parser of a command's arguments, with short errors."""

from __future__ import annotations

import argparse
import re
from difflib import get_close_matches
from typing import NoReturn

#: The longest usage that an error repeats, in lines.
MOST_LINES = 6

_CHOICE = re.compile(r"(?P<start>.*invalid choice): '(?P<given>[^']*)' \(choose from (?P<choices>.*)\)$")
_QUOTED = re.compile(r"'([^']*)'")


class CommandParser(argparse.ArgumentParser):
    """An `ArgumentParser` whose help keeps the lines of the description, and whose errors are short."""

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        """Print the usage if it is short, the error, and how to see the options. Exit with status 2."""
        usage = self.format_usage()
        if usage.count("\n") > MOST_LINES:
            usage = f"usage: {self.prog} [OPTION]...\n"
        lines = f"{self.prog}: error: {_with_close_choice(message)}\n{self.prog} --help lists the options\n"
        self.exit(2, usage + lines)


def _with_close_choice(message: str) -> str:
    """Return the message with the choice that was probably meant instead of all choices, if there is one."""
    match = _CHOICE.fullmatch(message)
    if match is None:
        return message
    choices = _QUOTED.findall(match["choices"])
    close = get_close_matches(match["given"], choices, n=1)
    way_out = f"did you mean {close[0]}?" if close else f"choose from {', '.join(choices)}"
    return f"{match['start']} {match['given']!r}: {way_out}"
