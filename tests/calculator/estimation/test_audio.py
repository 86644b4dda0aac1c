"""Whisper: its config decides the tokens of the audio, and the longest target."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.limit_search.limits import limit, parse_limit

WHISPER = {
    "model_type": "whisper",
    "vocab_size": 300,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_source_positions": 50,
    "max_target_positions": 40,
    "pad_token_id": 0,
    "decoder_start_token_id": 1,
}


def body(training=None, method=None, **config):
    return {
        "model": {"config": WHISPER | config},
        "task": "seq_2_seq_lm",
        "method": method or {"name": "full"},
        "training": training or {},
        "reserved": "rule",
    }


def phases(training=None, method=None, **config):
    answer = estimate(parse_request(body(training, method, **config)))
    return {phase.name: phase.peak_bytes for phase in answer.memory.phases}


def refusal(training=None, method=None, **config):
    with pytest.raises(PlanError) as raised:
        estimate(parse_request(body(training, method, **config)))
    (problem,) = raised.value.problems
    return problem.loc, problem.msg


def test_without_lengths_the_audio_and_the_longest_target_are_meant():
    assert phases() == phases({"sequence_length": 50, "target_length": 40})
    assert phases()["forward"] > phases({"target_length": 8})["forward"]


def test_full_fine_tuning_leaves_the_encoders_positions_frozen():
    counts = estimate(parse_request(body())).parameters
    assert counts.base - counts.trainable == 50 * 32


@pytest.mark.parametrize(
    ("training", "loc", "way_out"),
    [
        ({"sequence_length": 49}, "sequence_length", "audio is 50 tokens, by max_source_positions of the config"),
        ({"target_length": 41}, "target_length", "at most 40"),
        ({"padding": True}, "padding", "leave it out"),
    ],
)
def test_a_length_that_audio_does_not_have_is_refused(training, loc, way_out):
    found, message = refusal(training)
    assert found == f"training.{loc}"
    assert way_out in message


@pytest.mark.parametrize(
    ("method", "loc"),
    [
        ({"name": "prompt"}, "method.name"),
        ({"name": "lora"}, "method.target_modules"),
        ({"name": "lora", "target_modules": ["conv1"]}, "method.target_modules"),
        ({"name": "lora", "target_modules": ["q_proj"], "modules_to_save": ["proj_out"]}, "method.modules_to_save"),
    ],
)
def test_a_method_that_peft_cannot_apply_is_refused(method, loc):
    assert refusal(method=method)[0] == loc


def test_spec_augment_is_refused():
    assert refusal(apply_spec_augment=True)[0] == "model.config.apply_spec_augment"


def test_audio_has_no_length_to_solve_for():
    request = {**body(), "device": {"gpu": "rtx-4090"}, "solve_for": "sequence_length"}
    with pytest.raises(PlanError, match="audio has no sequence_length to choose"):
        limit(parse_limit(request))
