"""TRL's DPOTrainer. tests/cases/trainers.jsonl has traced steps."""

from itertools import accumulate
from math import prod

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate, training_step
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from calculator.training_step.unrolled import unrolled

LORA = {"name": "lora", "r": 8, "target_modules": "all-linear"}
MODEL = "meta-llama/Llama-3.2-1B"


def request(method=LORA, model=MODEL, trl="1.16", **training):
    training = {"sequence_length": 512, "trainer": "trl-dpo", **training}
    return parse_request({"model": model, "method": method, "training": training, "stack": {"trl": trl}})


def step(**changes):
    return training_step(request(**changes))


def bytes_of(tensors, part):
    return sum(tensor.bytes for tensor in tensors if part in tensor.name)


def shapes(ended, **changes):
    return {row[1] for row in step(**changes).run.rows if row[0].endswith(ended)}


def test_chosen_and_rejected_sequences_run_together():
    assert shapes("model.embed_tokens: output", micro_batch_size=3) == {(6, 512, 2048)}
    kept = {tensor.name: tensor.shape for tensor in step(micro_batch_size=3).resident.optimizer_states[1:]}
    assert kept["completion_mask"] == (6, 512)


def test_full_fine_tuning_keeps_a_second_model_unless_its_log_probabilities_are_precomputed():
    full = {"method": {"name": "full"}}
    assert bytes_of(step(**full).resident.tensors, "ref_model.") == bytes_of(step(**full).resident.tensors, "") / 2
    assert not bytes_of(step(**full, precompute_ref_log_probs=True).resident.tensors, "ref_model.")


def test_the_reference_of_adapters_is_the_model_without_them():
    assert not bytes_of(step().resident.tensors, "ref")
    rows = [row[0] for row in step().run.rows if row[0].startswith("reference: ")]
    assert rows
    assert not [name for name in rows if "A·x" in name]


def test_adapters_that_the_script_applies_are_copied_in_float32():
    copies = [t for t in step(adapter_dtype="model").resident.tensors if t.name.endswith("of the adapter ref")]
    assert {tensor.dtype for tensor in copies} == {"float32"}
    rows = [row for row in step(adapter_dtype="model").run.rows if row[0].startswith("reference: ")]
    assert [row for row in rows if "A·x" in row[0]]


def test_autocast_copies_the_weights_of_a_second_model_because_it_is_not_frozen():
    settings = {"method": {"name": "full"}, "dtype": "float32", "autocast": "bfloat16"}
    rows = [row for row in step(**settings).run.rows if row[0].startswith("reference: ")]
    copied = {row[0]: prod(row[1]) for row in rows if row[0].endswith("q_proj: weight, cast by autocast")}
    assert set(copied.values()) == {2048 * 2048}


def test_lora_dropout_drops_nothing():
    dropped = {"method": {**LORA, "lora_dropout": 0.1}}
    assert not shapes("dropout, mask", **dropped)
    assert shapes("dropout, mask", **dropped, trainer="transformers")


@pytest.mark.parametrize("method", [LORA, {"name": "full"}])
def test_a_step_in_windows_has_the_peaks_of_all_its_layers(method):
    wanted = step(method=method, dtype="float32", autocast="bfloat16")
    events = unrolled(wanted.resident.prepared).events()
    sizes = [events.rows[e][4] if e >= 0 else -events.rows[~e][4] for e in (*events.forward, *events.backward)]
    alive, between = [*accumulate(sizes)], len(events.forward)
    forward, backward, _ = wanted.peaks()
    assert forward.bytes - forward.throughout == max(alive[:between])
    assert backward.bytes - backward.throughout == max(alive[between:])


def test_sizes_of_one_series_give_the_figures_of_single_requests():
    series = SeriesCache()
    for length in (128, 300, 1024):
        wanted = request(sequence_length=length, method={"name": "full"}, dtype="float32", autocast="bfloat16")
        assert [p.bytes for p in training_step(wanted, series).peaks()] == [
            p.bytes for p in training_step(wanted).peaks()
        ]


@pytest.mark.parametrize(
    ("changes", "loc"),
    [
        ({"loss_type": "exo_pair"}, "training.loss_type"),
        ({"loss_type": "nll"}, "training.loss_type"),
        ({"packing": True}, "training.packing"),
        ({"trl": "1.9"}, "stack.trl"),
        ({"method": {"name": "lora", "target_modules": ["lm_head"]}}, "method.target_modules"),
        ({"method": {**LORA, "bias": "all"}, "adapter_dtype": "model"}, "method.bias"),
        ({"completion_tokens": 1023}, "training.completion_tokens"),
        ({"sequence_lengths": [[128, 10]]}, "training.sequence_lengths"),
        ({"trainer": "trl-sft", "precompute_ref_log_probs": True}, "training.precompute_ref_log_probs"),
        ({"trainer": None, "precompute_ref_log_probs": True}, "training.precompute_ref_log_probs"),
    ],
)
def test_a_refusal_names_its_field(changes, loc):
    with pytest.raises(PlanError) as refused:
        estimate(request(**changes))
    assert [problem.loc for problem in refused.value.problems] == [loc]


def test_zero3_shards_a_second_model():
    training = {"trainer": "trl-dpo", "autocast": "bfloat16"}

    def resident(count, **changes):
        device = {"count": count, "sharding": "zero3"}
        body = {"model": MODEL, "method": {"name": "full"}, "training": training | changes, "device": device}
        return estimate(parse_request(body)).memory.phases[-1].peak_bytes

    shares = [resident(count) - resident(count, precompute_ref_log_probs=True) for count in (2, 4)]
    assert shares[0] > shares[1] > 0


def test_every_token_of_both_sequences_may_be_labeled():
    assert estimate(request(completion_tokens=2 * 511)).memory


def test_the_answer_names_the_reference_and_the_defaults_of_the_trainer():
    answer = estimate(request(method={"name": "full"}))
    assert "ref_model" in " ".join(answer.assumptions)
    assert "DPOConfig sets bf16=True" in " ".join(answer.warnings)
    assert "with its adapters off" in " ".join(estimate(request()).assumptions)
    assert "precomputed" in " ".join(estimate(request(precompute_ref_log_probs=True)).assumptions)
