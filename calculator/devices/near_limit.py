"""Whether the rule for reserved memory decides if a run fits, or a replay must."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.devices.outcome import Verdict

if TYPE_CHECKING:
    from calculator.devices.verdict import Fit
    from calculator.inputs.sharding import ShardingName

#: The share of a card that a run must leave free by the rule so that it fits without a replay.
#: Source: docs/decisions/0004-reserved-memory.md: in 98.2 % of 1,000 random plans the rule is not too low, and where it
#: is, mostly by 1 to 4 %.
NEAR = 0.05

#: The same of shardings whose runs reserve memory on several streams, or load a model that is larger than the run.
#: Source: docs/decisions/0015-streams.md: more than the rule was below the replay in any of the random plans.
NEAR_OF: dict[ShardingName, float] = {"fsdp": 0.35, "zero1": 0.35, "zero2": 0.35, "zero3": 0.35}


def is_near_limit(fit: Fit | None, sharding: ShardingName = "none") -> bool:
    """Whether a run's live tensors fit by the rule's estimate, but all that it reserves may not."""
    if fit is None or fit.verdict is Verdict.DOES_NOT_FIT:
        return False
    return fit.headroom_bytes < NEAR_OF.get(sharding, NEAR) * fit.usable_bytes
