"""The decision whether the rule for reserved memory is enough to answer if a run fits, or a replay is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.devices.outcome import Verdict

if TYPE_CHECKING:
    from calculator.devices.verdict import Fit
    from calculator.inputs.sharding import ShardingName

#: The share of a GPU that a run must leave free by the rule to count as fitting without a replay. Source:
#: docs/decisions/0004-reserved-memory.md: in 98.2 % of 1,000 random plans the rule is not too low. Otherwise it is
#: mostly 1 to 4 % too low.
NEAR = 0.05

#: The share for shardings whose runs reserve memory on several streams, or load a model that is larger than the run.
#: Source: docs/decisions/0015-streams.md: it is more than the rule was below the replay in any of the random plans.
NEAR_OF: dict[ShardingName, float] = {"fsdp": 0.35, "zero1": 0.35, "zero2": 0.35, "zero3": 0.35}


def is_near_limit(fit: Fit | None, sharding: ShardingName = "none") -> bool:
    """Return whether a run's live tensors fit by the rule's estimate, but its reserved memory may not."""
    if fit is None or fit.verdict is Verdict.DOES_NOT_FIT:
        return False
    return fit.headroom_bytes < NEAR_OF.get(sharding, NEAR) * fit.usable_bytes
