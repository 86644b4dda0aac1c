"""Random plans over real models, and how the rule for reserved memory stands to their replays.

`python -m tests.calculator.random_plans SEED COUNT` prints the table of docs/decisions/0004-reserved-memory.md.
"""

import random
import sys
from dataclasses import replace
from statistics import median

from calculator.common.errors import PlanError
from calculator.devices import library_workspace
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

MODELS = (
    "meta-llama/Llama-3.2-1B",
    "meta-llama/Llama-3.2-3B",
    "meta-llama/Llama-3.1-8B",
    "meta-llama/Llama-3.1-70B",
    "meta-llama/Llama-2-7b-hf",
    "meta-llama/Llama-2-13b-hf",
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "HuggingFaceTB/SmolLM2-135M",
    "HuggingFaceTB/SmolLM2-1.7B",
    "HuggingFaceTB/SmolLM3-3B",
    "mistralai/Mistral-7B-v0.3",
    "mistralai/Mistral-Nemo-Base-2407",
    "Qwen/Qwen2.5-0.5B",
    "Qwen/Qwen2.5-7B",
    "Qwen/Qwen2.5-32B",
    "Qwen/Qwen3-0.6B",
    "Qwen/Qwen3-4B",
    "Qwen/Qwen3-14B",
    "openai-community/gpt2",
    "openai-community/gpt2-xl",
    "google/gemma-3-270m",
    "google/gemma-2-9b",
)
#: Methods other than the three that are planned most.
OTHERS = ("adapter", "prefix", "prompt")
OPTIMIZERS = (
    *["adamw_torch"] * 4,
    "adamw_torch_fused",
    "adamw_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "sgd",
    "adafactor",
    "lion_8bit",
)
TRAINERS = (
    "transformers",
    "trl-sft",
    *["trl-dpo", "trl-kto", "trl-grpo", "trl-rloo"] * 2,
    "trl-orpo",
    "trl-reward",
    "torchtune",
)
#: Plans beyond any node's GPU are left out, bytes.
LARGEST = 200 * 10**9


def plans(seed, count):
    """Requests that the calculator answers, drawn from a seed."""
    return _answered(count, random_body, random.Random(seed))


def plans_with_trainers(seed, count):
    """Requests with a trainer that the calculator answers, drawn from a seed."""
    return _answered(count, random_body_with_trainer, random.Random(seed))


def _answered(count, body, chance):
    found = []
    while len(found) < count:
        try:
            request = parse_request(body(chance))
            if estimate(replace(request, reserved="rule")).memory.peak_allocated_bytes < LARGEST:
                found.append(request)
        except PlanError:
            continue
    return found


def random_body(chance):
    training = {
        "micro_batch_size": chance.choice([1, 1, 2, 3, 4, 8, 16, 32]),
        "sequence_length": chance.choice([64, 128, 256, 512, 1000, 1024, 1500, 2048, 3000, 4096, 8192]),
        "gradient_checkpointing": chance.random() < 0.55,
        "padding": chance.random() < 0.3,
        "gradient_accumulation_steps": 4 if chance.random() < 0.25 else 1,
        "attention": "eager" if chance.random() < 0.15 else "sdpa",
        "dtype": "float32" if chance.random() < 0.15 else "bfloat16",
        "adapter_dtype": "model" if chance.random() < 0.3 else "float32",
        "optimizer": chance.choice(OPTIMIZERS),
    }
    return {"model": chance.choice(MODELS), "method": _method(chance), "training": training}


def random_body_with_trainer(chance):
    """Most have checkpoints. Lengths are such that a few layers' tensors are in the pool of large ones."""
    body = random_body(chance)
    training = body["training"] | {
        "trainer": chance.choice(TRAINERS),
        "micro_batch_size": chance.choice([1, 2, 3, 4]),
        "sequence_length": chance.choice([256, 512, 700, 1000, 1024, 1500, 2048, 4096]),
        "gradient_checkpointing": chance.random() < 0.85,
        "gradient_accumulation_steps": 2 if chance.random() < 0.2 else 1,
    }
    if training["trainer"] in ("trl-grpo", "trl-rloo"):
        training["max_completion_length"] = training["sequence_length"] // 2
    return body | {"training": training}


def _method(chance):
    name = chance.choice(["full", "full", "lora", "lora", "lora", "qlora", "qlora", "qlora", *OTHERS])
    method = {"name": name}
    if name in ("prefix", "prompt"):
        return method | {"num_virtual_tokens": chance.choice([8, 20, 100])}
    if name == "adapter":
        return method | {"bottleneck_size": chance.choice([16, 64, 256])}
    if name == "full":
        return method
    method["r"] = chance.choice([4, 8, 16, 32, 64, 128, 256])
    method["target_modules"] = "all-linear" if chance.random() < 0.6 else None
    method["lora_dropout"] = 0.05 if chance.random() < 0.3 else 0.0
    method["use_dora"] = chance.random() < 0.1
    if method["name"] == "qlora":
        method["prepare_model_for_kbit_training"] = chance.random() < 0.7
    return method


def excesses(requests):
    """By request, what is reserved over what is allocated by the replay, and by the rule over the replay."""
    workspace = sum(part.bytes for part in library_workspace(None))
    found = []
    for request in requests:
        rule = estimate(replace(request, reserved="rule")).memory
        replayed = estimate(replace(request, reserved="replay")).memory.peak_reserved_bytes
        allocated = rule.peak_allocated_bytes + workspace
        found.append((replayed / allocated, rule.peak_reserved_bytes / replayed, request))
    return found


def _table(rows):
    """Lines of a table: by method, how replays stand to what is allocated, and the rule to replays."""
    yield "| plans | | replay / allocated: median (most) | rule not below replay | rule / replay: median (1 %, 99 %) |"
    yield "|---|---|---|---|---|"
    groups = {"all": rows}
    for row in rows:
        request = row[2]
        kind = f"{request.method.name}, {'' if request.training.gradient_checkpointing else 'not '}checkpointed"
        groups.setdefault(kind, []).append(row)
    for name, members in sorted(groups.items()):
        replayed = sorted(row[0] for row in members)
        ruled = sorted(row[1] for row in members)
        covered = sum(ratio >= 1 for ratio in ruled) / len(ruled)
        low, high = ruled[len(ruled) // 100], ruled[len(ruled) * 99 // 100]
        yield (
            f"| {name} | {len(members)} | {median(replayed):.3f} ({replayed[-1]:.2f}) | {covered:.1%} "
            f"| {median(ruled):.3f} ({low:.3f}, {high:.2f}) |"
        )


if __name__ == "__main__":
    sys.stdout.write("\n".join(_table(excesses(plans(int(sys.argv[1]), int(sys.argv[2]))))) + "\n")
