"""An argparse action for options that may be given once."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


class StoreOnce(argparse.Action):
    """Store the value of an option, and refuse a second one. argparse would replace the first."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Raise ArgumentError if the option has a value already, with the option that takes a list if there is one."""
        before = getattr(namespace, self.dest, None)
        if option_string is not None and before is not self.default:
            several = f"{option_string}s"
            way_out = f": {several} takes a list" if several in parser.format_usage() else ""
            raise argparse.ArgumentError(self, f"is given twice, as {before} and {values}{way_out}")
        setattr(namespace, self.dest, values)


def register(parser: argparse.ArgumentParser) -> None:
    """Make this the action of every option of a parser that names no other."""
    parser.register("action", None, StoreOnce)
