"""The operations that allocate memory in steps of the families that the calculator models.

Estimates of these steps equal their traces to the byte, so the emulations cover what these operations allocate on CUDA.
Operations whose CUDA kernels allocate workspaces are left out: neither a trace nor an estimate counts those.
`python -m validation engines --write` compares them, and writes `operations.json`.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from validation.tracing.ledger import Storage

FILE = "operations.json"

#: Operations whose CUDA kernels allocate memory that no trace shows, so that equal steps do not validate them.
#: Source: PyTorch, aten/src/ATen/native/cudnn/Conv_v8.cpp (cuDNN's workspaces) and
#: aten/src/ATen/native/cuda/linalg/BatchLinearAlgebraLibBlas.cpp, apply_triangular_solve_batched (pointers).
WITH_WORKSPACE = frozenset({"convolution", "convolution_backward", "linalg_solve_triangular"})


@cache
def validated() -> frozenset[str]:
    """Return the operations of the file."""
    listed: dict[str, Any] = json.loads(files(__package__).joinpath(FILE).read_text(encoding="utf-8"))
    return frozenset(listed["operations"])


def allocating(storages: Iterable[Storage]) -> tuple[str, ...]:
    """Return the sorted names of the PyTorch operations that allocate in a step.

    An emulated kernel is one operation.
    """
    names = {storage.op.partition("<")[0].partition("/")[0] for storage in storages if storage.moment != "static"}
    return tuple(sorted(name.removeprefix("aten.") for name in names))


def unchecked(operations: Iterable[str]) -> tuple[str, ...]:
    """Return the operations that are in no step of a modeled family."""
    return tuple(operation for operation in operations if operation not in validated())
