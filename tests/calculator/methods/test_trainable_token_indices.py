"""LoRA's trainable_token_indices: what they add, and what is refused."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.inference.inference import inference
from calculator.inference.request import parse_inference

TIED, UNTIED = "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B"


def body(model=TIED, *, trainer=None, name="lora", **method):
    method = {"name": name, "trainable_token_indices": [5, 6, 7], **method}
    return {
        "model": model,
        "method": method,
        "training": {"sequence_length": 64, "trainer": trainer},
        "reserved": "rule",
    }


@pytest.mark.parametrize(("model", "width"), [(TIED, 2048), (UNTIED, 4096)])
def test_the_rows_count_once_besides_the_adapters(model, width):
    def trainable(**method):
        return estimate(parse_request(body(model, **method))).parameters.trainable

    assert trainable() - trainable(trainable_token_indices=None) == 3 * width


@pytest.mark.parametrize(
    ("changed", "loc", "message"),
    [
        ({"trainable_token_indices": [128_256]}, "method.trainable_token_indices", "tokens 0 to 128,255"),
        ({"modules_to_save": ["embed_tokens"]}, "method.trainable_token_indices", "with modules_to_save"),
        (
            {"target_modules": ["q_proj", "embed_tokens"]},
            "method.trainable_token_indices",
            "can't train tokens of model.embed_tokens",
        ),
        ({"target_modules": ["q_proj", "lm_head"]}, "method.trainable_token_indices", "with the tied lm_head"),
        ({"trainer": "trl-sft"}, "method.trainable_token_indices", "use transformers"),
        ({"trainer": "unsloth"}, "method.trainable_token_indices", "Unsloth"),
    ],
)
def test_settings_that_peft_refuses_or_that_are_not_modeled_are_refused(changed, loc, message):
    with pytest.raises(PlanError) as caught:
        estimate(parse_request(body(**changed)))
    assert (loc, True) in [(problem.loc, message in problem.msg) for problem in caught.value.problems]


def test_several_gpus_are_refused_if_another_setting_is_modeled_on_one():
    request = body(load_in_8bit=True) | {"device": {"count": 2, "sharding": "ddp"}}
    with pytest.raises(PlanError, match="LoRA with load_in_8bit with trainable_token_indices is modeled on one GPU"):
        estimate(parse_request(request))


def test_a_trainer_on_several_gpus_is_refused():
    request = body(name="qlora", trainer="transformers") | {"device": {"count": 2, "sharding": "ddp"}}
    with pytest.raises(PlanError, match="in the reference step on several GPUs: leave the trainer out"):
        estimate(parse_request(request))


def test_only_merged_models_are_served():
    request = {"model": TIED, "method": body()["method"]}
    assert inference(parse_inference({**request, "serving": {"merged": True}})).parameters.added_per_task == 0
    with pytest.raises(PlanError, match="copy of the table"):
        inference(parse_inference(request))
