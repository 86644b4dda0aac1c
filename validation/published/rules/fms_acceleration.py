"""IBM's fms-acceleration: Mistral-7B in the HF Trainer (TRL's SFTTrainer) on one A100, packed to 4,096 tokens.

Three figures a row: the most allocated and the allocated at a stage's end, by HF's TrainerMemoryTracker, and the most
that nvidia-smi showed of the card.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from validation.published.measurement import Run, measurement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.published.measurement import Measurement, Statistic
    from validation.published.source import Row, Source

MIB = 1 << 20

#: What the configurations' names say of the code that ran instead of transformers' own.
KERNELS = {
    "foak": "fused kernels (foak) for rotary embeddings, norms and the loss",
    "liger": "Liger's fused head and loss, which never makes the logits",
    "padding-free": "padding-free batches of unequal length, whose longest is not told",
}

#: Why figures are off, by statistic and method.
REMARKS = {
    ("nvidia_smi", "full"): (
        "1 to 4 GB more than the replayed allocator and the CUDA context take; the LoRA runs of the same table agree,"
        " so it is probably the allocator's share, which depends on the run's history"
    ),
    ("max_memory_allocated", "QLoRA"): (
        "4-bit layers of bitsandbytes 0.43 and recomputation by re-entrant checkpoints hold other tensors in the"
        " backward pass than the stack that the figures speak of"
    ),
    ("nvidia_smi", "QLoRA"): "as of the allocated peak of the same run, and the allocator's share",
}

#: The same of the newest LoRA run.
LOGITS_FOUND_ROOM = (
    "1.5 GB above the same run with transformers 4.45, of which the half-precision logits are 1.0; the replayed"
    " allocator finds room for them in what it holds already, and the real one did not"
)

#: TRL casts a quantised model's modules after PEFT's preparation (trl.trainer.utils.peft_module_casting_to_bf16).
TRL_CASTS = "TRL's own casts after PEFT's preparation: adapters, embeddings and head in bfloat16, norms in float32"

#: PEFT keeps adapters in float32 since 0.12 (autocast_adapter_dtype); before, they take the model's dtype, but beside
#: 4-bit weights, which have no floating-point dtype to take.
FLOAT32_ADAPTERS = (0, 12)

#: From this release of transformers on, half-precision logits stay beside the loss (models take a loss_function).
KEEPING_LOGITS = (4, 46)

#: Before this release, every layer keeps its own rotary tables.
SHARED_TABLES = (4, 43)


def measurements(source: Source) -> Iterator[Measurement]:
    """The three figures of each row that has them."""
    for row in source.rows:
        run, setting = _run(row), row["framework_config"]
        for statistic, size in _figures(row["measured"]):
            yield measurement(
                source,
                row,
                statistic,
                size,
                run,
                setting=setting,
                point="between_steps" if statistic == "memory_allocated" else None,
                remark=_remark(row, statistic),
            )


def _remark(row: Row, statistic: Statistic) -> str:
    if (statistic, row["method"]) == ("nvidia_smi", "LoRA") and _release(row, "transformers") >= KEEPING_LOGITS:
        return LOGITS_FOUND_ROOM
    return REMARKS.get((statistic, row["method"]), "")


def _figures(told: dict[str, Any]) -> Iterator[tuple[Statistic, int]]:
    if told.get("torch_peak_allocated_bytes"):
        yield "max_memory_allocated", told["torch_peak_allocated_bytes"]
    if told.get("torch_allocated_bytes"):
        yield "memory_allocated", told["torch_allocated_bytes"]
    if told.get("nvidia_smi_peak_used_MiB"):
        yield "nvidia_smi", told["nvidia_smi_peak_used_MiB"] * MIB


def _run(row: Row) -> Run:
    differs = [said for name, said in KERNELS.items() if name in row["framework_config"]]
    if "padding-free" in row["framework_config"] or not row.get("seq_len"):
        return Run(differs=tuple(differs or ["the longest sequence is not told"]))
    if row["method"] == "QLoRA":
        differs += _of_qlora(row)
    if not row.get("weight_dtype"):
        differs.append("the weights' dtype is not told")
    if not row["versions"].get("transformers"):
        differs.append("the versions of the stack are not told")
    transformers = _release(row, "transformers")
    return Run(
        request=_request(row),
        protocol="trainer" if transformers < KEEPING_LOGITS else "trainer_from_4_46",
        adjustments=("rotary_tables_of_every_layer",) if transformers < SHARED_TABLES else (),
        differs=tuple(differs),
    )


def _of_qlora(row: Row) -> list[str]:
    if "baseline" not in row["framework_config"]:
        return ["the plugin's own loading of 4-bit weights, without PEFT's preparation"]
    return [TRL_CASTS] if str(row.get("bf16_autocast")).lower() == "true" else []


def _request(row: Row) -> dict[str, Any]:
    return {
        "model": row["model"],
        "method": _method(row),
        "training": {
            "micro_batch_size": row["batch_size"],
            "sequence_length": row["seq_len"],
            "dtype": row.get("weight_dtype") or "float16",
            "autocast": _autocast(row),
            "adapter_dtype": _adapter_dtype(row),
            "gradient_checkpointing": row["gradient_checkpointing"],
            "attention": row["attention"],
        },
        "device": {"gpu": "a100-sxm4-80gb"},
    }


def _method(row: Row) -> dict[str, Any]:
    if row["method"] == "full":
        return {"name": "full"}
    lora = {
        "r": int(row["rank"]),
        "lora_alpha": float(row["lora_alpha"]),
        "lora_dropout": float(row["lora_dropout"]),
        "target_modules": [name for name in row["target_modules"].split() if name != "c_attn"],
    }
    return {"name": "lora", **lora} if row["method"] == "LoRA" else {"name": "qlora", **lora}


def _adapter_dtype(row: Row) -> str:
    return "float32" if row["method"] == "QLoRA" or _release(row, "peft") >= FLOAT32_ADAPTERS else "model"


def _autocast(row: Row) -> str | None:
    if str(row.get("bf16_autocast")).lower() == "true":
        return "bfloat16"
    return "float16" if row.get("fp16_autocast") else None


def _release(row: Row, package: str) -> tuple[int, int]:
    """A package's release as numbers; of rows without versions, the one before everything."""
    told = row["versions"].get(package)
    if not told:
        return (0, 0)
    major, minor, *_ = told.split(".")
    return int(major), int(minor)
