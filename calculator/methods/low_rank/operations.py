"""The operations of low-rank updates when a token is generated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.methods.costs import OtherOperations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.resident.tensor import ResidentTensor

#: The suffixes of parameters that are looked up or that scale. No token is multiplied by them.
NO_PRODUCT = ("lora_embedding_A", "lora_magnitude_vector.weight")


def dora_norms(added: Sequence[ResidentTensor], batch: int) -> OtherOperations:
    """Return a token's share of DoRA's norms. Each pass multiplies an identity matrix with A and B to compute them."""
    by_name = {tensor.name: tensor for tensor in added}
    total = 0
    for name, first in by_name.items():
        owner, _, which = name.rpartition(".lora_")
        if which == "A.weight" and f"{owner}.lora_magnitude_vector.weight" in by_name:
            (r, inner), outer = map(int, first.shape), int(by_name[f"{owner}.lora_B.weight"].shape[0])
            total += first.count * (2 * inner * r * (inner + outer) + 4 * inner * outer)
    return OtherOperations(formula="DoRA's norms ÷ batch", count=total // batch)
