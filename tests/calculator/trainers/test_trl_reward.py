"""TRL's RewardTrainer. tests/cases/trainers.jsonl has traced steps."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate, training_step
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache

LORA = {"name": "lora", "r": 8, "target_modules": "all-linear"}
MODEL = "meta-llama/Llama-3.2-1B"


def request(method=LORA, model=MODEL, **training):
    training = {"sequence_length": 512, "micro_batch_size": 2, "trainer": "trl-reward", **training}
    return parse_request({"model": model, "method": method, "training": training})


def trained(**changes):
    return {tensor.name for tensor in training_step(request(**changes)).resident.tensors if tensor.trained}


def test_a_head_with_one_output_replaces_the_output_head():
    step = training_step(request())
    shapes = {tensor.name: tensor.shape for tensor in step.resident.tensors}
    assert shapes["score.weight"] == (1, 2048)
    assert "lm_head.weight" not in shapes
    assert {row[1] for row in step.run.rows if row[0] == "score: output"} == {(4, 512, 1)}
    assert not [row for row in step.run.rows if 128_256 in row[1]]


def test_peft_trains_a_copy_of_the_head_and_bottleneck_adapters_leave_it_alone():
    assert "score.modules_to_save.weight" in trained()
    assert not [name for name in trained(method={"name": "adapter"}) if name.startswith("score")]
    assert "score.weight" in trained(method={"name": "full"})


def test_sizes_of_one_series_give_the_figures_of_single_requests():
    series = SeriesCache()
    for length in (128, 300, 1024):
        wanted = request(sequence_length=length)
        assert [p.bytes for p in training_step(wanted, series).peaks()] == [
            p.bytes for p in training_step(wanted).peaks()
        ]


@pytest.mark.parametrize(
    ("changes", "loc"),
    [
        ({"model": "ibm-granite/granite-3.3-2b-instruct"}, "training.trainer"),
        ({"use_liger_kernel": True}, "training.use_liger_kernel"),
        ({"completion_tokens": 100}, "training.completion_tokens"),
        ({"method": {"name": "lora", "target_modules": ["lm_head"]}}, "method.target_modules"),
        ({"method": {"name": "prefix"}}, "method.name"),
    ],
)
def test_a_refusal_names_its_field(changes, loc):
    with pytest.raises(PlanError) as refused:
        estimate(request(**changes))
    assert [problem.loc for problem in refused.value.problems] == [loc]
