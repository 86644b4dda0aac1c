"""Whether the rule for reserved memory decides if a run fits, or a replay must."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.devices.outcome import Verdict

if TYPE_CHECKING:
    from calculator.devices.verdict import Fit

#: The share of a card that a run must leave free by the rule so that it fits without a replay.
#: Source: docs/decisions/0004-reserved-memory.md: in 98.2 % of 1,000 random plans the rule is not too low, and where it
#: is, mostly by 1 to 4 %.
NEAR = 0.05


def is_near_limit(fit: Fit | None) -> bool:
    """Whether a run's live tensors fit by the rule's estimate, but all that it reserves may not."""
    if fit is None or fit.verdict is Verdict.DOES_NOT_FIT:
        return False
    return fit.headroom_bytes < NEAR * fit.usable_bytes
