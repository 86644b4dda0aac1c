"""Decisions of the libraries that depend on values, which a stub does not have."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    import torch


def one_sequence_per_row() -> AbstractContextManager[Any]:
    """On a stub, let transformers find one sequence in each row, as it does for rows that are not packed.

    It reads the result of a kernel, which is 0 there and would mean that rows are packed. Elsewhere this changes
    nothing. The replaced function keeps no reference to its arguments.
    """
    if "STUB_GPU_NAME" not in os.environ:
        return nullcontext()
    return mock.patch("transformers.masking_utils.find_packed_sequence_indices", new=_none)


def _none(_: torch.Tensor) -> None:
    """Return that no rows are packed."""
