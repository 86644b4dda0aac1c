"""The no-grad passes of PEFT's method comparison, before its first step and between steps."""

from calculator.allocator.history import Padded
from calculator.estimation.estimate import model_of, resident_state
from calculator.estimation.request import parse_request
from validation.published.buckets import RunWithOutputs, max_reserved
from validation.published.evaluations import TEXTS, LoadedAndEvaluated, reserved_by_questions
from validation.published.rules import measurements

MODEL = {"model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
MODEL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 32_000}

PROTOCOLS = ("buckets", "buckets_after_loss", "buckets_after_loss_of_base")


def request_of(method, **training):
    lengths = {"sequence_lengths": [[64, 50], [128, 50]], "torch_empty_cache_steps": 10, "empty_cache_at": "after_step"}
    training = {"micro_batch_size": 4, "sequence_length": 256, **lengths, **training}
    return parse_request({"model": {"config": MODEL}, "method": method, "training": training})


def resident_of(method):
    return resident_state(request_of(method, sequence_lengths=None, torch_empty_cache_steps=None))


def test_before_the_first_step_the_outputs_of_two_batches_are_alive_and_none_at_the_end():
    resident = resident_of({"name": "full"})
    loading = LoadedAndEvaluated(resident, resident.prepared)
    sizes, (events,) = loading.for_device(None)
    live = most = passes = 0
    for event in events:
        live += sizes[event] if event >= 0 else -sizes[~event]
        most = max(most, live)
        passes += event >= 0 and loading.names[event] == "lm_head: output"
    logits = 4 * 256 * 32_000 * 2
    assert passes == TEXTS // 4
    assert live == sum(tensor.bytes for tensor in resident.tensors)
    assert 2 * logits < most - live < 3 * logits


def test_a_run_reserves_something_else_after_a_loss_before_its_first_step():
    request = request_of({"name": "full"})
    model, workspaces = model_of(request.model), (1 << 20, 1 << 20)
    plain, after, of_base = (max_reserved(request, model, workspaces, protocol) for protocol in PROTOCOLS)
    assert plain != after
    assert after == of_base


def test_questions_reserve_a_prefix_for_all_of_them_in_addition_to_the_cached_blocks_of_steps():
    tokens = 1000
    request = request_of({"name": "prefix", "num_virtual_tokens": tokens})
    model, workspaces = model_of(request.model), (1 << 20, 1 << 20)
    run = RunWithOutputs(request, model, workspaces)
    steps = ((Padded(64, padding=True),),) * 10
    alone = run.replay(steps).peak_reserved_bytes
    prefix = 50 * tokens * 2 * 2 * 2 * 64
    assert reserved_by_questions(run, steps, 10) >= alone + 4 * prefix


def test_the_script_of_a_run_is_that_of_its_date():
    runs = [
        measurement
        for measurement in measurements()
        if measurement.source == "peft_metamathqa" and measurement.run.request
    ]
    protocols = {protocol: [run.date for run in runs if run.run.protocol == protocol] for protocol in PROTOCOLS}
    assert max(protocols["buckets"]) < "2025-12-03" < min(protocols["buckets_after_loss"])
    assert max(protocols["buckets_after_loss"]) < "2026-07-14" < min(protocols["buckets_after_loss_of_base"])
