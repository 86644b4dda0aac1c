"""Keys of TrainingArguments that several tools pass on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.interop.imports.keys import Keys


def emptied(keys: Keys) -> dict[str, Any]:
    """Return the steps between two calls of empty_cache, if the file sets them."""
    steps = keys.integer("torch_empty_cache_steps", 0)
    return {"torch_empty_cache_steps": steps} if steps > 0 else {}
