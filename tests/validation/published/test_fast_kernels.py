"""IBM's fast kernels in a Trainer's step, and the published peaks that they are compared with."""

import json

from calculator.estimation.estimate import training_step
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from calculator.trainers import TRAINERS
from validation.published.fast_kernels import patched
from validation.published.results import RESULTS

ROWS = {row["id"]: row for row in json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]}
FULL = parse_request(
    {
        "model": "meta-llama/Llama-3.2-1B",
        "method": {"name": "full"},
        "training": {"sequence_length": 256, "trainer": "transformers"},
        "stack": {"transformers": "4.48"},
    }
)


def rows_of(protocol):
    with patched(protocol):
        step = training_step(FULL, SeriesCache())
        return {row[0]: row for row in step.run.rows}, step.resident


def test_the_trainer_is_patched_inside_the_block_only():
    before = TRAINERS["transformers"]
    with patched("fast_kernels"):
        assert TRAINERS["transformers"] is not before
    with patched("buckets"):
        assert TRAINERS["transformers"] is before
    assert TRAINERS["transformers"] is before


def test_the_gradient_of_the_loss_overwrites_the_logits():
    plain, _ = rows_of(None)
    fast, _ = rows_of("fast_kernels")
    assert {"loss: log-probabilities", "loss: gradient of the logits"} <= set(plain)
    assert not {"loss: log-probabilities", "loss: gradient of the logits"} & set(fast)
    assert fast["loss: logits, shifted"][4] == 255 * 128_256 * 4


def test_norms_have_no_gradients_and_no_optimizer_states():
    _, plain = rows_of(None)
    _, fast = rows_of("fast_kernels")
    norms = (2 * 16 + 1) * 2048
    assert sum(t.bytes for t in plain.gradients) - sum(t.bytes for t in fast.gradients) == 2 * norms
    states = [sum(tensor.bytes for tensor in resident.optimizer_states) for resident in (plain, fast)]
    assert states[0] - states[1] == 4 * norms


def test_the_fused_head_has_no_logits_of_all_tokens():
    fused, _ = rows_of("fast_kernels_and_fused_head")
    assert "loss: logits, shifted" not in fused


def peaks():
    rows = [row for row in ROWS.values() if row.get("protocol", "").startswith("fast_kernels")]
    return [row for row in rows if row["expressed"] == "whole" and row["statistic"] == "max_memory_allocated"]


def test_measured_peaks_with_the_kernels_are_within_three_hundred_thousandths():
    unfused = [row for row in peaks() if row["method"] != "qlora"]
    assert len(unfused) == 12
    assert max(abs(row["error"]) for row in unfused) < 3e-5


def test_measured_peaks_with_fused_lora_are_within_a_ten_thousandth():
    fused = [row for row in peaks() if row["method"] == "qlora"]
    assert len(fused) == 10
    assert max(abs(row["error"]) for row in fused) < 1e-4
