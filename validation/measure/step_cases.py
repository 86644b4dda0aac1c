"""The steps to measure: real architectures, in rounds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from calculator.estimation.request import parse_request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.estimation.request import Request

SMALL, HALF, BILLION = "HuggingFaceTB/SmolLM2-135M", "Qwen/Qwen2.5-0.5B", "meta-llama/Llama-3.2-1B"

#: Two layers of SmolLM2-135M's widths.
TINY = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 2,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 4096,
    "tie_word_embeddings": True,
}

_ALL = {"target_modules": "all-linear", "r": 16}

#: Each method with its first settings.
METHODS: dict[str, dict[str, Any]] = {
    "full": {"name": "full"},
    "lora": {"name": "lora", **_ALL},
    "qlora": {"name": "qlora", **_ALL},
    "adapter": {"name": "adapter"},
    "prefix": {"name": "prefix"},
    "prompt": {"name": "prompt"},
}

#: The batch sizes and sequence lengths of a method's cases.
SHAPES = ((1, 1024), (4, 512))

#: Sample lengths of the runs whose micro-batches differ.
LENGTHS = [[128, 600], [300, 250], [700, 100], [1300, 40], [2048, 4]]

#: Single variations: a name, the method, and the training settings that differ from the defaults.
OPTIONS: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("checkpointing", METHODS["lora"], {"gradient_checkpointing": True}),
    ("checkpointing", METHODS["full"], {"gradient_checkpointing": True}),
    ("padding", METHODS["lora"], {"padding": True}),
    ("eager attention", METHODS["lora"], {"attention": "eager"}),
    ("float32", METHODS["full"], {"dtype": "float32"}),
    ("autocast over float32", METHODS["full"], {"dtype": "float32", "autocast": "bfloat16"}),
    ("accumulation", METHODS["full"], {"gradient_accumulation_steps": 2}),
    ("no clipping", METHODS["full"], {"max_grad_norm": None}),
    ("adapters in bfloat16", METHODS["lora"], {"adapter_dtype": "model"}),
    ("dropout", METHODS["lora"] | {"lora_dropout": 0.1}, {}),
    ("DoRA", METHODS["lora"] | {"use_dora": True}, {}),
    ("rank 128", METHODS["lora"] | {"r": 128}, {}),
    ("unprepared", METHODS["qlora"] | {"prepare_model_for_kbit_training": False}, {}),
    ("fp4, single quantization", METHODS["qlora"] | {"quant_type": "fp4", "double_quant": False}, {}),
    (
        "unprepared, checkpointing",
        METHODS["qlora"] | {"prepare_model_for_kbit_training": False},
        {"gradient_checkpointing": True},
    ),
    ("pfeiffer", METHODS["adapter"] | {"placement": "pfeiffer"}, {}),
    ("projection", METHODS["prefix"] | {"prefix_projection": True}, {}),
    ("fused AdamW", METHODS["full"], {"optimizer": "adamw_torch_fused"}),
    ("8-bit AdamW", METHODS["full"], {"optimizer": "adamw_8bit"}),
    ("paged 8-bit AdamW", METHODS["full"], {"optimizer": "paged_adamw_8bit"}),
    ("Adafactor", METHODS["full"], {"optimizer": "adafactor"}),
    ("SGD", METHODS["full"], {"optimizer": "sgd"}),
)

#: Other small architectures, each with full fine-tuning and LoRA.
FAMILIES = (
    "openai-community/gpt2",
    "EleutherAI/pythia-410m",
    "facebook/opt-350m",
    "bigscience/bloom-560m",
    "Qwen/Qwen3-0.6B",
    "google/gemma-3-270m",
    "allenai/OLMo-2-0425-1B",
)

#: Larger models, checkpointed, from 3 to 70 billion parameters, for a GPU that they fit.
LARGE: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("meta-llama/Llama-3.2-3B", "full", {}),
    ("meta-llama/Llama-3.1-8B", "lora", {}),
    ("meta-llama/Llama-3.1-8B", "qlora", {}),
    ("Qwen/Qwen2.5-7B", "lora", {"gradient_checkpointing": False}),
    ("mistralai/Mistral-7B-v0.3", "adapter", {}),
    ("microsoft/phi-4", "qlora", {}),
    ("google/gemma-2-9b", "lora", {}),
    ("Qwen/Qwen2.5-32B", "qlora", {}),
    ("meta-llama/Llama-3.1-70B", "qlora", {"sequence_length": 1024}),
)


@dataclass(frozen=True, kw_only=True)
class StepCase:
    """One training step, as an estimate request."""

    name: str
    body: dict[str, Any]

    @cached_property
    def request(self) -> Request:
        """The request."""
        return parse_request(self.body)


def rounds(machine: dict[str, Any]) -> list[list[StepCase]]:
    """Return the cases in rounds. `machine` has the `device` and the `stack` of their requests."""
    least, half, billion = (list(_method_cases(model, machine)) for model in (SMALL, HALF, BILLION))
    options = [
        _case(HALF, option, method, {"micro_batch_size": 2, **training}, machine)
        for option, method, training in OPTIONS
    ]
    families = [
        _case(model, name, METHODS[name], {"micro_batch_size": 2, "sequence_length": 512}, machine)
        for model in FAMILIES
        for name in ("full", "lora")
    ]
    large = [
        _case(
            model, name, METHODS[name], {"sequence_length": 2048, "gradient_checkpointing": True, **training}, machine
        )
        for model, name, training in LARGE
    ]
    return [least, options, billion, families, large, half]


def length_cases(machine: dict[str, Any]) -> list[StepCase]:
    """Return runs whose micro-batches differ in length, with a cache that is kept and one that is emptied."""
    emptied = {"torch_empty_cache_steps": 4}
    options: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
        ("drawn lengths", METHODS["full"], {"gradient_checkpointing": True}),
        ("drawn lengths", METHODS["lora"], {}),
        ("drawn lengths, emptied", METHODS["lora"], emptied),
        ("drawn lengths, emptied after steps", METHODS["lora"], {**emptied, "empty_cache_at": "after_step"}),
    )
    common = {"micro_batch_size": 4, "sequence_length": 2048, "sequence_lengths": LENGTHS}
    return [_case(SMALL, option, method, {**common, **training}, machine) for option, method, training in options]


def small(machine: dict[str, Any]) -> list[StepCase]:
    """Return each method once on a small model and a short sequence, which a CPU runs in seconds."""
    return [
        _case({"config": TINY}, name, method, {"sequence_length": 32}, machine, title="two small layers")
        for name, method in METHODS.items()
    ]


def _method_cases(model: str, machine: dict[str, Any]) -> Iterator[StepCase]:
    for batch, length in SHAPES:
        for name, method in METHODS.items():
            training = {"micro_batch_size": batch, "sequence_length": length}
            yield _case(model, name, method, training, machine)


def _case(
    model: str | dict[str, Any],
    option: str,
    method: dict[str, Any],
    training: dict[str, Any],
    machine: dict[str, Any],
    title: str = "",
) -> StepCase:
    training = {"sequence_length": 1024, **training}
    shape = f"{training.get('micro_batch_size', 1)} × {training['sequence_length']}"
    suffix = "" if option == method["name"] else f", {option}"
    name = f"{title or str(model).rpartition('/')[2]}, {method['name']}{suffix}, {shape}"
    return StepCase(name=name, body={"model": model, "method": method, "training": training, **machine})
