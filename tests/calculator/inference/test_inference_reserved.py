"""The rule for reserved memory of a served model, compared with replays of whole answers."""

import pytest

from calculator.inference.inference import inference
from calculator.inference.request import parse_inference
from tests.calculator.inference.replays import compared_with_a_replay, drawn


@pytest.mark.parametrize(("model", "method", "serving"), drawn(7, 5))
def test_the_rule_is_near_what_a_replay_of_the_answer_reserves(model, method, serving):
    live, replay, rule = compared_with_a_replay(model, method, serving)
    assert live <= replay
    assert 0.98 * replay <= rule <= 1.4 * replay


def test_a_cache_whose_blocks_outgrow_their_segments_is_warned_of():
    body = {"model": "openai-community/gpt2-xl", "method": {"name": "full"}}
    grows = {"batch_size": 8, "context_length": 700, "max_new_tokens": 300}
    answered = inference(parse_inference({**body, "serving": grows}))
    assert any("expandable_segments" in sentence for sentence in answered.warnings)
    stays = inference(parse_inference({**body, "serving": {**grows, "max_new_tokens": 2}}))
    assert not any("expandable_segments" in sentence for sentence in stays.warnings)
