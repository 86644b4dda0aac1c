"""IBM's fms-acceleration: Mistral-7B in the Hugging Face Trainer (TRL's SFTTrainer) on an A100, packed to 4,096 tokens.

Each row has three figures: the most bytes allocated and the bytes allocated at a stage's end, both by Hugging Face's
TrainerMemoryTracker, and the highest reading of nvidia-smi.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from validation.published.measurement import Run, measurement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.published.measurement import Measurement, Statistic
    from validation.published.source import Row, Source

MIB = 1 << 20

#: Code that ran instead of transformers' own, by a part of the configuration's name.
KERNELS = {
    "foak": "fused kernels (foak) for rotary embeddings, norms and the loss",
    "liger": "Liger's fused head and loss, which never allocates the logits",
    "padding-free": "padding-free batches of unequal length, whose longest is not stated",
}

#: Explanations of errors, by statistic and method.
REMARKS = {
    ("nvidia_smi", "full"): (
        "1 to 4 GB more than the replayed allocator and the CUDA context; the LoRA runs of the same table agree, so the"
        " allocator's reserved memory, which depends on the run's history, is the probable cause"
    ),
    ("max_memory_allocated", "QLoRA"): (
        "the peak is in the backward pass of a layer; the temporaries of bitsandbytes 0.43 there are not modelled"
    ),
    (
        "nvidia_smi",
        "QLoRA",
    ): "the causes of the allocated peak's error in the same run, and the allocator's reserved memory",
}

#: The explanation for runs with transformers 4.46 and later.
LOGITS_REUSE_BLOCKS = (
    "half-precision logits stay alive from transformers 4.46 on; the replayed allocator reuses reserved blocks for"
    " them, and the real one did not: the reading is 1.5 GB (LoRA) and 1.7 GB (QLoRA) above the same run with 4.45"
)

#: TRL casts a quantised model's modules after PEFT's preparation (trl.trainer.utils.peft_module_casting_to_bf16).
TRL_CASTS = "TRL's own casts after PEFT's preparation: adapters, embeddings and head in bfloat16, norms in float32"

#: From this release on, PEFT keeps adapters in float32 (autocast_adapter_dtype). Before, they have the model's dtype,
#: except on 4-bit weights, which have no floating-point dtype.
FLOAT32_ADAPTERS = (0, 12)

#: From this release of transformers on, half-precision logits stay alive during the loss (models have a loss_function).
KEEPING_LOGITS = (4, 46)

#: The stack of the rows that state no versions: that of the table's first commits.
UNSTATED = {"transformers": "4.39.3", "peft": "0.11.1", "bitsandbytes": "0.43.1"}


def measurements(source: Source) -> Iterator[Measurement]:
    """The figures of each row, up to three."""
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
    keeps_logits = _release(row, "transformers") >= KEEPING_LOGITS
    if statistic == "nvidia_smi" and row["method"] != "full" and keeps_logits:
        return LOGITS_REUSE_BLOCKS
    if row["method"] == "QLoRA" and _is_plugin(row):
        return ""
    return REMARKS.get((statistic, row["method"]), "")


def _figures(measured: dict[str, Any]) -> Iterator[tuple[Statistic, int]]:
    if measured.get("torch_peak_allocated_bytes"):
        yield "max_memory_allocated", measured["torch_peak_allocated_bytes"]
    if measured.get("torch_allocated_bytes"):
        yield "memory_allocated", measured["torch_allocated_bytes"]
    if measured.get("nvidia_smi_peak_used_MiB"):
        yield "nvidia_smi", measured["nvidia_smi_peak_used_MiB"] * MIB


def _run(row: Row) -> Run:
    differs = [sentence for name, sentence in KERNELS.items() if name in row["framework_config"]]
    if "padding-free" in row["framework_config"] or not row.get("seq_len"):
        return Run(differs=tuple(differs or ["the longest sequence is not stated"]))
    if row["method"] == "QLoRA" and not _is_plugin(row) and str(row.get("bf16_autocast")).lower() == "true":
        differs.append(TRL_CASTS)
    if not row.get("weight_dtype"):
        differs.append("the weights' dtype is not stated")
    if not row["versions"].get("transformers"):
        differs.append("the versions of the stack are not stated")
    return Run(request=_request(row), differs=tuple(differs))


def _is_plugin(row: Row) -> bool:
    """Whether the plugin loads the 4-bit weights without casting other parameters to float32.

    Source: fms-acceleration, plugins/accelerated-peft/src/fms_acceleration_peft/framework_plugin_bnb.py.
    """
    return "baseline" not in row["framework_config"]


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
            # transformers 4 checkpoints re-entrantly if gradient_checkpointing_kwargs is not set.
            "gradient_checkpointing_kwargs": {"use_reentrant": True},
            "trainer": "transformers",
            "attention": row["attention"],
        },
        "device": {"gpu": "a100-sxm4-80gb"},
        "stack": _stack(row),
    }


def _stack(row: Row) -> dict[str, str]:
    """The releases that change a figure. Those of torch do not: flash attention ran in the flash_attn package."""
    stated = {name: row["versions"][name] for name in UNSTATED if row["versions"].get(name)}
    return stated or UNSTATED


def _method(row: Row) -> dict[str, Any]:
    if row["method"] == "full":
        return {"name": "full"}
    lora = {
        "r": int(row["rank"]),
        "lora_alpha": float(row["lora_alpha"]),
        "lora_dropout": float(row["lora_dropout"]),
        "target_modules": [name for name in row["target_modules"].split() if name != "c_attn"],
    }
    if row["method"] == "LoRA":
        return {"name": "lora", **lora}
    return {"name": "qlora", **lora, "prepare_model_for_kbit_training": not _is_plugin(row)}


def _adapter_dtype(row: Row) -> str:
    return "float32" if row["method"] == "QLoRA" or _release(row, "peft") >= FLOAT32_ADAPTERS else "model"


def _autocast(row: Row) -> str | None:
    if str(row.get("bf16_autocast")).lower() == "true":
        return "bfloat16"
    return "float16" if row.get("fp16_autocast") else None


def _release(row: Row, package: str) -> tuple[int, int]:
    """A package's major and minor release; (0, 0) for rows without versions."""
    release = row["versions"].get(package)
    if not release:
        return (0, 0)
    major, minor, *_ = release.split(".")
    return int(major), int(minor)
