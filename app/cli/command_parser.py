"""The parser of a command's arguments. Its errors are short and name the option that was probably meant."""

from __future__ import annotations

import argparse
import re
from difflib import get_close_matches
from typing import NoReturn

#: The longest usage that an error repeats, in lines. Some commands have over a hundred options.
MOST_LINES = 12

_OPTION = re.compile(r"--[\w-]+")


class CommandParser(argparse.ArgumentParser):
    """An `ArgumentParser` for commands with many options."""

    def error(self, message: str) -> NoReturn:
        """Print the usage, or how to see it if it is long, with the error. Exit with status 2."""
        usage = self.format_usage()
        if usage.count("\n") > MOST_LINES:
            lines = (
                f"usage: {self.prog} [OPTION]...",
                f"{self.prog}: error: {message}{self._meant(message, usage)}",
                f"{self.prog} --help lists the options",
            )
            self.exit(2, "".join(f"{line}\n" for line in lines))
        super().error(message)

    @staticmethod
    def _meant(message: str, usage: str) -> str:
        """Return the options whose names are close to those that are unknown."""
        if not message.startswith("unrecognized arguments"):
            return ""
        known = sorted({*_OPTION.findall(usage)})
        close = [get_close_matches(given, known, n=1, cutoff=0.7) for given in _OPTION.findall(message)]
        found = [names[0] for names in close if names]
        return f": did you mean {' and '.join(found)}?" if found else ""
