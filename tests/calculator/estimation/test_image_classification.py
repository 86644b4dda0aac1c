"""Models that classify images: the number of tokens, refused requests, and the sizes that limits search."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.limit_search.fit_map import fit_map
from calculator.limit_search.limits import limit, parse_limit

VIT = {
    "model_type": "vit",
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
}
LORA = {"name": "lora", "target_modules": ["q_proj", "v_proj"]}


def body(method=LORA, training=None, **config):
    training = {"micro_batch_size": 2, **(training or {})}
    model = {"config": {**VIT, "image_size": 64, "patch_size": 16, **config}}
    return {"model": model, "task": "image_cls", "num_labels": 3, "method": method, "training": training}


def answer(*args, **kwargs):
    return estimate(parse_request({**body(*args, **kwargs), "reserved": "rule"}))


def refused(*args, **kwargs):
    with pytest.raises(PlanError) as raised:
        answer(*args, **kwargs)
    return {problem.loc: problem.msg for problem in raised.value.problems}


def test_the_config_decides_the_tokens_of_an_image():
    small, large = answer(), answer(patch_size=8)
    assert any(
        "17 tokens: 16 patches of 16 x 16 pixels and the class token" in assumption for assumption in small.assumptions
    )
    assert any("65 tokens: 64 patches of 8 x 8 pixels" in assumption for assumption in large.assumptions)
    assert large.memory.peak_allocated_bytes > small.memory.peak_allocated_bytes


def test_another_length_and_what_texts_have_are_refused():
    found = refused(training={"sequence_length": 197, "padding": True})
    assert found["training.sequence_length"].startswith("an image is 17 tokens, by image_size 64 and patch_size 16")
    assert found["training.padding"] == "images have no padding and one size: leave it out"
    assert answer(training={"sequence_length": 17}) is not None


def test_virtual_tokens_are_refused():
    assert "has no word embeddings" in refused({"name": "prompt"})["method.name"]


def test_the_head_is_trained_if_modules_to_save_names_it():
    left, saved = answer(), answer({**LORA, "modules_to_save": ["classifier"]})
    assert saved.parameters.added - left.parameters.added == 64 * 3 + 3
    assert any("set modules_to_save to classifier" in assumption for assumption in left.assumptions)
    assert not any("set modules_to_save" in assumption for assumption in saved.assumptions)


def test_the_names_of_older_releases_are_refused_with_those_of_the_model():
    names = refused({"name": "lora", "target_modules": ["query", "value"]})["method.target_modules"]
    assert "no module is named query or value; those that can be adapted are classifier, fc1, fc2, k_proj" in names


def test_a_model_without_its_task_names_it():
    with pytest.raises(PlanError, match="vit is not modeled for causal_lm: set task image_cls"):
        estimate(parse_request({"model": {"config": VIT}, "method": {"name": "full"}}))


def test_limits_solve_for_images_not_for_their_tokens():
    request = {**body(), "device": {"memory_bytes": 1 << 30}, "reserved": "rule"}
    assert limit(parse_limit({**request, "solve_for": "micro_batch_size"})).value > 2
    with pytest.raises(PlanError, match="image_cls has no sequence_length: solve for r, micro_batch_size"):
        limit(parse_limit({**request, "solve_for": "sequence_length"}))
    assert fit_map(parse_request(request)).sequence_lengths == (17,)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp", "zero1", "zero2", "zero3"])
def test_several_gpus_are_refused_with_the_reason(sharding):
    request = parse_request({**body(), "device": {"count": 2, "sharding": sharding}})
    with pytest.raises(PlanError, match="image_cls is modeled on one GPU only"):
        estimate(request)
