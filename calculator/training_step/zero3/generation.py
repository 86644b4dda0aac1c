"""The passes of `generate` in Seq2SeqTrainer's evaluation under stage 3, in which each module gathers its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.sharding.zero3.hooks import GenerationHooks, generation_pass
from calculator.training_step.rollout import Rollout

if TYPE_CHECKING:
    from calculator.sharding.fsdp.generation import PassOf


class PartitionedRollout(Rollout):
    """The generation of a batch, with all layers interpreted."""

    __slots__ = ()

    def hooks(self, which: PassOf) -> GenerationHooks:  # noqa: ARG002  every pass calls the same modules
        """Return the hooks that mark the calls of modules."""
        return generation_pass(self.prepared)
