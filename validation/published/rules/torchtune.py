"""torchtune's README and tutorials: rows of its recipes, most without a batch's length or a release."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from validation.published.measurement import Run, measurement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.published.measurement import Measurement, Statistic
    from validation.published.source import Row, Source

_TARGETS = ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

#: The method and own settings of the configuration of a row: 8B_full_single_device.yaml, 8B_lora_single_device.yaml.
OWN_SETTINGS: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {
    1493: ({"name": "full"}, {"optimizer": "paged_adamw_8bit", "optimizer_in_bwd": True}),
    1495: (
        {"name": "lora", "r": 8, "lora_alpha": 16, "target_modules": _TARGETS},
        {"optimizer": "adamw_torch_fused"},
    ),
}

PACKED = "packed samples, whose block mask is not modeled for torchtune"


def measurements(source: Source) -> Iterator[Measurement]:
    """Yield one figure per row, with the statistic that its text names."""
    for row in source.rows:
        run = Run(request=_requested(row), differs=tuple(_differs(row)))
        yield measurement(source, row, _statistic(row), row["measured"]["bytes"], run, setting=row.get("technique", ""))


def _requested(row: Row) -> dict[str, Any] | None:
    """Return the README's runs on an RTX 4090, with what their files in recipes/configs/llama3_1 set."""
    if row["id"] not in OWN_SETTINGS:
        return None
    method, training = OWN_SETTINGS[row["id"]]
    return {
        "model": "meta-llama/Llama-3.1-8B",
        "method": method,
        "training": {
            "trainer": "torchtune",
            "micro_batch_size": row["batch_size"],
            "sequence_length": row["seq_len"],
            "adapter_dtype": "model",
            "gradient_checkpointing": True,
            "max_grad_norm": None,
            **training,
        },
    }


def _statistic(row: Row) -> Statistic:
    text = row["statistic"]
    if "reserved" in text:
        return "max_memory_reserved"
    return "max_memory_allocated" if "allocated" in text or "Active" in text else "unstated"


def _differs(row: Row) -> Iterator[str]:
    """Yield why no request expresses a row as a whole, the largest reason first."""
    if row["num_gpus"] > 1:
        yield f"torchtune's recipes for several GPUs: {row.get('distributed', 'sharding')} over {row['num_gpus']}"
    if "QLoRA" in row["method"]:
        yield "torchtune's QLoRA, in torchao's NF4"
    if not isinstance(row.get("seq_len"), int):
        yield "the longest sequence is not stated"
    if row.get("compile"):
        yield "torch.compile"
    if row.get("seq_semantics") == "packed":
        yield PACKED
    if row["quality"] != "exact config":
        yield "torchtune's release and parts of the configuration are not stated"
