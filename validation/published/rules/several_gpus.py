"""Published runs on several GPUs: one rank's memory under FSDP, DistributedDataParallel and ZeRO.

Full fine-tuning under FSDP1 peaks in the optimizer's step where batches are small, as the peaks of two batch sizes show
that differ by the ids of their tokens alone. FSDP1 and FSDP2 keep the same there: the rank's weights, gradients and
optimizer states, and a foreach step's temporaries. Reserved memory of torchtitan's runs in bfloat16 is predicted with a
request that differs from them. The other rows have no request, with the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from validation.published.measurement import Run, measurement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.published.measurement import Measurement, Statistic
    from validation.published.source import Row, Source

GIB = 1 << 30

#: Short enough for the optimizer's step to be the peak, as the measured figures are for every batch size.
TOKENS = 512

FSDP1 = "FSDP1, with other units: the peak is in the optimizer's step, where both versions keep the same"
LENGTH = f"the longest sequence is not stated: {TOKENS} tokens, because the optimizer's step does not depend on it"
FLOAT32 = "the weights' dtype in memory is not stated: float32"

#: Why a row has no request, by a part of its framework or sharding; the first that it has counts.
REASONS = {
    "autogptq": "a base in GPTQ with the kernels of auto-gptq: those of gptqmodel are modeled",
    "moe-scattermoe": "expert parallelism of scattermoe",
    "padding-free": "padding-free batches of unequal length, whose longest is not stated",
    "FSDP1": "FSDP1, which gathers other units than FSDP2, and the peak is not in the optimizer's step",
    "megatron": "tensor, pipeline or expert parallelism of Megatron-LM",
    "device_map": "layers split over the GPUs by a device_map",
    "EP": "expert parallelism of torchtitan",
    "float8": "training in float8",
    "torchtitan": "torchtitan's own model, of which every second layer is checkpointed",
}

#: The differences between a request and torchtitan's runs in bfloat16.
TORCHTITAN = (
    "torchtitan's own model, which repeats keys and values for each query head",
    "gradients are reduced in float32, where accelerate reduces in bfloat16",
    "shards are allocated empty, where accelerate moves whole weights to the GPU",
)
TORCHTITAN_CONF = "the allocator's settings are not stated: expandable segments, as torchtitan's run_train.sh sets them"
READING = "nothing but a reading of nvidia-smi on a nearly full GPU: the run probably ended out of memory"
COMMENT = "a comment in a script or a README, rounded, that does not state how it was read"

#: torchtitan's words for a model none or all of whose layers are checkpointed.
CHECKPOINTED = {"none": False, "full": True}

#: A share of an A100's memory above which nvidia-smi reads a GPU that is full.
FULL = 0.95 * 81920

#: The field of each figure, its statistic, and its unit in bytes; the first that a row has counts.
FIGURES: dict[str, tuple[Statistic, int]] = {
    "peak_allocated_bytes": ("max_memory_allocated", 1),
    "reserved_GiB": ("max_memory_reserved", GIB),
    "nvidia_smi_MiB": ("nvidia_smi", 1 << 20),
    "GiB_per_gpu": ("unstated", GIB),
    "GiB_about": ("unstated", GIB),
    "GB_per_gpu": ("unstated", 10**9),
    "GB": ("unstated", 10**9),
}


def measurements(source: Source) -> Iterator[Measurement]:
    """Yield one figure of each row."""
    for row in source.rows:
        field = next(name for name in FIGURES if name in row["measured"])
        statistic, unit = FIGURES[field]
        setting = ", ".join(filter(None, (f"{row['num_gpus']} GPUs", row["sharding"], row.get("framework"))))
        yield measurement(source, row, statistic, row["measured"][field] * unit, _run(row), setting=setting)


def _run(row: Row) -> Run:
    if row.get("peak") == "optimizer_step":
        unknown = (LENGTH,) if "weights" in row else (LENGTH, FLOAT32)
        return Run(request=_request(row), differs=(FSDP1,), unknown=unknown)
    if row["sharding"] == "FSDP2 (torchtitan), eager bf16" and row["gradient_checkpointing"] in CHECKPOINTED:
        return Run(request=_torchtitan_request(row), differs=TORCHTITAN, unknown=(TORCHTITAN_CONF,))
    return Run(differs=(_reason(row),))


def _torchtitan_request(row: Row) -> dict[str, Any]:
    return {
        "model": "meta-llama/Meta-Llama-3-8B",
        "method": {"name": "full"},
        "training": {
            "micro_batch_size": row["batch_size"],
            "sequence_length": row["seq_len"],
            "dtype": "float32",
            "autocast": "bfloat16",
            "gradient_checkpointing": CHECKPOINTED[row["gradient_checkpointing"]],
        },
        "device": {
            "gpu": "h100-sxm5-80gb",
            "count": row["num_gpus"],
            "sharding": "fsdp",
            "alloc_conf": "expandable_segments:True",
        },
    }


def _reason(row: Row) -> str:
    if row["measured"].get("nvidia_smi_MiB", 0) > FULL and len(row["measured"]) == 1:
        return READING
    described = f"{row.get('framework', '')} {row['sharding']}"
    return next((reason for part, reason in REASONS.items() if part in described), COMMENT)


def _request(row: Row) -> dict[str, Any]:
    return {
        "model": row["model"],
        "method": {"name": row["method"]},
        "training": {
            "micro_batch_size": int(row["batch_size"]),
            "sequence_length": TOKENS,
            "dtype": row.get("weights", "float32"),
            "gradient_checkpointing": row["gradient_checkpointing"],
        },
        "device": {"gpu": "a100-sxm4-80gb", "count": row["num_gpus"], "sharding": "fsdp"},
    }
