"""Values as formatted Python source."""

from __future__ import annotations

import json
from typing import Any

#: The longest line of a script, in characters.
WIDTH = 120


def literal(value: Any, indent: int = 0) -> str:
    """Return a JSON value as Python source. Objects and long lists have one line per entry."""
    if isinstance(value, dict):
        entries = [f"{literal(str(key))}: {literal(part, indent + 4)}" for key, part in value.items()]
        return _laid_out("{", entries, "}", indent) if entries else "{}"
    if isinstance(value, list | tuple):
        entries = [literal(part, indent + 4) for part in value]
        line = f"[{', '.join(entries)}]"
        return line if len(line) + indent <= WIDTH // 2 and "\n" not in line else _laid_out("[", entries, "]", indent)
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _laid_out(opening: str, entries: list[str], closing: str, indent: int) -> str:
    lines = "".join(f"{' ' * (indent + 4)}{entry},\n" for entry in entries)
    return f"{opening}\n{lines}{' ' * indent}{closing}"
