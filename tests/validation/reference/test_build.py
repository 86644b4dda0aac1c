import pytest
import torch

from calculator.common.errors import PlanError
from calculator.estimation.request import parse_request
from tests.tiny_models import GPT2, LLAMA
from validation.reference.build import build_model, config_of
from validation.tracing.shims import emulate_cuda

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]


def build(method, config=LLAMA, **training):
    request = {"model": {"config": config}, "method": method, "training": {"sequence_length": 32, **training}}
    with emulate_cuda():
        return build_model(parse_request(request))


def refused(method, config=LLAMA, **training):
    with pytest.raises(PlanError) as refusal:
        build(method, config, **training)
    return refusal.value.problems[0]


@pytest.mark.parametrize(
    ("method", "added"),
    [
        ({"name": "lora", "r": 4, "target_modules": ["q_proj"]}, 2 * 4 * (64 + 64)),
        ({"name": "lora", "r": 4, "target_modules": ["q_proj"], "use_dora": True}, 2 * (4 * (64 + 64) + 64)),
        ({"name": "lora", "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, 2 * 8 * 128 + 64 * 300),
        ({"name": "qlora", "r": 4, "target_modules": ["q_proj"]}, 2 * 4 * (64 + 64)),
        ({"name": "adapter", "bottleneck_size": 8}, 4 * (2 * 64 * 8 + 8 + 64)),
        ({"name": "adapter", "bottleneck_size": 8, "placement": "pfeiffer"}, 2 * (2 * 64 * 8 + 8 + 64)),
        ({"name": "prefix", "num_virtual_tokens": 5}, 2 * 5 * (2 * 16) * 2),
        ({"name": "prompt", "num_virtual_tokens": 5}, 5 * 64),
    ],
)
def test_a_method_adds_the_parameters_of_its_formula_and_trains_them(method, added):
    parameters = build(method).parameter_counts()
    assert (parameters["added"], parameters["trainable"]) == (added, added)
    assert parameters["total"] == parameters["base"] + added


def test_full_fine_tuning_trains_every_parameter():
    parameters = build({"name": "full"}).parameter_counts()
    assert parameters["trainable"] == parameters["base"] == parameters["total"]


def test_trained_biases_belong_to_the_base_model():
    lora = {"name": "lora", "r": 4, "target_modules": ["c_attn"], "bias": "lora_only"}
    parameters = build(lora, GPT2).parameter_counts()
    assert parameters["trainable"] == parameters["added"] + 2 * 3 * 64


def test_qlora_stores_linear_layers_in_4_bits_and_counts_every_weight():
    model = build({"name": "qlora", "target_modules": ["q_proj"]})
    named = dict(model.named_parameters())
    assert (named["model.layers.0.mlp.up_proj.weight"].dtype, named["lm_head.weight"].dtype) == (
        torch.uint8,
        torch.float32,
    )
    assert model.parameter_counts()["base"] == build({"name": "full"}).parameter_counts()["base"]


def test_without_preparation_other_layers_of_qlora_keep_their_dtype():
    method = {"name": "qlora", "target_modules": ["q_proj"], "prepare_model_for_kbit_training": False}
    assert dict(build(method).named_parameters())["lm_head.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize(("adapter_dtype", "dtype"), [("float32", torch.float32), ("model", torch.bfloat16)])
@pytest.mark.parametrize("method", [{"name": "lora", "target_modules": ["q_proj"]}, {"name": "adapter"}])
def test_added_parameters_have_the_requested_dtype(method, adapter_dtype, dtype):
    model = build(method, adapter_dtype=adapter_dtype)
    assert {p.dtype for name, p in model.named_parameters() if name not in model.base} == {dtype}


def test_added_parameters_in_the_models_dtype_follow_their_base_layer():
    method = {"name": "qlora", "target_modules": ["q_proj", "lm_head"]}
    added = {name: p.dtype for name, p in build(method, adapter_dtype="model").named_parameters() if "lora_A" in name}
    assert {dtype for name, dtype in added.items() if "q_proj" in name} == {torch.bfloat16}
    assert {dtype for name, dtype in added.items() if "lm_head" in name} == {torch.float32}


@pytest.mark.parametrize("name", ["prefix", "prompt"])
def test_prefix_and_prompt_parameters_are_always_float32(name):
    model = build({"name": name}, adapter_dtype="model")
    assert {p.dtype for p in model.trainable().values()} == {torch.float32}


def test_a_family_without_sdpa_runs_eager():
    gemma2 = {**LLAMA, "model_type": "gemma2", "head_dim": 16}
    assert build({"name": "full"}, gemma2, attention="sdpa").model.config._attn_implementation == "eager"


def test_a_catalogue_id_gives_its_config():
    request = parse_request({"model": "meta-llama/Llama-3.1-8B", "method": {"name": "full"}})
    assert config_of(request)["num_hidden_layers"] == 32


@pytest.mark.parametrize(
    ("method", "config", "training", "loc"),
    [
        ({"name": "prefix"}, LLAMA, {"gradient_checkpointing": True}, "method"),
        ({"name": "lora"}, {**LLAMA, "model_type": "phi3", "pad_token_id": 0}, {}, "method"),
        ({"name": "lora", "target_modules": ["query"]}, LLAMA, {}, "method"),
        ({"name": "full"}, {**LLAMA, "model_type": "no_such_family"}, {}, "model"),
        ({"name": "full"}, LLAMA, {"attention": "flash_attention_2", "dtype": "float32"}, "training.attention"),
        ({"name": "full"}, LLAMA, {"attention": "flash_attention_2", "padding": True}, "training.attention"),
        ({"name": "full"}, GPT2, {"sequence_length": 129}, "training.sequence_length"),
        ({"name": "prompt", "num_virtual_tokens": 100}, GPT2, {}, "training.sequence_length"),
    ],
)
def test_a_request_that_the_libraries_refuse_is_refused_with_a_reason(method, config, training, loc):
    problem = refused(method, config, **training)
    assert problem.loc == loc
    assert problem.msg


def test_a_bare_parameter_count_cannot_be_traced():
    request = {"model": {"parameters": 7_000_000_000}, "method": {"name": "full"}}
    with pytest.raises(PlanError, match="cannot be traced"):
        build_model(parse_request(request))


def test_a_type_with_several_classes_for_a_task_is_built_as_its_architectures_say():
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"model_type": "deit", **sizes, "architectures": ["DeiTForImageClassification"]}
    request = {"model": {"config": config}, "task": "image_cls", "num_labels": 5, "method": {"name": "full"}}
    with emulate_cuda():
        built = build_model(parse_request(request)).model
    assert type(built).__name__ == "DeiTForImageClassification"
    assert built.classifier.out_features == 5
