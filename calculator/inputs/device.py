"""The request's `device` object."""

from dataclasses import dataclass, replace
from typing import Literal

from calculator.inputs.settings import setting
from calculator.inputs.sharding import ShardingName

#: The device of PyTorch whose kernels an estimate models.
DeviceType = Literal["meta", "cuda"]

#: Other names of shardings, and what to use instead.
OTHER_SHARDINGS = {
    "deepspeed": "Use zero1, zero2 or zero3, the stages of DeepSpeed's ZeRO",
    "fsdp1": "Use fsdp, which is FSDP2: FSDP1 is not modeled",
    "fsdp2": "Use fsdp, which is FSDP2",
    "zero": "Use zero1, zero2 or zero3, the stages of DeepSpeed's ZeRO",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The GPU that a run should fit."""

    gpu: str | None = setting(
        None,
        label="GPU",
        help="A GPU from the catalogue. The answer then states whether the run fits.",
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
        help="The number of GPUs (ranks). All figures are for one of them, the one that needs the most memory.",
        minimum=1,
        maximum=65_536,
    )
    sharding: ShardingName = setting(
        "none",
        label="Sharding",
        help="How a run on several GPUs is distributed. ddp is DistributedDataParallel: each GPU has the whole model. "
        "zero1, zero2 and zero3 are the stages of DeepSpeed's ZeRO: all shard the optimizer states, stages 2 and "
        "3 also the gradients, and stage 3 also the weights, which it gathers for each module. fsdp is FSDP2: it "
        "shards weights, gradients and optimizer states, and gathers the weights of each layer.",
        instead=OTHER_SHARDINGS,
    )
    nodes: int = setting(
        1,
        label="Number of nodes",
        help="The number of machines, each with the same number of GPUs. It changes communication and host memory "
        "only.",
        minimum=1,
        maximum=65_536,
    )
    type: DeviceType = setting(
        "meta",
        label="Device type",
        help="cuda counts every tensor that PyTorch's kernels allocate on a GPU. meta counts those of a trace on its "
        "meta device, which lacks some temporaries and copies of kernels.",
        field_name="device_type",
    )
    alloc_conf: str | None = setting(
        None,
        label="Allocator settings",
        help="PYTORCH_CUDA_ALLOC_CONF of the run. It changes reserved memory by replay, not by the rule.",
        example="expandable_segments:True",
    )
    price_per_hour: float | None = setting(
        None,
        label="Price per hour",
        help="The price of one GPU per hour, in any currency. A run's cost and plans that rank by cost use it. It "
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
    def on_one_gpu(self) -> "Device":
        """The same device with one GPU."""
        return replace(self, count=1, sharding="none", nodes=1)
