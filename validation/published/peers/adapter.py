"""A script for the peers' environment: reads questions as JSON on standard input, writes answers to standard output.

It imports only the standard library and the peers. An answer is a number of bytes, or the reason why there is none.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
GIB = 1 << 30

SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}

#: fitcheck's names of GPUs, and their memory in GiB by the data sheet.
FITCHECK_GPUS = {"a100-sxm4-80gb": "a100-80", "l40s": "l40s"}
SHEET_GIB = {"a100-sxm4-80gb": 80.0, "l40s": 48.0}

#: canifinetune's names for groups of LoRA targets.
SCOPES = {
    ("q_proj", "v_proj"): "conservative",
    ("k_proj", "o_proj", "q_proj", "v_proj"): "attention",
}


class UnsupportedError(Exception):
    """The peer does not support the request."""


def fitcheck(question: dict[str, Any]) -> int:
    """Return the bytes that fitcheck-llm estimates."""
    from fitcheck import ModelConfig, TrainingConfig, estimate, get_gpu  # noqa: PLC0415
    from fitcheck.overhead_db import get_overhead_profile  # noqa: PLC0415

    model, training, method = question["model"], question["training"], _known_method(question)
    card = FITCHECK_GPUS[question["gpu"]]
    config = ModelConfig(
        name=model["id"],
        num_params=model["parameters"],
        hidden_size=model["hidden_size"],
        num_layers=model["num_hidden_layers"],
        num_attention_heads=model["num_attention_heads"],
        num_kv_heads=model["num_key_value_heads"],
        intermediate_size=model["intermediate_size"],
        vocab_size=model["vocab_size"],
        head_dim=model["head_dim"],
        tie_word_embeddings=model["tie_word_embeddings"],
    )
    quantized = method["name"] == "qlora"
    flash = training["attention"] != "eager"
    settings = TrainingConfig(
        precision=SHORT[training["dtype"]],
        quantization="nf4" if quantized else "none",
        double_quant=quantized and method.get("double_quant", True),
        optimizer_dtype="bf16" if method["name"] == "full" and training["dtype"] != "float32" else "fp32",
        batch_size=training["micro_batch_size"],
        seq_len=training["sequence_length"],
        lora_rank=None if method["name"] == "full" else method["r"],
        lora_targets=sorted(method.get("target_modules", ())) or ["q_proj"],
        grad_checkpoint=training["gradient_checkpointing"],
        flash_attn=flash,
    )
    report = estimate(config, settings, get_gpu(card))
    context = get_overhead_profile(card, flash, settings.quantization).base_context_mib
    excluded = {"max_memory_allocated": report.overhead_mib, "max_memory_reserved": context}
    return round((report.total_mib - excluded.get(question["statistic"], 0)) * MIB)


def canifinetune(question: dict[str, Any]) -> int:
    """Return the bytes that canifinetune estimates."""
    from canifinetune.estimator.memory import EstimateRequest, estimate  # noqa: PLC0415

    model, training, method = question["model"], question["training"], _known_method(question)
    targets = tuple(sorted(method.get("target_modules", ())))
    if method["name"] != "full" and targets not in SCOPES:
        raise UnsupportedError(f"no target scope is {', '.join(targets)}")
    lora = {} if method["name"] == "full" else {"lora_rank": method["r"], "lora_target_scope": SCOPES[targets]}
    memory = estimate(
        EstimateRequest(
            model_id=model["id"],
            method=method["name"],
            gpu_vram_gb=SHEET_GIB[question["gpu"]],
            seq_len=training["sequence_length"],
            micro_batch_size=training["micro_batch_size"],
            base_dtype=SHORT[training["dtype"]],
            optimizer="adamw_torch",
            gradient_checkpointing=training["gradient_checkpointing"],
            attention_implementation=training["attention"],
            override={**model, "family": model["model_type"], "total_params": model["parameters"]},
            use_network=False,
            **lora,
        )
    ).memory
    total = memory.total_estimated_gb - memory.safety_margin_gb
    if question["statistic"] == "max_memory_allocated":
        total -= memory.cuda_overhead_gb
    return round(total * GIB)


def accelerate(question: dict[str, Any]) -> int:
    """Return the bytes that `accelerate estimate-memory` estimates from the model's size in float32."""
    from accelerate.commands.estimate import estimate_training_usage  # noqa: PLC0415

    if question["method"]["name"] != "full":
        raise UnsupportedError("only full fine-tuning is estimated")
    return int(
        max(estimate_training_usage(4 * question["model"]["parameters"], question["training"]["dtype"]).values())
    )


PEERS: dict[str, Callable[[dict[str, Any]], int]] = {
    "fitcheck-llm": fitcheck,
    "canifinetune": canifinetune,
    "accelerate": accelerate,
}


def _known_method(question: dict[str, Any]) -> dict[str, Any]:
    method: dict[str, Any] = question["method"]
    variant = "dora" if method.get("use_dora") else "mica" if method.get("init_lora_weights") == "mica" else None
    if variant or method["name"] not in ("full", "lora", "qlora"):
        raise UnsupportedError(f"no method {variant or method['name']}")
    return method


def answers(peer: str, questions: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a peer's version, and its answers by the questions' ids."""
    try:
        result: dict[str, Any] = {"version": version(peer), "answers": {}}
    except PackageNotFoundError:
        return {"version": None, "answers": {}}
    for question in questions:
        try:
            result["answers"][question["id"]] = {"bytes": PEERS[peer](question)}
        except (UnsupportedError, ValueError, KeyError) as error:
            result["answers"][question["id"]] = {"reason": f"{error}".splitlines()[0]}
    return result


if __name__ == "__main__":
    questions = json.load(sys.stdin)
    json.dump({peer: answers(peer, questions) for peer in PEERS}, sys.stdout)
