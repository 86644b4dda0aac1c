"""The allocation of an out-of-memory error, found again in the run that ended with it."""

from dataclasses import replace
from random import Random

import pytest

from calculator.common.errors import PlanError
from calculator.devices import Verdict
from calculator.diagnosis.diagnosis import diagnose, replay_of
from calculator.diagnosis.journal import journal_of
from calculator.diagnosis.message import parse_message
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from tests.calculator.random_plans import random_body

GPT2 = {
    "model": "openai-community/gpt2",
    "method": {"name": "full"},
    "training": {"micro_batch_size": 8, "sequence_length": 1024, "dtype": "float32", "attention": "eager"},
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 6,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
}
QLORA = {
    "model": {"config": LLAMA},
    "method": {"name": "qlora", "target_modules": "all-linear"},
    "training": {"micro_batch_size": 4, "sequence_length": 512, "gradient_accumulation_steps": 2, "trainer": "trl-sft"},
}
DDP = QLORA | {"device": {"count": 2, "sharding": "ddp"}}
FSDP = {
    "model": {"config": LLAMA},
    "method": {"name": "full"},
    "training": {
        "micro_batch_size": 2,
        "sequence_length": 512,
        "gradient_accumulation_steps": 3,
        "autocast": "bfloat16",
        "dtype": "float32",
        "trainer": "transformers",
    },
    "device": {"count": 4, "sharding": "fsdp"},
}
ZERO2, ZERO3 = (FSDP | {"device": {"count": 4, "sharding": sharding}} for sharding in ("zero2", "zero3"))
OFFLOAD = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
OFFLOADED = ZERO2 | {"training": ZERO2["training"] | {"deepspeed": OFFLOAD}}
RUNS = {"full": GPT2, "qlora": QLORA, "ddp": DDP, "fsdp": FSDP, "zero2": ZERO2, "offload": OFFLOADED, "zero3": ZERO3}

#: Models of few layers.
SMALL = ("openai-community/gpt2", "distilbert/distilgpt2", "google/gemma-3-270m", "Qwen/Qwen2.5-0.5B")

#: huggingface/transformers issue 7177.
THREAD = (
    "RuntimeError: CUDA out of memory. Tried to allocate 384.00 MiB (GPU 0; 15.90 GiB total capacity; 14.75 GiB already"
    " allocated; 225.81 MiB free; 14.81 GiB reserved in total by PyTorch)"
)


def on(body, memory_bytes):
    """The body's estimate on a device of a size."""
    return estimate(parse_request({**body, "device": {**body.get("device", {}), "memory_bytes": memory_bytes}}))


@pytest.mark.parametrize("body", RUNS.values(), ids=RUNS)
def test_the_journal_peaks_as_the_estimate(body):
    answer = estimate(parse_request(body))
    journal = journal_of(replay_of(answer))
    steady = [size for event, size in journal.line() if journal.requests[max(event, ~event)].step == 2]
    assert max(steady) == answer.memory.peak_allocated_bytes + answer.memory.library_workspace_bytes


@pytest.mark.parametrize("body", RUNS.values(), ids=RUNS)
def test_the_message_of_a_replay_identifies_its_allocation(body):
    memory_bytes = int(0.7 * estimate(parse_request(body)).memory.required_bytes)
    event = on(body, memory_bytes).fit.out_of_memory
    assert event is not None
    found = diagnose(parse_request(body), parse_message(event.message))
    # Blocks whose rest is too small to split off are others where cached blocks were freed before.
    close = [match for match in found.matches if abs(match.difference_bytes) < 8 << 20]
    assert (min(event.step, 2), event.phase, event.tensor) in {
        (match.step, match.phase, match.tensor) for match in close
    }
    assert found.matches[0] in close
    assert found.matches[0].is_reached
    assert found.reproduces


def test_live_tensors_add_up_to_the_allocated_bytes():
    event = on(GPT2, 15 << 30).fit.out_of_memory
    found = diagnose(parse_request(GPT2), parse_message(event.message))
    total = sum(found.alive_by_component.values())
    assert 0 <= found.matches[0].allocated_bytes - total < 1 << 20
    assert sum(tensor.bytes for tensor in found.alive) <= total


def test_a_public_thread_is_explained_by_its_attention_matrix():
    found = diagnose(parse_request(GPT2), parse_message(THREAD))
    assert found.found == "several"
    assert {match.tensor.partition(": ")[0] for match in found.matches} == {"transformer.h.*.attn"}
    assert found.matches[0].formula == "B × num_attention_heads × S × S × 4"
    assert (found.predicted.tensor, found.predicted.step) == (found.matches[0].tensor, 1)
    assert not found.is_fragmented


def test_each_change_is_replayed_where_the_error_occurred():
    found = diagnose(parse_request(GPT2), parse_message(THREAD))
    assert [change.ends for change in found.changes] == sorted((change.ends for change in found.changes), reverse=True)
    for change in found.changes:
        request = replace(change.request, device=replace(change.request.device, memory_bytes=found.usable_bytes))
        assert (estimate(request).fit.verdict is not Verdict.DOES_NOT_FIT) == change.ends
    assert {"training.gradient_checkpointing": True} in [change.changes for change in found.changes if change.ends]


def test_a_request_that_fits_there_does_not_claim_which_change_ends_the_error():
    small = {**GPT2, "training": {**GPT2["training"], "micro_batch_size": 1}}
    found = diagnose(parse_request(small), parse_message(THREAD))
    assert (found.found, found.reproduces, found.predicted) == ("none", False, None)
    assert {change.ends for change in found.changes} == {None}


def test_another_length_explains_a_size_that_no_tensor_has():
    text = THREAD.replace("384.00 MiB", "1.20 GiB")
    found = diagnose(parse_request(GPT2), parse_message(text))
    lengths = {other.tensor: (other.least, other.most) for other in found.other_lengths}
    least, most = lengths["lm_head: output"]
    for length in (least, most):
        assert abs(8 * length * 50257 * 4 / (1 << 30) - 1.20) < 0.007
    assert found.matches == ()


@pytest.mark.parametrize(
    ("changes", "loc"),
    [
        ({"accounting": "textbook"}, "accounting"),
        (
            {
                "device": {"count": 2, "sharding": "zero3"},
                "training": {
                    "autocast": "bfloat16",
                    "deepspeed": {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
                },
            },
            "training.deepspeed.zero_optimization.offload_optimizer.device",
        ),
        (
            {
                "device": {"count": 2, "sharding": "zero2"},
                "training": {"autocast": "bfloat16", "trainer": "trl-rloo", "micro_batch_size": 2},
            },
            "training.trainer",
        ),
    ],
)
def test_a_run_that_is_not_replayed_is_refused_by_its_field(changes, loc):
    with pytest.raises(PlanError) as error:
        diagnose(parse_request({**GPT2, **changes}), parse_message(THREAD))
    assert [problem.loc for problem in error.value.problems] == [loc]


def test_messages_of_random_plans_are_diagnosed_as_those_plans():
    chance, ended = Random(2011), 0
    while ended < 3:
        request = parse_request({**random_body(chance), "model": chance.choice(SMALL)})
        try:
            answer = estimate(replace(request, reserved="replay"))
        except PlanError:
            continue
        journal = journal_of(replay_of(answer))
        steady = [size for event, size in journal.line() if journal.requests[max(event, ~event)].step == 2]
        assert max(steady) == answer.memory.peak_allocated_bytes + answer.memory.library_workspace_bytes, request
        device = replace(request.device, memory_bytes=int(0.75 * answer.memory.required_bytes))
        event = estimate(replace(request, reserved="replay", device=device)).fit.out_of_memory
        if event is not None:
            ended += 1
            found = diagnose(request, parse_message(event.message))
            close = {(m.step, m.phase, m.tensor) for m in found.matches if abs(m.difference_bytes) < 16 << 20}
            assert (min(event.step, 2), event.phase, event.tensor) in close, request


def test_changes_of_zero_are_stages_gpus_buckets_and_offload():
    memory_bytes = int(0.7 * estimate(parse_request(ZERO2)).memory.required_bytes)
    found = diagnose(parse_request(ZERO2), parse_message(on(ZERO2, memory_bytes).fit.out_of_memory.message))
    changes = {next(iter(change.changes.items()))[0]: change for change in found.changes}
    buckets = changes["training.deepspeed.zero_optimization.reduce_bucket_size"]
    assert buckets.changes == {"training.deepspeed.zero_optimization.reduce_bucket_size": "auto"}
    assert buckets.ends
    assert changes["device.count"].request.device.count == 2 * ZERO2["device"]["count"]
    assert "device.sharding" not in changes  # stage 3's buffers are larger than the weights that it divides
    offload = changes["training.deepspeed.zero_optimization.offload_optimizer"]
    assert offload.request.training.zero.offload_optimizer.device == "cpu"
    outcome = replay_of(estimate(offload.request)).outcome(found.usable_bytes)
    assert (offload.verdict, offload.ends) == (outcome.verdict, outcome.verdict is not Verdict.DOES_NOT_FIT)


def test_the_message_of_a_run_of_stage_2_with_offload_identifies_its_allocation():
    memory_bytes = int(0.7 * estimate(parse_request(OFFLOADED)).memory.required_bytes)
    event = on(OFFLOADED, memory_bytes).fit.out_of_memory
    found = diagnose(parse_request(OFFLOADED), parse_message(event.message))
    assert event.tensor in {match.tensor for match in found.matches}
    norms = [
        request
        for request in journal_of(replay_of(found.estimate)).requests
        if "norm of a gradient" in request.kind.name
    ]
    assert {norm.phase for norm in norms} == {"backward"}


def test_rows_of_a_step_under_zero_are_in_their_own_phases():
    requests = journal_of(replay_of(estimate(parse_request(ZERO2)))).requests
    of_steps = [request for request in requests if request.step == 2]
    logits = [step.phase for step in of_steps if step.kind.name == "loss: logits in float32"]
    assert logits == ["forward"] * ZERO2["training"]["gradient_accumulation_steps"]
    assert {step.phase for step in of_steps if step.kind.name == "DeepSpeed: float32 gradients"} == {"optimizer_step"}
    assert {request.kind.component for request in requests if request.kind.name.startswith("DeepSpeed: master")} == {
        "optimizer_states"
    }
