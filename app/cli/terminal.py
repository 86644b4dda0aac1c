"""Standard output: verdicts and warnings are colored on a terminal and plain in a file or a pipe."""

from __future__ import annotations

import sys

#: Colored text: warnings, and verdicts as tables and sentences have them.
PATTERNS = (
    r"(?m)^\s*(?P<warning>! .*)$",
    r"\b(?P<fits>Fits)\b",
    r"\b(?P<tight>Tight)\b",
    r"\b(?P<refused>Does not fit|Refused)\b",
)
STYLES = {"warning": "yellow", "fits": "green", "tight": "yellow", "refused": "red"}


def write(text: str) -> None:
    """Write text and a line break. NO_COLOR and TERM decide about colors, as in other programs."""
    if not sys.stdout.isatty():
        sys.stdout.write(f"{text}\n")
        return
    from rich.console import Console  # noqa: PLC0415  it takes as long as a small estimate to import
    from rich.text import Text  # noqa: PLC0415  as above
    from rich.theme import Theme  # noqa: PLC0415  as above

    shown = Text(text)
    for pattern in PATTERNS:
        shown.highlight_regex(pattern, style_prefix="")
    console = Console(file=sys.stdout, theme=Theme(STYLES), highlight=False, emoji=False, markup=False)
    console.print(shown, soft_wrap=True)
