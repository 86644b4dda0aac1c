"""An inference engine on the GPU of a training, and the memory that it leaves to the training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.devices.gpus import Usable

if TYPE_CHECKING:
    from calculator.inputs.training import Colocated


@dataclass(frozen=True, slots=True, kw_only=True)
class ColocatedEngine:
    """The memory of a colocated engine, and what the training process keeps while the engine generates."""

    engine: Colocated
    kept_bytes: int

    def remaining(self, usable: Usable) -> Usable:
        """Return the memory that a process can use while it trains: all but the share of an awake engine."""
        if self.engine.sleeps:
            return usable
        engine_bytes = self.engine.bytes_of(usable.bytes)
        less = f"less {engine_bytes:,} bytes that vLLM takes ({self.engine.share:.0%}, vllm_gpu_memory_utilization)"
        return Usable(bytes=usable.bytes - engine_bytes, assumption=f"{usable.assumption}, {less}")

    def needed(self, usable_bytes: int) -> int:
        """Return the bytes that the GPU needs while a sleeping engine generates.

        It is 0 for an engine that does not sleep.
        """
        return self.kept_bytes + self.engine.bytes_of(usable_bytes) if self.engine.sleeps else 0
