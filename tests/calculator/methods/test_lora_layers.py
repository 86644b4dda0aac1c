"""LoRA with settings of single modules and layers."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.methods import LoRA
from calculator.methods.config_arguments import config_arguments

LLAMA = "meta-llama/Llama-3.2-1B"
TRAINING = {"sequence_length": 64}


def answer(**method):
    body = {"model": LLAMA, "method": {"name": "lora", **method}, "training": TRAINING, "reserved": "rule"}
    return estimate(parse_request(body))


def added(**method):
    return answer(**method).parameters.added


def refusal(name="lora", device=None, **method):
    body = {"model": LLAMA, "method": {"name": name, **method}, "training": TRAINING, "device": device or {}}
    with pytest.raises(PlanError) as error:
        estimate(parse_request(body))
    return [(problem.loc, problem.msg) for problem in error.value.problems]


def test_only_chosen_layers_are_adapted():
    whole = added(target_modules=["q_proj"])
    assert added(target_modules=["q_proj"], layers_to_transform=[0, 5, 15]) * 16 == whole * 3
    assert added(target_modules=["q_proj"], layers_to_transform=[15, 16, 99], layers_pattern=["layers"]) * 16 == whole


def test_a_target_with_its_full_name_is_adapted_in_any_layer():
    """PEFT looks at layers only where a name ends in a target."""
    body = {"target_modules": ["lm_head", "q_proj"]}
    head = 8 * (2048 + 128_256)
    assert added(**body, layers_to_transform=[0]) == added(target_modules=["q_proj"]) / 16 + head


def test_replicated_layers_share_their_weights():
    twelve = answer(target_modules=["q_proj"], layer_replication=[[0, 8], [4, 8]]).parameters
    eight = answer(target_modules=["q_proj"], layer_replication=[[0, 8]]).parameters
    assert twelve.base == eight.base
    assert twelve.added * 8 == eight.added * 12


@pytest.mark.parametrize(
    ("given", "loc", "reason"),
    [
        ({"layer_replication": [[0, 17]]}, "method.layer_replication", "is no range"),
        ({"layer_replication": [[0, 16]] * 63}, "method.layer_replication", "more than 1,000"),
        ({"layer_replication": [[0, 8]], "bias": "all"}, "method.bias", "not modeled with layer_replication"),
        ({"layer_replication": [[0, 8]], "name": "qlora"}, "method.layer_replication", "over a quantized base"),
    ],
)
def test_replications_that_are_refused(given, loc, reason):
    found = dict(refusal(**{"target_modules": ["q_proj"], **given}))
    assert reason in found[loc]


def test_layers_beyond_the_types_of_the_config_are_refused():
    """Qwen 3 looks up the type of each layer by its number: transformers ends in an IndexError."""
    method = {"name": "lora", "layer_replication": [[0, 36], [0, 1]]}
    with pytest.raises(PlanError, match="layer 36 would have none"):
        estimate(parse_request({"model": "Qwen/Qwen3-4B", "method": method, "training": TRAINING}))


def test_chosen_layers_that_lack_the_target_are_refused():
    """Granite 4's first ten layers are of Mamba. PEFT raises an error where no module matches."""
    body = {"model": "ibm-granite/granite-4.0-h-350m", "training": TRAINING, "reserved": "rule"}
    method = {"name": "lora", "target_modules": ["q_proj"], "layers_to_transform": [0, 9]}
    with pytest.raises(PlanError, match="no adapted module is in these layers") as error:
        estimate(parse_request({**body, "method": method}))
    assert error.value.problems[0].loc == "method.layers_to_transform"
    with_one = estimate(parse_request({**body, "method": {**method, "layers_to_transform": [9, 10]}}))
    assert with_one.parameters.added == 8 * (768 + 768)


def test_the_first_name_that_matches_gives_the_rank():
    both = added(target_modules=["q_proj", "v_proj"], r=8)
    assert added(target_modules=["q_proj", "v_proj"], r=4, rank_pattern={"q_proj": 8, ".*_proj": 8}) == both
    assert added(target_modules=["q_proj"], rank_pattern={"proj": 1}) == added(target_modules=["q_proj"])
    one = added(target_modules=["q_proj"], rank_pattern={"model.layers.3.self_attn.q_proj": 16})
    assert one - added(target_modules=["q_proj"]) == 8 * 4096


def test_layers_below_the_first_adapter_keep_nothing():
    """They have no graph, because no input of theirs needs a gradient."""
    low, high = (answer(layers_to_transform=[layer]).memory.phases[1].peak_bytes for layer in (0, 15))
    assert high < low


def test_a_bias_of_b_is_trained():
    assert added(target_modules=["q_proj"], lora_bias=True) - added(target_modules=["q_proj"]) == 16 * 2048


def test_initializations_leave_the_figures_and_state_what_they_take():
    plain, pissa = answer(), answer(init_lora_weights="pissa")
    assert pissa.memory.phases == plain.memory.phases
    assert next(line for line in pissa.assumptions if line not in plain.assumptions).startswith("PiSSA computes")


def test_an_initialization_that_takes_more_than_a_step_is_warned_of():
    whole = answer(init_lora_weights="loftq", target_modules=["down_proj"], layers_to_transform=[15])
    few = answer(init_lora_weights="olora", target_modules=["k_proj"])
    assert any(line.startswith("Adding the adapter") for line in whole.warnings)
    assert not any(line.startswith("Adding the adapter") for line in few.warnings)


@pytest.mark.parametrize(
    ("settings", "loc", "message"),
    [
        ({"layers_to_transform": [16]}, "layers_to_transform", "there are 16 in model.layers, numbered from 0"),
        ({"layers_to_transform": [1], "layers_pattern": ["h"]}, "layers_to_transform", "no adapted module"),
        ({"layers_to_transform": [1], "target_modules": "all-linear"}, "layers_to_transform", "lists names"),
        ({"layers_pattern": ["layers"]}, "layers_pattern", "set that too"),
        ({"rank_pattern": {"(a|b)*": 4}}, "rank_pattern", "at most one group"),
        ({"rank_pattern": {"[": 4}}, "rank_pattern", "is not read"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern", "must be at least 1"),
        ({"rank_pattern": {"q_proj": 1.5}}, "rank_pattern", "must be an object of names and whole numbers"),
        ({"layers_to_transform": ["1"]}, "layers_to_transform", "a list of whole numbers"),
        ({"lora_bias": True, "use_dora": True}, "lora_bias", "use false"),
        ({"lora_bias": True, "init_lora_weights": "pissa"}, "init_lora_weights", "true or false"),
        ({"lora_bias": True, "target_modules": ["embed_tokens"]}, "lora_bias", "embedding"),
        ({"init_lora_weights": "orthogonal", "r": 3}, "init_lora_weights", "even ranks"),
        ({"init_lora_weights": "mica", "use_dora": True}, "init_lora_weights", "no MiCA with DoRA"),
        ({"init_lora_weights": "mica", "r": 600}, "r", "at most 512 singular vectors"),
        (
            {"init_lora_weights": "loftq", "target_modules": ["embed_tokens"]},
            "init_lora_weights",
            "fails on an embedding",
        ),
        ({"name": "qlora", "init_lora_weights": "pissa"}, "init_lora_weights", "16 or 32 bits only"),
        ({"target_modules": "all-linear", "init_lora_weights": "lora_ga"}, "target_modules", "listed names only"),
        ({"init_lora_weights": "corda"}, "target_modules", "list them, or use true"),
        ({"name": "qlora", "init_lora_weights": "olora", "blocksize": 128}, "init_lora_weights", "blocks of 64"),
    ],
)
def test_settings_that_peft_refuses_are_refused(settings, loc, message):
    found = refusal(**settings)
    assert [at for at, _ in found] == [f"method.{loc}"]
    assert message in found[0][1]


def test_keys_that_peft_adds_to_a_configuration_are_not_in_the_settings():
    config_arguments(LoRA())["rank_pattern"]["gate_up_proj"] = 16
    assert LoRA().rank_pattern == {}


@pytest.mark.parametrize("name", ["lora", "qlora"])
def test_a_rank_above_the_smaller_side_of_a_matrix_is_a_warning(name):
    def warnings(**method):
        body = {"name": name, "target_modules": ["q_proj", "k_proj", "v_proj"], **method}
        request = {"model": "meta-llama/Llama-3.1-8B", "method": body, "reserved": "rule"}
        return [line for line in estimate(parse_request(request)).warnings if "smaller side" in line]

    assert warnings(r=1024) == []
    sides = "k_proj (1,024), v_proj (1,024)"
    assert warnings(r=1025) == [
        f"r 1,025 is larger than the smaller side of {sides}: it adds parameters there, but no rank."
    ]
    assert warnings(r=8, rank_pattern={"v_proj": 2048}) == [
        "r 2,048 is larger than the smaller side of v_proj (1,024): it adds parameters there, but no rank."
    ]
