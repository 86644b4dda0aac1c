"""Whether the traced engine can run: the packages of the extra `validation`, found without importing them."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

#: The packages that a trace imports.
PACKAGES = ("validation", "torch", "transformers", "peft", "bitsandbytes")

#: How to install the missing packages.
INSTALL = "pip install '.[validation]'"


def missing() -> tuple[str, ...]:
    """Return the packages that are not installed."""
    return tuple(name for name in PACKAGES if find_spec(name) is None)


def knows(model_type: str) -> bool:
    """Return whether the installed transformers lists a model type."""
    return f'"{model_type}"' in _auto_classes()


@cache
def _auto_classes() -> str:
    """Return the source text of transformers' lists of model types."""
    spec = find_spec("transformers")
    if spec is None or spec.origin is None:
        return ""
    folder = Path(spec.origin).parent / "models" / "auto"
    return "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*auto*.py")))
