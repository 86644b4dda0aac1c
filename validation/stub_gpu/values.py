"""Decisions of the libraries that depend on values, which a stub does not have."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest import mock


def one_sequence_per_row() -> AbstractContextManager[Any]:
    """On a stub, let transformers find one sequence in each row, as it does for rows that are not packed.

    It reads the result of a kernel, which is 0 there and would mean that rows are packed. Elsewhere this changes
    nothing.
    """
    if "STUB_GPU_NAME" not in os.environ:
        return nullcontext()
    return mock.patch("transformers.masking_utils.find_packed_sequence_indices", _no_indices)


def _no_indices(*_args: Any, **_kwargs: Any) -> None:
    """Find no packed rows. A mock would keep the tensors that it is called with."""
