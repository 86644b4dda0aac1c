"""DDP's broadcasts of buffers: how they are joined, and which of a step's micro-batches runs them."""

import pytest

from calculator.estimation.estimate import estimate, resident_state, training_step
from calculator.estimation.request import parse_request
from calculator.sharding import ddp_buffers
from calculator.training_step.training_context import training_context

CONFIG = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 4,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 100,
}


def request(method, sharding="ddp", config=CONFIG, **training):
    return parse_request(
        {
            "model": {"config": config},
            "method": method,
            "training": {"sequence_length": 4, **training},
            "device": {"count": 2, "sharding": sharding},
        }
    )


def joined(method, **kwargs):
    return ddp_buffers.broadcasts(resident_state(request(method, **kwargs)).prepared)


def test_buffers_of_a_dtype_are_joined_until_they_reach_the_limit():
    # Traced: torch.distributed._broadcast_coalesced with the buffers of PEFT's OSF.
    high, low = 302006272, 268443648
    expected = [289427456, low, high, 289427456, low, low, low, 289427456, low, high, 289427456, low, low, low, 512]
    assert [bucket.bytes for bucket in joined({"name": "osf"})] == expected


def test_a_buffer_that_is_alone_is_not_copied():
    gemma = {**CONFIG, "model_type": "gemma3_text", "head_dim": 128}
    assert joined({"name": "lora"}, config=gemma)[0] is None
    scale, *others = joined({"name": "vera", "r": 8192}, config=gemma)
    assert scale is None
    assert [bucket.bytes for bucket in others] == [8192 * 4 * (4096 + 4096), 512]


def test_the_most_bytes_of_two_successive_broadcasts_are_alive_at_once():
    prepared = resident_state(request({"name": "osf"})).prepared
    assert [tensor.bytes for tensor in ddp_buffers.live_flat_tensors(prepared)] == [302006272, 289427456]


@pytest.mark.parametrize("steps", [1, 3])
def test_the_first_micro_batch_of_a_step_broadcasts(steps):
    neo = {"model_type": "gpt_neo", "hidden_size": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 100}
    neo |= {"max_position_embeddings": 4096, "attention_types": [[["global", "local"], 1]]}
    asked = request({"name": "lora"}, config=neo, gradient_accumulation_steps=steps)
    step = training_step(asked)
    assert step.peaks()[0].operation == ddp_buffers.NAME
    rows = {name for name, *_ in step.run.tape.rows}
    assert (ddp_buffers.NAME in rows) is (steps == 1)
    prepared = step.resident.prepared.first_micro_batch
    context = training_context(prepared)
    context.before_first_pass(context.tape)
    assert [row[0] for row in context.tape.rows] == [ddp_buffers.NAME]


def test_reserved_memory_contains_the_broadcasts():
    neo = {"model_type": "gpt_neo", "hidden_size": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 100}
    neo |= {"max_position_embeddings": 4096, "attention_types": [[["global", "local"], 1]]}
    answers = [estimate(request({"name": "lora"}, sharding=name, config=neo)) for name in ("ddp", "fsdp")]
    ddp, fsdp = (answer.memory.peak_reserved_bytes for answer in answers)
    assert ddp - fsdp > 2 * 4096**2 - (4 << 20)
