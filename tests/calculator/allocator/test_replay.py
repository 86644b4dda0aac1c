"""The replay: unrolled layers, a run's steady state, and published measurements."""

import json
from dataclasses import replace
from itertools import accumulate, groupby

import pytest

from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.loading import Loading, one_by_one
from calculator.allocator.replay import Batch, Replay, full_peak_reserved
from calculator.allocator.sharded_loading import loading_of
from calculator.common.errors import PlanError
from calculator.estimation.compatibility import check
from calculator.estimation.estimate import estimate, model_of, resident_state, training_step
from calculator.estimation.positions import within_positions
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from calculator.families import FAMILIES_WITH_FORWARD
from calculator.inputs.settings import declared
from calculator.inputs.training import Training
from calculator.training_step.unrolled import events, every_event
from tests.executed_lines import executed_lines
from tests.paths import CASE_FILES
from validation.random_grid.random_requests import random_request


def cases(name):
    return [json.loads(line) for line in (CASE_FILES / name).read_text().splitlines()]


CASES = cases("public.jsonl")
#: One traced case of every family and method.
CHOSEN = {
    (case["request"]["model"]["config"]["model_type"], case["request"]["method"]["name"]): case
    for case in CASES
    if "phases" in case["expected"] and isinstance(case["request"]["model"], dict)
}
#: Those where layers leave something behind outside themselves: a prefix's gradients, router logits' gradients.
BEHIND = [case for key, case in CHOSEN.items() if key[1] == "prefix"]
BEHIND += [case for case in cases("combinations.jsonl") if "router-loss" in case["id"]]
#: cuBLAS workspaces of an L40S.
WORKSPACES = (8_519_680, 8_519_680)
LLAMA_8B = {"model": "meta-llama/Llama-3.1-8B", "method": {"name": "lora", "r": 16, "target_modules": "all-linear"}}


def resident(body):
    return resident_state(parse_request(body))


def with_training(prepared, **settings):
    return prepared.for_run(replace(prepared.training, **settings), prepared.device)


def in_order(passes):
    """Allocations by size and frees by the number of their allocation, in order; consecutive frees are sorted."""
    numbers, actions = {}, []
    for number, event in enumerate((*passes.forward, *passes.backward)):
        if event >= 0:
            numbers[event] = number
            actions.append(("allocate", passes.rows[event][4]))
        else:
            actions.append(("free", numbers[~event]))
    return [
        action
        for kind, group in groupby(actions, lambda action: action[0])
        for action in (sorted(group) if kind == "free" else group)
    ]


def before_the_prefix(passes):
    """The backward pass up to the operation that combines all layers' gradients, which is not unrolled.

    It stacks them; if a window cut the prefix, it pads each first.
    """
    combining = ("unbind", "cache: slice")
    names = [(n, passes.rows[event][0]) for n, event in enumerate(passes.backward) if event >= 0]
    return passes.backward[: next(n for n, name in names if any(part in name for part in combining))]


#: Only the head is trained: the layers' keys and values are cached nevertheless, and freed after the last layer.
CHOSEN["llama", "lora of the head"] = {
    "request": {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "lora", "target_modules": ["lm_head"]}}
}
#: The first layer of an attention type comes after two others, whose masks another backward pass frees.
CHOSEN |= {("masks by type", case["id"]): case for case in cases("rotary.jsonl") if "masks-by-type" in case["id"]}


@pytest.mark.parametrize("case", CHOSEN.values(), ids=[" ".join(key) for key in CHOSEN])
def test_unrolled_layers_are_layers_interpreted_one_by_one(case):
    prepared = resident(case["request"]).prepared
    short, full = events(prepared), every_event(prepared)
    if prepared.method.name == "prefix":
        short, full = (replace(run, backward=before_the_prefix(run)) for run in (short, full))
    assert in_order(short) == in_order(full)


@pytest.mark.parametrize("case", BEHIND, ids=lambda case: case["id"])
def test_events_outside_the_layers_reserve_what_those_of_all_layers_do(case):
    state = resident(case["request"])
    run = Replay(CachingAllocator(), state, WORKSPACES)
    alone = with_training(state.prepared, gradient_accumulation_steps=1)
    run.first = Batch(run.allocator, every_event(alone))
    run.later = Batch(run.allocator, every_event(state.prepared)) if run.later else None
    run.load()
    for _ in range(3):
        run.step()
    assert run.allocator.max_reserved == full_peak_reserved(state, WORKSPACES)


@pytest.mark.parametrize(
    "method", [{"name": "lora"}, {"name": "qlora", "prepare_model_for_kbit_training": False}, {"name": "full"}]
)
def test_a_replay_runs_the_attention_kernels_of_its_gpu(method):
    body = LLAMA_8B | {"method": method, "training": {"dtype": "float16"}}
    names = {}
    for gpu in ("t4", "l4"):
        replayed = Replay(CachingAllocator(), resident(body | {"device": {"gpu": gpu}}), WORKSPACES).first.events
        names[gpu] = {row[0].rpartition("self_attn: ")[2] for row in replayed.rows}
    assert "flash attention: dq_accum" in names["l4"] - names["t4"]
    assert "memory-efficient attention: delta" in names["t4"] - names["l4"]


def test_a_gpu_without_flash_attention_reserves_what_its_own_kernels_need():
    body = LLAMA_8B | {"method": {"name": "full"}, "training": {"dtype": "float16"}, "reserved": "replay"}
    t4, l4 = (estimate(parse_request(body | {"device": {"gpu": gpu}})).memory for gpu in ("t4", "l4"))
    assert t4.peak_allocated_bytes == l4.peak_allocated_bytes
    assert t4.peak_reserved_bytes == pytest.approx(0.9986 * l4.peak_reserved_bytes, rel=0.0001)


def test_a_run_stops_growing():
    run = Replay(CachingAllocator(), resident(LLAMA_8B), WORKSPACES)
    run.load()
    reserved = []
    for _ in range(6):
        run.step()
        reserved.append(run.allocator.reserved)
    assert reserved[0] < reserved[1], "the optimizer's states occupy blocks of the first step's activations"
    assert reserved[1:] == [reserved[1]] * 5
    assert full_peak_reserved(resident(LLAMA_8B), WORKSPACES) == reserved[-1]


def test_only_states_gradients_and_the_loss_outlive_a_step():
    state = resident(LLAMA_8B)
    passes = events(state.prepared)
    trained = [tensor for tensor in state.tensors if tensor.trained]
    assert sorted(passes.rows[row][4] for row in passes.gradients) == sorted(
        t.bytes // t.count for t in one_by_one(trained)
    )
    assert {passes.rows[row][0] for row in passes.left} >= {"input_ids", "loss: loss"}
    assert sum(passes.rows[row][4] for row in passes.left) < 1 << 20


def test_gradients_that_accumulate_are_alive_in_the_next_micro_batch():
    once = full_peak_reserved(resident(LLAMA_8B | {"method": {"name": "full"}}), WORKSPACES)
    body = LLAMA_8B | {"method": {"name": "full"}, "training": {"gradient_accumulation_steps": 4}}
    assert full_peak_reserved(resident(body), WORKSPACES) > once


def test_weights_are_loaded_into_one_block_of_their_size():
    state = resident({"model": "meta-llama/Llama-3.1-8B", "method": {"name": "full"}})
    run = Replay(CachingAllocator(), state, WORKSPACES)
    run.load()
    small = sum(t.bytes for t in state.tensors if t.bytes // t.count <= 1 << 20)
    weights = 2 * state.prepared.model.parameters
    assert weights <= run.allocator.large.reserved < weights + (2 << 20)
    assert small <= run.allocator.small.reserved < small + (4 << 20)


def test_a_prepared_models_float32_copies_leave_the_half_precision_blocks_free():
    body = {"model": "meta-llama/Llama-3.1-8B", "method": {"name": "qlora"}}
    state = resident(body)
    run = Replay(CachingAllocator(), state, WORKSPACES)
    run.load()
    resting = sum(tensor.bytes for tensor in state.tensors)
    halves = sum(2 * t.parameters * t.count for t in state.tensors if t.base and t.parameters and t.dtype == "float32")
    assert resting + halves <= run.allocator.reserved < (resting + halves) * 1.03


def test_every_resident_tensor_is_loaded_and_everything_else_freed():
    for method in ("full", "lora", "qlora", "adapter", "prefix", "prompt"):
        state = resident({"model": "meta-llama/Llama-3.2-1B", "method": {"name": method}})
        loading = Loading(state.tensors, state.prepared.training)
        gone = {~event for event in loading.events if event < 0}
        left = [size for row, size in enumerate(loading.sizes) if row not in gone]
        assert sorted(left) == sorted(t.bytes // t.count for t in one_by_one(state.tensors))


def test_unrolled_and_counted_layers_have_the_same_live_bytes():
    """Random requests of every family."""
    compared = 0
    for number in range(120):
        try:
            request = parse_request(random_request(88, number, FAMILIES_WITH_FORWARD))
            model = model_of(request.model)
            check(within_positions(request, model), model)
        except PlanError:
            continue
        passes = events(resident_state(request).prepared)
        bytes_of = [row[4] for row in passes.rows]
        forward, backward = (
            [bytes_of[event] if event >= 0 else -bytes_of[~event] for event in passed]
            for passed in (passes.forward, passes.backward)
        )
        ahead, back, _ = training_step(request).peaks()
        assert max(accumulate(forward)) == ahead.bytes - ahead.throughout
        assert max(accumulate(backward, initial=sum(forward))) == back.bytes - back.throughout
        compared += 1
    assert compared > 60


def test_a_tensor_of_no_bytes_has_no_block():
    """The memory-efficient kernel saves no logsumexp if no gradient flows, as in a first layer."""
    training = {"padding": True, "sequence_length": 3, "micro_batch_size": 2}
    body = {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "adapter"}, "training": training}
    passes = events(resident(body).prepared)
    empty = {row for row, kind in enumerate(passes.rows) if not kind[4]}
    batch = Batch(CachingAllocator(), passes)
    assert {passes.rows[row][0] for row in empty} == {"model.layers.*.self_attn: attention: logsumexp"}
    assert not {max(event, ~event) for event in (*batch.forward, *batch.backward)} & empty
    memory = estimate(parse_request(body | {"reserved": "replay"})).memory
    assert memory.peak_allocated_bytes < memory.peak_reserved_bytes < 1.1 * memory.peak_allocated_bytes


@pytest.mark.parametrize(("checkpointed", "most"), [(False, 288_000), (True, 305_000)])
def test_a_first_replay_of_an_8b_model_executes_few_lines(checkpointed, most):
    """`validation bench` prints what a replay takes in time."""
    training = {"gradient_checkpointing": checkpointed}
    request = parse_request(LLAMA_8B | {"reserved": "replay", "training": training})
    estimate(request, SeriesCache())  # once, for what no request changes
    assert executed_lines(lambda: estimate(request, SeriesCache())) < most


def test_runs_with_the_same_tensors_share_the_load():
    state = resident(LLAMA_8B)
    longer = replace(state.prepared.training, sequence_length=4096)
    assert loading_of(state) is loading_of(state.for_run(longer, state.prepared.device))


def test_the_largest_possible_request_is_replayed():
    training = {"attention": "eager"}
    for name in ("micro_batch_size", "sequence_length"):
        training[name] = int(next(field.setting.maximum for field in declared(Training) if field.name == name))
    memory = estimate(parse_request(LLAMA_8B | {"reserved": "replay", "training": training})).memory
    assert memory.peak_allocated_bytes < memory.peak_reserved_bytes < 1.1 * memory.peak_allocated_bytes


#: `max_memory_reserved` less the 2 MiB of a tensor made before, of runs on an L40S with torch 2.13, transformers 5.13.
#: Source: huggingface/peft @ 5d602fd, method_comparison/MetaMathQA/results/*.json, accelerator_memory_max.
PUBLISHED = {
    "lora--llama-3.2-3B-rank32": ({"name": "lora", "r": 32}, 22_292_725_760, 0.01),
    "lora--llama-3.2-3B-rank64": ({"name": "lora", "r": 64}, 22_552_772_608, 0.01),
    "lora--llama-3.2-3B-rank32-dora": ({"name": "lora", "r": 32, "use_dora": True}, 24_532_484_096, 0.01),
    "prompt_tuning--llama-3.2-3B-default": ({"name": "prompt", "num_virtual_tokens": 200}, 24_394_072_064, 0.01),
    "full-finetuning--llama-3.2-3B-lr_0.00001": ({"name": "full"}, 38_868_615_168, 0.04),
}
#: How that script differs from the reference step: `outputs` keeps the logits and the cache of keys and values until
#: the next step assigns it. 80 rows are sorted by length into 20 batches, the longest first, and the allocator's cache
#: is emptied every ten steps, so before each longest batch. Its length is the one unknown, and the same in every row.
LONGEST, SHORTEST = 696, 100
KEPT = ("lm_head: output", "key, cached", "value, cached")


def with_outputs_kept(passes):
    kept = {row for row in passes.forward if row >= 0 and passes.rows[row][0].endswith(KEPT)}
    return replace(
        passes,
        forward=[event for event in passes.forward if ~event not in kept],
        backward=[event for event in passes.backward if ~event not in kept],
        left=[*passes.left, *sorted(kept)],
    )


@pytest.mark.parametrize("row", PUBLISHED)
def test_the_replay_reserves_what_published_runs_measured_on_an_l40s(row):
    settings, measured, tolerance = PUBLISHED[row]
    training = {"micro_batch_size": 4, "sequence_length": LONGEST, "padding": True}
    state = resident({"model": "meta-llama/Llama-3.2-3B", "method": settings, "training": training})
    run = Replay(CachingAllocator(), state, WORKSPACES)
    run.load()
    for length in (SHORTEST, LONGEST):
        passes = events(with_training(state.prepared, sequence_length=length))
        run.first = Batch(run.allocator, with_outputs_kept(passes))
        run.step()
        reserved = run.allocator.reserved
        run.allocator.empty_cache()
    assert reserved - (2 << 20) == pytest.approx(measured, rel=tolerance)
