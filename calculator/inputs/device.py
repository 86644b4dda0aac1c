"""The request's `device` object."""

from dataclasses import dataclass, replace

from calculator.inputs.settings import setting
from calculator.inputs.sharding import ShardingName


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The GPU that a run should fit."""

    gpu: str | None = setting(
        None,
        label="GPU",
        help="A GPU of the catalogue; the answer then states whether the run fits.",
        example="rtx-4090",
    )
    memory_bytes: int | None = setting(
        None,
        label="Memory",
        help="The memory that a process can use, in place of a named GPU.",
        minimum=1,
        maximum=1 << 50,
        unit="bytes",
        example=24 << 30,
    )
    count: int = setting(
        1,
        label="Number of GPUs",
        help="GPUs of this kind (ranks). Figures are of one of them.",
        minimum=1,
        maximum=65_536,
    )
    sharding: ShardingName = setting(
        "none",
        label="Sharding",
        help="How a run on several GPUs is distributed. ddp is DistributedDataParallel: each GPU has the whole model. "
        "zero1, zero2 and zero3 are DeepSpeed's ZeRO: it shards optimizer states, gradients from stage 2 on, and "
        "weights in stage 3, which gathers a module's weights to run it. "
        "fsdp is FSDP2: it shards weights, gradients and optimizer states, and gathers a layer's weights to run it.",
    )
    nodes: int = setting(
        1,
        label="Number of nodes",
        help="Machines that the GPUs are in, each with as many. It changes communication and host memory only.",
        minimum=1,
        maximum=65_536,
    )
    alloc_conf: str | None = setting(
        None,
        label="Allocator settings",
        help="PYTORCH_CUDA_ALLOC_CONF of the run. Settings change reserved memory by replay, not by the rule.",
        example="expandable_segments:True",
    )
    price_per_hour: float | None = setting(
        None,
        label="Price per hour",
        help="What one GPU costs for an hour, in any currency. A run's cost and plans that rank by cost use it; it "
        "changes no other figure.",
        minimum=0,
        maximum=1_000_000,
        example=2.5,
    )

    @property
    def sharded_over(self) -> tuple[ShardingName, int] | None:
        """The sharding and the number of GPUs. None if each GPU has the whole state of the run."""
        return None if self.sharding in ("none", "ddp") else (self.sharding, self.count)

    @property
    def alone(self) -> "Device":
        """The same device with one GPU."""
        return replace(self, count=1, sharding="none", nodes=1)
