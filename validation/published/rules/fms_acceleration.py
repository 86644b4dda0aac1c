"""IBM's fms-acceleration: Mistral-7B in the Hugging Face Trainer (TRL's SFTTrainer) on an A100, packed to 4,096 tokens.

Each row has three figures: the most bytes allocated and the bytes allocated at a stage's end, both by Hugging Face's
TrainerMemoryTracker, and the highest reading of nvidia-smi.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from validation.published.measurement import Run, measurement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.published.measurement import Measurement, Protocol, Statistic
    from validation.published.source import Row, Source

MIB = 1 << 20

#: The tokens of a packed sequence.
PACKED = 4096

#: Settings that neither a request nor one of the protocols has.
PADDING_FREE = "padding-free batches of unequal length, whose longest is not stated"
LENGTH = "the longest sequence is not stated"

#: A figure between steps does not depend on the batches' lengths; its tokens' ids are in it, below a millionth.
AT_REST = f"the longest sequence: {PACKED:,} tokens, on which nothing that is alive between steps depends"

#: Explanations of errors of readings of nvidia-smi.
LOGITS_SEGMENTS = (
    "0.6 to 4.1 GB more than the replayed allocator and the CUDA context; the same runs with Liger's fused head, which"
    " has no logits of all tokens, agree within 1 %: the real allocator has more segments for logits than the replay"
)
LOGITS_REUSE_BLOCKS = (
    "half-precision logits stay alive from transformers 4.46 on; the replayed allocator reuses reserved blocks for"
    " them, and the real one did not: the reading is 1.4 to 1.7 GB above the same run with 4.45"
)
FOREIGN = (
    "all four readings of May 2024 are 1,026 to 1,028 MiB above those of the same rows in June, whose allocated bytes"
    " are the same; what used them is not known"
)
PREPARED = (
    "the replay has more segments that nothing uses at the peak than the runs in float16; no reason is known. The same"
    " runs in bfloat16 with transformers 4.44 and 4.45 are within 0.02 %"
)

#: From this release on, PEFT keeps adapters in float32 (autocast_adapter_dtype). Before, they have the model's dtype,
#: except on 4-bit weights, which have no floating-point dtype.
FLOAT32_ADAPTERS = (0, 12)

#: From this release of transformers on, half-precision logits stay alive during the loss (models have a loss_function).
KEEPING_LOGITS = (4, 46)

#: The first of two tables whose rows state no versions is of May 2024.
BEFORE_JUNE = "2024-06"

#: The stack of the rows that state no versions, of May and June 2024: the newest releases of these days that the
#: requirements of their commits allow. Source: fms-acceleration, commits f1895b7, 8103238 and 00febdc,
#: plugins/framework/pyproject.toml (transformers<4.40, torch>2.2,<2.3) and plugins/accelerated-peft/requirements.txt.
UNSTATED = {"transformers": "4.39.3", "peft": "0.11.1", "bitsandbytes": "0.43.1"}
NEWEST_ALLOWED = (
    "the releases: transformers 4.39.3, PEFT 0.11.1, bitsandbytes 0.43.1 and PyTorch 2.2.2, the newest of that day that"
    " the requirements of the commit allow"
)

#: The newest TRL of these days is 0.8.6. Of a 4-bit model in float16 it casts what 0.9.6 casts, the nearest release
#: that a request can state. Source: trl 0.8.6 and 0.9.6, trainer/sft_trainer.py, SFTTrainer.__init__.
UNSTATED_TRL = "0.9.6"


def measurements(source: Source) -> Iterator[Measurement]:
    """Yield the figures of each row, up to three."""
    for row in source.rows:
        setting = row["framework_config"]
        for statistic, size in _figures(row["measured"]):
            yield measurement(
                source,
                row,
                statistic,
                size,
                _run(row, statistic),
                setting=setting,
                point="between_steps" if statistic == "memory_allocated" else None,
                remark=_remark(row, statistic),
            )


def _remark(row: Row, statistic: Statistic) -> str:
    if statistic != "nvidia_smi":
        return ""
    if row["date"] < BEFORE_JUNE:
        return FOREIGN
    if row["method"] == "QLoRA" and not _is_plugin(row) and row["weight_dtype"] == "float16":
        return PREPARED
    if row["method"] == "full" or _protocol(row) == "fast_kernels":
        return LOGITS_SEGMENTS
    keeps_logits = _release(row, "transformers") >= KEEPING_LOGITS and _protocol(row) is None
    return LOGITS_REUSE_BLOCKS if keeps_logits else ""


def _figures(measured: dict[str, Any]) -> Iterator[tuple[Statistic, int]]:
    if measured.get("torch_peak_allocated_bytes"):
        yield "max_memory_allocated", measured["torch_peak_allocated_bytes"]
    if measured.get("torch_allocated_bytes"):
        yield "memory_allocated", measured["torch_allocated_bytes"]
    if measured.get("nvidia_smi_peak_used_MiB"):
        yield "nvidia_smi", measured["nvidia_smi_peak_used_MiB"] * MIB


def _run(row: Row, statistic: Statistic) -> Run:
    at_rest, stated = statistic == "memory_allocated", bool(row.get("seq_len"))
    differs = [] if at_rest else [*_differs_in_steps(row)]
    if not at_rest and not stated:
        return Run(differs=tuple(differs))
    unknown = ((not stated, AT_REST), (not row["versions"], NEWEST_ALLOWED))
    return Run(
        request=_request(row),
        protocol=_protocol(row),
        differs=tuple(differs),
        unknown=tuple(text for is_assumed, text in unknown if is_assumed),
    )


def _differs_in_steps(row: Row) -> Iterator[str]:
    """Yield the tensors of a step that a request does not have; none is alive between steps."""
    if "padding-free" in row["framework_config"]:
        yield PADDING_FREE
    elif not row.get("seq_len"):
        yield LENGTH


def _protocol(row: Row) -> Protocol | None:
    if "foak" not in row["framework_config"]:
        return None
    return "fast_kernels_and_fused_head" if "liger" in row["framework_config"] else "fast_kernels"


def _is_plugin(row: Row) -> bool:
    """Return whether the plugin loads the 4-bit weights without casting other parameters to float32.

    Source: fms-acceleration, plugins/accelerated-peft/src/fms_acceleration_peft/framework_plugin_bnb.py.
    """
    return not row["framework_config"].startswith("baseline")


def _request(row: Row) -> dict[str, Any]:
    return {
        "model": row["model"],
        "method": _method(row),
        "training": {
            "micro_batch_size": row["batch_size"],
            "sequence_length": row.get("seq_len") or PACKED,
            "dtype": row["weight_dtype"],
            "autocast": _autocast(row),
            "adapter_dtype": _adapter_dtype(row),
            "gradient_checkpointing": row["gradient_checkpointing"],
            # transformers 4 checkpoints re-entrantly if gradient_checkpointing_kwargs is not set.
            "gradient_checkpointing_kwargs": {"use_reentrant": True},
            # SFTTrainer of this time is transformers.Trainer, but for what it casts of a 4-bit model.
            "trainer": "transformers" if _is_plugin(row) else "trl-sft",
            "attention": row["attention"],
        },
        "device": {"gpu": "a100-sxm4-80gb"},
        "stack": _stack(row),
    }


def _stack(row: Row) -> dict[str, str]:
    """Return the releases that change a figure. Those of torch do not, because the package flash_attn ran attention."""
    names = UNSTATED if _is_plugin(row) else (*UNSTATED, "trl")
    stated = {name: row["versions"][name] for name in names if row["versions"].get(name)}
    return stated or {**UNSTATED, **({} if _is_plugin(row) else {"trl": UNSTATED_TRL})}


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
    """Return a package's major and minor release; (0, 0) for rows without versions."""
    release = row["versions"].get(package)
    if not release:
        return (0, 0)
    major, minor, *_ = release.split(".")
    return int(major), int(minor)
