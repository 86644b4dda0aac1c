"""Models whose weights are as they were allocated."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest import mock

from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def without_values() -> Iterator[None]:
    """Leave weights as they are allocated, and tie them, inside the context.

    On the meta device weights have no values. Their initialization would take two thirds of a model's construction.
    """
    tied = mock.patch.object(PreTrainedModel, "init_weights", lambda model: model.tie_weights(recompute_mapping=False))
    with no_init_weights(), tied:
        yield
