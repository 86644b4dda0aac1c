"""Packages whose kernels replace functions of a model where they are installed.

transformers calls such a function through `use_kernel_func_from_hub_with_fallback` (integrations/hub_kernels.py), which
warns at each call that runs PyTorch's code instead.
"""

from __future__ import annotations

import re
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest import mock

from transformers.integrations import hub_kernels

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The warning: the function, and the distribution that is not installed.
WARNING = re.compile(r"`([\w.]+)` is falling back .* `([\w.-]+)` is not installed", re.DOTALL)


class KernelPackages:
    """The functions that ran as PyTorch's code, by the distribution that replaces them."""

    def __init__(self) -> None:
        self._functions: dict[str, set[str]] = defaultdict(set)

    @property
    def functions(self) -> dict[str, tuple[str, ...]]:
        """The functions by distribution, sorted."""
        return {name: tuple(sorted(names)) for name, names in sorted(self._functions.items())}

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record calls inside the context."""
        with mock.patch.object(hub_kernels.logger, "warning_once", self._record):
            yield

    def _record(self, message: str, *_: object) -> None:
        match = WARNING.search(message)
        if match:
            self._functions[match[2]].add(match[1])
