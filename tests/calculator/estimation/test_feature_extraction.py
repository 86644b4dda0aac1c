"""Texts that are embedded by a model without a head, and the loss that compares them."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.families import FAMILIES, model_from_config
from calculator.families.tasks import families_of
from calculator.run.refusals import check_request
from calculator.run.request import parse_run

SIZES = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
BERT = {"model_type": "bert", **SIZES, "num_attention_heads": 4}
LLAMA = {"model_type": "llama", **SIZES, "num_attention_heads": 4}


def request(config=LLAMA, method="lora", task="feature_extraction", **more):
    method = {"name": method} if isinstance(method, str) else method
    training = {"sequence_length": 32, "micro_batch_size": 4, **more.pop("training", {})}
    return parse_request({"model": {"config": config}, "task": task, "method": method, "training": training, **more})


def answer(*args, **more):
    return estimate(request(*args, **more, reserved="rule"))


def refused(*args, **more):
    with pytest.raises(PlanError) as raised:
        answer(*args, **more)
    return {problem.loc: problem.msg for problem in raised.value.problems}


def test_the_model_has_no_head():
    causal = answer(task="causal_lm").parameters.base
    assert answer().parameters.base == causal - 300 * 64


def test_a_pooler_is_adapted_but_learns_nothing():
    plan = answer(BERT, {"name": "lora", "target_modules": "all-linear"}, training={"dtype": "float32"})
    pooler = 8 * (64 + 64)
    assert any(line.startswith(f"{pooler:,} of the trained parameters get no gradient") for line in plan.warnings)


def test_every_text_is_a_pass_whose_activations_stay():
    peaks = [answer(training={"texts_per_example": n}).memory.peak_allocated_bytes for n in (2, 3, 4)]
    first, second = peaks[1] - peaks[0], peaks[2] - peaks[1]
    assert first > 50_000
    assert second == pytest.approx(first, rel=0.01)


def test_accumulation_keeps_the_gradients_of_two_passes():
    """The engine's input buffer has those of the second pass while the first one's are computed."""
    once, twice = (
        answer(method="full", training={"gradient_accumulation_steps": n, "micro_batch_size": 1, "sequence_length": 8})
        for n in (1, 2)
    )
    gradients = 2 * once.parameters.trainable  # in bfloat16
    gained = phases(twice)["backward"] - phases(once)["backward"]
    assert 0.8 * gradients < gained <= gradients


def phases(plan):
    return {phase.name: phase.peak_bytes for phase in plan.memory.phases}


def test_the_answer_states_the_loss():
    assumptions = " ".join(answer().assumptions)
    assert "The model is that of AutoModel, without a head." in assumptions
    assert "MultipleNegativesRankingLoss" in assumptions
    assert "3 texts: an anchor" in " ".join(answer(training={"texts_per_example": 3}).assumptions)


@pytest.mark.parametrize("trainer", ["transformers", "trl-sft"])
def test_a_trainer_has_no_such_loss(trainer):
    message = refused(training={"trainer": trainer})["training.trainer"]
    assert "The model did not return a loss from the inputs" in message
    assert message.endswith("leave it out for the reference step, or set another task")


def test_other_tasks_have_one_text():
    assert refused(task="causal_lm", training={"texts_per_example": 3}) == {
        "training.texts_per_example": "only task feature_extraction embeds texts: set it, or leave"
        " texts_per_example out"
    }


@pytest.mark.parametrize("model_type", ["t5", "whisper", "vit", "llama4"])
def test_a_model_of_other_inputs_is_not_embedded(model_type):
    assert model_type not in families_of(FAMILIES, "feature_extraction")


def test_a_loss_of_experts_is_a_language_models():
    config = {
        "model_type": "mixtral",
        **SIZES,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "num_local_experts": 2,
    }
    config["output_router_logits"] = True
    task = request(config).model.task
    assert model_from_config(config).adds_router_loss
    assert not model_from_config(config, task=task).adds_router_loss


def test_a_prefix_of_an_encoder_is_refused():
    assert refused(BERT, "prefix", training={"padding": True})["method.name"] == (
        "the keys and values of a prefix in bert are not modeled: use prompt or lora"
    )
    assert answer(method="prefix").parameters.added


def test_a_run_is_a_trainers():
    with pytest.raises(PlanError) as raised:
        check_request(parse_run({"model": {"config": BERT}, "method": {"name": "lora"}, "task": "feature_extraction"}))
    assert {problem.loc: problem.msg for problem in raised.value.problems} == {
        "task": "a run is a Trainer's, which has no loss for feature_extraction: use the estimate for its step"
    }


def test_a_last_linear_layer_that_stays_dense_is_refused():
    olmo = {"model_type": "olmo", **SIZES, "num_attention_heads": 4}
    assert refused(olmo, "qlora")["method.name"].startswith("transformers does not quantize the last linear layer")
    assert answer(olmo, {"name": "lora", "target_modules": ["q_proj"]}).parameters.added
