"""The marks of a tape, as stage 3 reads them."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from calculator.engine import module_calls
from calculator.engine.autograd import parameter_of
from calculator.sharding.zero.parameters import Key, gradient_key

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The prefixes of marks, in addition to that of gradients, by the text before their colon.
PREFIXES = {
    prefix.removesuffix(": "): prefix
    for prefix in (
        module_calls.BEFORE_FORWARD,
        module_calls.BEFORE_FORWARD_OF_LEAF,
        module_calls.AFTER_FORWARD,
        module_calls.BEFORE_BACKWARD,
        module_calls.AFTER_BACKWARD,
        module_calls.PINNED,
        module_calls.UNPINNED,
        module_calls.KEPT,
        module_calls.EXTERNAL,
    )
}

#: The marks of views, which begin with the number of the view.
OF_VIEWS = frozenset((module_calls.PINNED, module_calls.UNPINNED))

#: The mark of a call in a no-grad pass whose input requires a gradient, in place of the number of a view. DeepSpeed
#: counts the input again, and so does not miss the end of the backward pass.
OF_LEAF = "leaf"


@lru_cache(maxsize=4096)
def read(label: str) -> tuple[str, str, str, bool]:
    """Return the prefix of a mark, the text after it, the number of a view, and whether the text is of a layer.

    The prefix is empty if it is none of `PREFIXES`. Results are cached, because models have the same paths.
    """
    kind, colon, text = label.partition(": ")
    prefix = PREFIXES.get(kind, "") if colon else ""
    serial = ""
    if prefix in OF_VIEWS:
        serial, text = text.split(maxsplit=1)
    elif prefix == module_calls.BEFORE_FORWARD_OF_LEAF:
        prefix, serial = module_calls.BEFORE_FORWARD, OF_LEAF
    return prefix, text, serial, "*" in text


def gradient_name(label: str, layer: int | None) -> Key:
    """Return the parameter of a ready gradient from its mark. `layer` is the number of the layer that runs there."""
    key = gradient_key(label, layer)
    # The modules of a tower are outside the repeated layers.
    return key.numbered if parameter_of(label)[1] is not None else key


def layer_after(label: str, layer: int | None, numbers: Sequence[int]) -> int | None:
    """Return the number of the layer that runs after a mark. `layer` runs before it.

    `numbers` are those of the interpreted layers.
    """
    _, is_layer, number_and_pass = label.partition("layer ")
    if not (is_layer and label.endswith((" forward", " backward"))):
        return layer
    number = int(number_and_pass.split()[0])
    at = number if label.endswith("forward") else number - 1
    return numbers[at] if at < len(numbers) else None
