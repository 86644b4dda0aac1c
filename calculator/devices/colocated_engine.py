"""What an inference engine on the GPU of a training leaves to the training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.devices.gpus import Usable

if TYPE_CHECKING:
    from calculator.inputs.training import Colocated


@dataclass(frozen=True, slots=True, kw_only=True)
class ColocatedEngine:
    """An engine, and what the training keeps while it generates: reserved memory without cached blocks, and context."""

    engine: Colocated
    kept_bytes: int

    def left(self, usable: Usable) -> Usable:
        """What a process can use while it trains: all but the engine's share, unless that sleeps."""
        if self.engine.sleeps:
            return usable
        taken = self.engine.bytes_of(usable.bytes)
        less = f"less {taken:,} bytes that vLLM takes ({self.engine.share:.0%}, vllm_gpu_memory_utilization)"
        return Usable(bytes=usable.bytes - taken, assumption=f"{usable.assumption}, {less}")

    def needed(self, usable_bytes: int) -> int:
        """What the GPU needs while an engine that sleeps otherwise generates; 0 for one that does not sleep."""
        return self.kept_bytes + self.engine.bytes_of(usable_bytes) if self.engine.sleeps else 0
