"""Activation functions that older releases of transformers do not have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.stack.releases import dotted, release

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from calculator.inputs.stack import StackVersions
    from calculator.stack.releases import Release

#: The first release with an activation function. 4.39 has every other one that is modeled.
#: Source: transformers/activations.py, ACT2CLS, of 4.39.3, 4.56.2, 4.57.0, 5.3.0, 5.4.0, 5.7.0 and 5.8.0.
FIRST: dict[str, Release] = {
    "gelu_python_tanh": (4, 57),
    "hardswish": (5, 4),
    "sqrtsoftplus": (5, 8),
}


def problems(versions: StackVersions, config: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the activation function of a model that the release of transformers does not have."""
    name = config.get("hidden_act", "")
    since = FIRST.get(name)
    if since is None or release(versions.transformers)[:2] >= since:
        return
    message = (
        f"transformers {versions.transformers} does not have the model's activation function, {name}: use"
        f" {dotted(since)} or later"
    )
    yield Problem(loc="stack.transformers", msg=message, input=versions.transformers)
