"""A model that reads images, in a step of text: its vision tower is resident but does not run."""

from copy import deepcopy

import pytest

from calculator import catalogue
from calculator.architecture.model import TEXT_ALONE
from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.image_requests import CONVOLUTION
from calculator.estimation.request import parse_request

GEMMA_3_4B = "google/gemma-3-4b-pt"


def seen_text(method, **training):
    """Return a step of Gemma 3 4B with its vision tower."""
    return estimate(
        parse_request({"model": GEMMA_3_4B, "method": method, "training": {"sequence_length": 64} | training})
    )


def test_a_vision_tower_is_resident_and_does_not_run():
    whole = seen_text({"name": "prompt"})
    text = {**catalogue.model(GEMMA_3_4B).config["text_config"], "model_type": "gemma3_text"}
    text |= {"vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4}
    alone = estimate(
        parse_request({"model": {"config": text}, "method": {"name": "prompt"}, "training": {"sequence_length": 64}})
    )
    tower = sum(
        row.bytes
        for part in whole.memory.components
        for row in part.rows
        if row.name.startswith(("model.vision_tower", "model.multi_modal_projector"))
    )
    assert whole.parameters.base > alone.parameters.base + 400_000_000
    assert whole.memory.peak_allocated_bytes - alone.memory.peak_allocated_bytes == tower
    assert TEXT_ALONE in whole.assumptions
    assert TEXT_ALONE not in alone.assumptions


def test_trained_parameters_of_a_tower_that_does_not_run_get_no_gradient_and_a_warning():
    answer = seen_text({"name": "lora", "target_modules": "all-linear"})
    parts = {part.name: part for part in answer.memory.components}
    names = [row.name for name in ("gradients", "optimizer_states") if name in parts for row in parts[name].rows]
    assert names
    assert not any(name.startswith("model.vision_tower") for name in names)
    assert any("get no gradient from text" in warning for warning in answer.warnings)
    assert not any("get no gradient" in warning for warning in seen_text({"name": "prompt"}).warnings)


def test_targets_that_text_does_not_run_are_refused():
    with pytest.raises(PlanError, match="nothing that is trained is used for text"):
        seen_text({"name": "lora", "target_modules": ["fc1"]})
    assert seen_text({"name": "lora", "target_modules": ["fc1"], "modules_to_save": ["lm_head"]}).parameters.added


def test_flash_attention_is_refused_for_a_model_that_reads_images():
    with pytest.raises(PlanError, match="reads images: use sdpa"):
        seen_text({"name": "prompt"}, attention="flash_attention_2")


def test_switches_in_a_nested_config_are_refused_too():
    config = deepcopy(catalogue.model(GEMMA_3_4B).config)
    config["text_config"]["output_attentions"] = True
    with pytest.raises(PlanError) as refused:
        estimate(parse_request({"model": {"config": config}, "method": {"name": "prompt"}}))
    assert refused.value.problems[0].loc == "model.config.text_config.output_attentions"


def test_a_nested_config_that_a_family_does_not_read_is_ignored():
    config = {**catalogue.model("openai-community/gpt2").config, "text_config": "none of its keys"}
    assert estimate(parse_request({"model": {"config": config}, "method": {"name": "prompt"}})).parameters.base


GEMMA_4 = {
    "model_type": "gemma4",
    "text_config": {
        "vocab_size": 1000,
        "vocab_size_per_layer_input": 1000,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "global_head_dim": 32,
        "hidden_size_per_layer_input": 8,
    },
    "vision_config": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2},
}


def gemma_4(method, **changed):
    training = {"sequence_length": 64}
    return estimate(parse_request({"model": {"config": GEMMA_4 | changed}, "method": method, "training": training}))


def test_an_answer_with_images_states_what_they_do_not_reach():
    """The audio tower; and no convolution embeds the patches."""
    images = {"images_per_sequence": 1, "image_height": 200, "image_width": 300}
    body = {
        "model": {"config": GEMMA_4 | {"audio_config": {"hidden_size": 16, "num_hidden_layers": 1}}},
        "method": {"name": "lora", "target_modules": "all-linear"},
        "training": {"sequence_length": 400, "images": images},
    }
    answer = estimate(parse_request(body))
    assert any("get no gradient" in warning for warning in answer.warnings)
    assert CONVOLUTION not in answer.assumptions


def test_the_default_targets_of_gemma_4_leave_out_its_towers():
    towers = {"vision_config": GEMMA_4["vision_config"], "audio_config": {"hidden_size": 16, "num_hidden_layers": 1}}
    added = {gemma_4({"name": "lora"}, **changed).parameters.added for changed in (towers, {"vision_config": None})}
    assert len(added) == 1
    assert gemma_4({"name": "lora", "target_modules": "all-linear"}).parameters.added > added.pop()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"name": "lora", "target_modules": ["q_proj"]}, "a linear layer inside another module"),
        ({"name": "ia3"}, 'PEFT has no default for gemma4: use "all-linear"'),
        ({"name": "lora", "layers_to_transform": [0]}, "a pattern, with which it chooses no layers"),
        ({"name": "prompt"}, "from which it can't look up its layers' inputs"),
    ],
)
def test_gemma_4_settings_that_peft_refuses_are_refused(method, message):
    with pytest.raises(PlanError, match=message):
        gemma_4(method)


def test_without_towers_the_names_of_gemma_4_are_those_of_its_text_model():
    assert gemma_4({"name": "lora", "target_modules": ["q_proj"]}, vision_config=None).parameters.added


def test_a_convolution_among_the_targets_is_refused_with_the_names_of_the_others():
    body = {"model": "Qwen/Qwen2.5-VL-7B-Instruct", "method": {"name": "lora", "target_modules": ["q_proj", "proj"]}}
    with pytest.raises(PlanError, match=r"patch_embed.proj is a convolution, .*: name attn.proj, self_attn.q_proj"):
        estimate(parse_request(body))
    body["method"]["target_modules"] = ["q_proj", "attn.proj"]
    assert estimate(parse_request(body)).parameters.added
