"""Differences between the lesson's rules of thumb and practice, with figures of estimated training steps."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from calculator.estimation.estimate import estimate, model_of
from calculator.estimation.request import parse_request
from calculator.estimation.textbook import prefix_parameters
from calculator.lesson.worked.line import Line
from calculator.lesson.worked.on_model import ATTENTION

if TYPE_CHECKING:
    from calculator.estimation.answer import Estimate
    from calculator.inputs.sharding import ShardingName

#: The models in the lines: 7B and 70B as in the lesson, one with grouped-query attention, and a small one.
MODEL = "meta-llama/Llama-2-7b-hf"
LARGE = "meta-llama/Meta-Llama-3-70B"
GROUPED = "meta-llama/Llama-3.1-8B"
SMALL = "openai-community/gpt2"

_STATE = ("base_weights", "gradients", "optimizer_states")

_LORA = {"name": "lora", "r": 8, "target_modules": list(ATTENTION)}

#: A number of virtual tokens whose activations need more memory than LoRA's parameters.
_PROMPT = 200


#: The lesson's GPUs for 840 GB, and ways to shard the run over them: a sharding, and the precision of the step.
CARDS = 11
SHARDED: tuple[tuple[str, ShardingName, dict[str, Any]], ...] = (
    ("ZeRO-3, bf16 with float32 masters", "zero3", {"dtype": "float32", "autocast": "bfloat16"}),
    ("FSDP2, bf16 with float32 masters", "fsdp", {"dtype": "float32", "autocast": "bfloat16"}),
    ("FSDP2, bf16 throughout", "fsdp", {"dtype": "bfloat16"}),
)


def _estimate(method: dict[str, Any], model: str = MODEL, **training: Any) -> Estimate:
    return estimate(parse_request({"model": model, "method": method, "training": training}))


@cache
def full() -> tuple[Line, ...]:
    """Return the bytes per parameter of full fine-tuning, resident and at the peak, by precision."""
    plans = {
        "bfloat16 throughout": _estimate({"name": "full"}),
        "float32 weights under autocast": _estimate({"name": "full"}, dtype="float32", autocast="bfloat16"),
    }
    lines = (line for name, plan in plans.items() for line in _bytes_a_parameter(name, plan))
    return (*lines, *(_memory_on_each_gpu(*way) for way in SHARDED))


def _memory_on_each_gpu(name: str, sharding: ShardingName, precision: dict[str, Any]) -> Line:
    """Return the memory that full fine-tuning of 70B needs on each of the lesson's 11 GPUs."""
    training = {"sequence_length": 2048, "gradient_checkpointing": True, **precision}
    device = {"count": CARDS, "sharding": sharding}
    body = {"model": LARGE, "method": {"name": "full"}, "training": training, "device": device, "reserved": "rule"}
    memory = estimate(parse_request(body)).memory
    return Line(
        name=f"70B on {CARDS} GPUs, each: {name}",
        formula="shards or partitions of weights, gradients, states + gathered weights + activations",
        substituted=f"Llama 3 70B, 1 × 2,048 tokens with checkpointing, in the {memory.peak_phase.replace('_', ' ')}",
        value=memory.peak_allocated_bytes,
        unit="bytes",
    )


def _bytes_a_parameter(name: str, plan: Estimate) -> tuple[Line, Line]:
    kept = sum(part.bytes for part in plan.memory.components if part.name in _STATE)
    peak, count = plan.memory.peak_allocated_bytes, plan.parameters.base
    return (
        Line(
            name=f"{name}: weights, gradients, states",
            formula="bytes ÷ N",
            substituted=f"{kept:,} ÷ {count:,}",
            value=kept / count,
            unit="bytes per parameter",
        ),
        Line(
            name=f"{name}: at the peak",
            formula="bytes ÷ N",
            substituted=f"{peak:,} ÷ {count:,}, in the {plan.memory.peak_phase.replace('_', ' ')}",
            value=peak / count,
            unit="bytes per parameter",
            main=True,
        ),
    )


@cache
def lora() -> tuple[Line, ...]:
    """Return the bytes of LoRA's trained parameters, and of activations with and without checkpointing."""
    with_checkpoints, without = _estimate(_LORA, gradient_checkpointing=True), _estimate(_LORA)
    added = with_checkpoints.parameters.added
    return (
        Line(
            name="weights and Adam's states of A and B",
            formula="float32: (4 + 4 + 4) × added, and 4 more while there are gradients",
            substituted=f"(4 + 4 + 4) × {added:,}",
            value=_component_bytes(without, "adapter_weights", "optimizer_states"),
            unit="bytes",
        ),
        _step("activations and logits, checkpointing on", with_checkpoints),
        _step("activations and logits, checkpointing off", without),
    )


@cache
def qlora() -> tuple[Line, ...]:
    """Return the memory of the lesson's 70B run on a real model, with r 64 on Q, K, V and O."""
    method = {"name": "qlora", "r": 64, "target_modules": list(ATTENTION)}
    plain, prepared = (
        _estimate(
            {**method, "prepare_model_for_kbit_training": prepare},
            LARGE,
            gradient_checkpointing=True,
        )
        for prepare in (False, True)
    )
    return (
        Line(
            name="base model, including what is not in 4 bits",
            formula="packed weights + constants + embeddings, head and norms",
            substituted="the lesson: 0.5 × N",
            value=_component_bytes(plain, "base_weights", "quantization_constants"),
            unit="bytes",
        ),
        Line(
            name="of which block constants",
            formula="1 ÷ b + 4 ÷ (256 × b) bytes per weight",
            substituted="the lesson: none",
            value=_component_bytes(plain, "quantization_constants"),
            unit="bytes",
        ),
        Line(
            name="weights of A and B",
            formula="4 × added",
            substituted=f"4 × {plain.parameters.added:,}",
            value=_component_bytes(plain, "adapter_weights"),
            unit="bytes",
        ),
        _peak("as loaded", plain),
        _peak("prepared for k-bit training", prepared),
        *(
            _peak(
                f"{label} on GPT-2",
                _estimate({"name": name, "target_modules": "all-linear"}, SMALL, sequence_length=1024),
            )
            for name, label in (("lora", "LoRA"), ("qlora", "QLoRA"))
        ),
    )


@cache
def prefix() -> tuple[Line, ...]:
    """Return the memory of a prefix, of LoRA with checkpointing, and of a prefix with grouped-query attention."""
    method = {"name": "prefix", "num_virtual_tokens": 20}
    grouped = _estimate(method, GROUPED)
    config = model_of(parse_request({"model": GROUPED, "method": method}).model).config
    d, L = config["hidden_size"], config["num_hidden_layers"]
    return (
        _peak("LoRA, r 8 on Q, K, V, O, checkpointing on", _estimate(_LORA, gradient_checkpointing=True)),
        _peak("prefix of 20 tokens, which can't checkpoint", _estimate(method)),
        Line(
            name="prefix of 20 tokens on Llama-3.1-8B, by the lesson's formula",
            formula="2 × p × d × L",
            substituted=f"2 × 20 × {d:,} × {L:,}",
            value=prefix_parameters(20, d, L),
            unit="parameters",
        ),
        Line(
            name="the same, with the width of its grouped keys",
            formula="2 × p × kv heads × head_dim × L",
            substituted=f"2 × 20 × {config['num_key_value_heads']} × {d // config['num_attention_heads']} × {L}",
            value=grouped.parameters.trainable,
            unit="parameters",
        ),
    )


@cache
def prompt() -> tuple[Line, ...]:
    """Return the memory of prompts and of LoRA, with checkpointing."""
    return (
        _peak("LoRA, r 8 on Q, K, V, O", _estimate(_LORA, gradient_checkpointing=True)),
        *(
            _peak(
                f"prompt of {p} tokens",
                _estimate({"name": "prompt", "num_virtual_tokens": p}, gradient_checkpointing=True),
            )
            for p in (20, _PROMPT)
        ),
    )


def _peak(name: str, plan: Estimate) -> Line:
    return Line(
        name=f"{name}: the step's peak",
        formula="all tensors allocated at once",
        substituted=f"{plan.parameters.trainable:,} parameters trained",
        value=plan.memory.peak_allocated_bytes,
        unit="bytes",
    )


def _step(name: str, plan: Estimate) -> Line:
    return Line(
        name=name,
        formula="allocated at the peak",
        substituted="1 × 2,048 tokens",
        value=_component_bytes(plan, "activations", "logits_and_loss", "workspace"),
        unit="bytes",
        main=True,
    )


def _component_bytes(plan: Estimate, *names: str) -> int:
    return sum(part.bytes for part in plan.memory.components if part.name in names)


PRACTICE = {"full": full, "lora": lora, "qlora": qlora, "prefix": prefix, "prompt": prompt}
