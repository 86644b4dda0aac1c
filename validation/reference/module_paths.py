"""Module paths without the names that a method's wrappers add."""

from __future__ import annotations

import re

#: Names that wrappers add to a path: PEFT's for a base layer, a saved module and an attention with an adaption prompt,
#: and ours for an adapter's sublayer.
WRAPPERS = re.compile(r"\.((?:token_adapter\.)?base_layer|original_module|(?<=attn\.)model|sublayer)(?=\.|$)")


def unwrapped(path: str, root: str) -> str:
    """Return the path that a module or parameter had before a method wrapped the model, which is now at `root`."""
    inner = path.removeprefix(root).removeprefix(".") if path == root or path.startswith(f"{root}.") else path
    return WRAPPERS.sub("", inner)
