"""Whether the traced engine can run: the packages of the extra `validation`, looked for without importing them."""

from __future__ import annotations

from importlib.util import find_spec

#: What a trace imports.
PACKAGES = ("validation", "torch", "transformers", "peft", "bitsandbytes")

#: How to get what is missing.
INSTALL = "pip install '.[validation]'"


def missing() -> tuple[str, ...]:
    """The packages that are not installed."""
    return tuple(name for name in PACKAGES if find_spec(name) is None)
