"""Modules that have another name in older releases of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.inputs.settings import declared
from calculator.stack.releases import dotted, release

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from calculator.inputs.stack import StackVersions
    from calculator.stack.releases import Release

#: The older name of a model type's `lm_head`, and the first release with the new one.
#: Source: transformers 5.13.1, models/gpt_neox/modeling_gpt_neox.py; transformers pull request 47198.
OLDER_HEADS: dict[str, tuple[str, Release]] = {"gpt_neox": ("embed_out", (5, 14))}


def older_head(versions: StackVersions, model_type: str | None) -> str | None:
    """Return the name of the output head if it is another one in the release, or None."""
    name, since = OLDER_HEADS.get(model_type or "", (None, (0,)))
    return name if release(versions.transformers)[:2] < since else None


def problems(versions: StackVersions, model_type: str | None, method: Any) -> Iterator[Problem]:
    """Yield the settings of a method that name a head by a name that the release does not have."""
    head = older_head(versions, model_type)
    if head is None:
        return
    since = dotted(OLDER_HEADS[model_type or ""][1])
    settings: type = type(method)
    for field in declared(settings):
        given = getattr(method, field.name)
        if _names_head(given):
            message = (
                f"the output head of {model_type} in transformers {versions.transformers} is {head}, and training it"
                f" by name is not modeled there: leave it out, or use stack.transformers {since} or later"
            )
            yield Problem(loc=f"method.{field.name}", msg=message, input=given)


def _names_head(value: Any) -> bool:
    if isinstance(value, str):
        return "lm_head" in value
    return isinstance(value, (tuple, list, dict)) and any(map(_names_head, value))
