"""An out-of-memory error of an evaluation or of merging, found again in the phase that it ended."""

import pytest

from calculator.allocator.out_of_memory import format_size
from calculator.allocator.segments import segment_bytes
from calculator.diagnosis.diagnosis import diagnose, replay_of
from calculator.diagnosis.message import parse_message
from calculator.run.request import parse_run
from calculator.run.run import whole_run
from tests.calculator.diagnosis.test_diagnosis import LLAMA

LORA = {
    "model": {"config": LLAMA},
    "method": {"name": "lora", "target_modules": "all-linear"},
    "training": {"micro_batch_size": 2, "sequence_length": 512, "autocast": "bfloat16"},
}
EVALUATION = {"eval_strategy": "steps", "compute_metrics": True, "eval_samples": 60, "per_device_eval_batch_size": 8}
GENERATION = {**EVALUATION, "predict_with_generate": True, "generation_max_length": 520}
RUNS = {
    "logits": EVALUATION,
    "groups of logits": {**EVALUATION, "eval_accumulation_steps": 3},
    "ddp": {**EVALUATION, "eval_samples": 64},
    "generation": GENERATION,
    "merge": {"merge_and_unload": True},
}


def message(requested, allocated, before=""):
    """PyTorch's message of a request; both sizes are as it writes them."""
    return parse_message(
        f"{before}CUDA out of memory. Tried to allocate {format_size(segment_bytes(requested))}. GPU 0 has a total"
        f" capacity of 79.10 GiB of which 1.00 MiB is free. Of the allocated memory {format_size(allocated)} is"
        " allocated by PyTorch, and 3.00 MiB is reserved by PyTorch but unallocated."
    )


def peak_of(body, name):
    """The phase, its largest allocation at the peak, and the workspaces that its steps before leave."""
    answer = whole_run(parse_run(body))
    phase = next(phase for phase in answer.phases if phase.name == name)
    return phase, replay_of(answer.estimate).workspaces


@pytest.mark.parametrize(("name", "run"), RUNS.items(), ids=RUNS)
def test_the_largest_tensor_at_the_peak_of_a_phase_is_found_with_what_is_in_use_before_it(name, run):
    device = {"count": 2, "sharding": "ddp"} if name == "ddp" else {}
    body = {**LORA, "run": run, "device": device}
    phase, workspaces = peak_of(body, name if name in ("generation", "merge") else "evaluation")
    # Of the rows at a peak, the last that is requested is not known: each of the largest is a candidate.
    request = parse_run(body)
    candidates = [row for row in phase.rows if row.count == 1][:3]
    found = []
    for row in candidates:
        before = phase.gpu_bytes - row.bytes + sum(workspaces)
        diagnosis = diagnose(request.estimate, message(row.bytes, before), None, request.run)
        found += [match for match in diagnosis.in_phases if match.allocated_bytes == before and match.same_allocated]
    assert [match for match in found if match.phase == phase.name]


def test_the_bytes_in_use_tell_after_how_many_batches_an_evaluation_ends():
    request = parse_run({**LORA, "run": EVALUATION})
    logits = 8 * 512 * LLAMA["vocab_size"] * 4
    first = diagnose(request.estimate, message(5 * logits, 10 << 30), None, request.run).phase_match
    assert (first.tensor, first.batch) == ("gathered logits with the batch", 5)
    assert first.substituted == f"40 × 512 × {LLAMA['vocab_size']:,} × 4"
    again = diagnose(request.estimate, message(5 * logits, first.allocated_bytes), None, request.run)
    assert (again.found, again.phase_match.same_allocated) == ("one", True)
    assert next(dict(change.changes) for change in again.changes if change.ends) == {"run.eval_strategy": "no"}
    assert {"run.eval_accumulation_steps": 1} in [dict(change.changes) for change in again.changes]


def test_a_traceback_of_an_evaluation_puts_its_tensors_first():
    request = parse_run({**LORA, "run": {**EVALUATION, "per_device_eval_batch_size": 2}})
    size, traceback = 2 * 512 * LLAMA["vocab_size"] * 4, "trainer.py, line 4154, in evaluation_loop\n"
    step = diagnose(request.estimate, message(size, 2 << 30), None, request.run)
    assert step.matches
    evaluation = diagnose(request.estimate, message(size, 2 << 30, traceback), None, request.run)
    assert evaluation.message.in_evaluation
    assert evaluation.phase_match.phase == "evaluation"
