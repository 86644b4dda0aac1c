"""The sharded steps to measure: one rank of a run on several GPUs, small models first."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from validation.measure.step_cases import BILLION, METHODS, TINY, StepCase
from validation.measure.trainer_cases import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.inputs.sharding import ShardingName

SHARDINGS: tuple[ShardingName, ...] = ("ddp", "fsdp", "zero1", "zero2", "zero3")

_CHECKPOINTED, _AUTOCAST = {"gradient_checkpointing": True}, {"autocast": "bfloat16"}
#: The steps of each sharding: the model, the method, the number of GPUs, and the settings other than the defaults.
_STEPS: tuple[tuple[str, str, int, dict[str, Any]], ...] = (
    ("llama", "full", 2, {}),
    ("llama", "lora", 2, {}),
    ("llama", "qlora", 2, {}),
    ("qwen3", "full", 8, _CHECKPOINTED),
    ("qwen3", "lora", 3, {"padding": True, "gradient_accumulation_steps": 3}),
    ("gemma", "full", 4, {"dtype": "float32"} | _AUTOCAST),
    ("gpt2", "full", 16, {"gradient_accumulation_steps": 2}),
    (BILLION, "full", 8, _CHECKPOINTED),
    (BILLION, "lora", 4, {}),
)


def _zero(**settings: Any) -> dict[str, Any]:
    return {"deepspeed": {"zero_optimization": settings}}


_AUTO = dict.fromkeys(
    ("reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold"), "auto"
)
#: Settings of the libraries, each with full fine-tuning.
_SETTINGS: tuple[tuple[ShardingName, dict[str, Any]], ...] = (
    ("ddp", {"ddp": {"gradient_as_bucket_view": True}}),
    ("ddp", {"ddp": {"static_graph": True}}),
    ("fsdp", {"fsdp_config": {"reshard_after_forward": False}}),
    ("fsdp", {"fsdp_config": {"cpu_offload": True}}),
    ("zero2", _zero(overlap_comm=True, reduce_bucket_size=2_000_000)),
    ("zero3", _zero(overlap_comm=False)),
    ("zero3", _zero(**_AUTO)),
    ("zero3", _zero(stage3_max_live_parameters=0)),
)


def sharded_cases(machine: dict[str, Any]) -> Iterator[StepCase]:
    """Yield the cases that the installed libraries run, for the `device` and the `stack` of a machine."""
    has_deepspeed = find_spec("deepspeed") is not None
    runs = [name for name in SHARDINGS if has_deepspeed or not name.startswith("zero")]
    for family, method, count, training in _STEPS:
        yield from (_case(name, family, method, count, training, machine) for name in runs)
    for name, settings in _SETTINGS:
        if name in runs:
            yield _case(name, "llama", "full", 4, settings, machine)


def _case(
    sharding: ShardingName, family: str, method: str, count: int, training: dict[str, Any], machine: dict[str, Any]
) -> StepCase:
    # DeepSpeed trains weights in half precision with bf16 enabled alone. FSDP2 shards 4-bit weights of a float type.
    needed = _AUTOCAST if sharding.startswith("zero") else {}
    storage = {"quant_storage": "bfloat16"} if sharding == "fsdp" and method == "qlora" else {}
    settings = "".join(f", {key}={value}" for key, value in training.items())
    return StepCase(
        name=f"{sharding} on {count}, {family.rpartition('/')[2]}, {method}{settings}",
        body={
            **machine,
            "model": family if family == BILLION else {"config": FAMILIES.get(family, TINY)},
            "method": METHODS[method] | storage,
            "training": {"micro_batch_size": 2, "sequence_length": 512, **needed, **training},
            "device": {**machine.get("device", {}), "count": count, "sharding": sharding, "type": "cuda"},
        },
    )
