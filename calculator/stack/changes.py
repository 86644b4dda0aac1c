"""What older releases of the libraries do differently from the reference step's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

from calculator.stack.releases import release

if TYPE_CHECKING:
    from calculator.inputs.stack import StackVersions
    from calculator.stack.releases import Release

ChangeName = Literal["math_kernel_for_float32_groups"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A difference of a library's releases before one: what they do, and where their source does it."""

    package: str
    before: Release
    sentence: str
    source: str


CHANGES: dict[ChangeName, Change] = {
    "math_kernel_for_float32_groups": Change(
        package="torch",
        before=(2, 14),
        sentence="scaled_dot_product_attention runs float32 inputs with grouped heads and no mask in its math kernel",
        source="PyTorch 2.13, aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, can_use_mem_efficient_attention",
    ),
}


@cache
def older_behaviour(versions: StackVersions) -> frozenset[ChangeName]:
    """Return the names of the changes that the releases of a stack do not have yet."""
    return frozenset(
        name for name, change in CHANGES.items() if release(getattr(versions, change.package)) < change.before
    )
