"""`keep_rows` leaves a step's outputs alive at its end and changes nothing else."""

from calculator.estimation.estimate import model_of, resident_state
from calculator.estimation.request import parse_request
from calculator.training_step.batch_trace import BatchTraces
from calculator.training_step.unrolled import events
from validation.published.outputs import is_output, keep_rows, with_outputs

BODY = {
    "model": "meta-llama/Llama-3.2-1B",
    "method": {"name": "lora"},
    "training": {"sequence_length": 64, "micro_batch_size": 2},
}
REQUEST = parse_request(BODY)


def keep_outputs(step, model):
    return keep_rows(step, {row for row, allocation in enumerate(step.rows) if is_output(allocation[0], model)})


def test_logits_and_cache_stay_alive():
    model = model_of(REQUEST.model)
    step = events(resident_state(REQUEST).prepared)
    kept = keep_outputs(step, model)
    more = [step.rows[row] for row in set(kept.left) - set(step.left)]
    logits = [row for row in more if row[0] == "lm_head: output"]
    cache = [row for row in more if row[0].endswith("cached")]
    assert sum(row[4] for row in logits) == 2 * 64 * 128_256 * 2
    assert sum(row[4] for row in cache) == 16 * 2 * (2 * 64 * 8 * 64 * 2)
    assert len(more) == len(logits) + len(cache)


def test_allocations_do_not_change():
    model = model_of(REQUEST.model)
    step = events(resident_state(REQUEST).prepared)
    kept = keep_outputs(step, model)
    assert [event for event in kept.forward if event >= 0] == [event for event in step.forward if event >= 0]
    assert kept.gradients == step.gradients


def test_a_prefix_in_the_cache_is_replaced_by_the_keys_and_values_after_it():
    request = parse_request(
        {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "prefix"}, "training": {"sequence_length": 64}}
    )
    model = model_of(request.model)
    step = events(resident_state(request).prepared)
    kept = keep_outputs(step, model)
    names = {step.rows[row][0] for row in set(kept.left) - set(step.left)}
    assert any(name.endswith("key, cached") for name in names)
    assert not any("prefix" in name for name in names)


def test_a_cache_without_copies_keeps_the_rotated_keys_and_the_last_output_of_each_projection_of_values():
    method = {"name": "lora", "target_modules": ["q_proj", "v_proj"]}
    request = parse_request({**BODY, "method": method, "stack": {"transformers": "4.52.4"}})
    program, sizes = BatchTraces(resident_state(request).prepared).sized(64)
    kept = with_outputs(program, model_of(request.model), refers=True)
    more = [row for row in set(kept.left) - set(program.left) if program.names[row] != "lm_head: output"]
    assert len(more) == 2 * 16
    assert {sizes[row] for row in more} == {2 * 64 * 8 * 64 * 2}
    assert {program.names[row].rpartition("self_attn")[2] for row in more} == {".v_proj: output", ": key, rotated"}
