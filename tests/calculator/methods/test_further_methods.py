"""FourierFT, trainable tokens and younger methods: what is refused, and what they add."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.inference.inference import inference
from calculator.inference.request import parse_inference

TIED, UNTIED = "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B"
VIT = {
    "model_type": "vit",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def answer(name, model=TIED, **method):
    body = {"model": model, "method": {"name": name, **method}, "training": {"sequence_length": 64}, "reserved": "rule"}
    return estimate(parse_request(body))


@pytest.mark.parametrize("model", [TIED, UNTIED])
def test_trained_rows_count_once_if_the_head_is_tied(model):
    width = {TIED: 2048, UNTIED: 4096}[model]
    assert answer("trainable_tokens", model, token_indices=[5, 6, 7]).parameters.trainable == 3 * width


@pytest.mark.parametrize(
    ("method", "loc", "message"),
    [
        ({"name": "trainable_tokens", "token_indices": [128_256]}, "method.token_indices", "tokens 0 to 128,255"),
        ({"name": "trainable_tokens", "token_indices": []}, "method.token_indices", "a list of whole numbers"),
        (
            {"name": "fourierft", "n_frequency": 5_000_000, "target_modules": ["q_proj"]},
            "method.n_frequency",
            "4,194,304 elements",
        ),
        ({"name": "waveft", "wavelet_family": "haar"}, "method.wavelet_family", "db38"),
        ({"name": "deft", "decomposition_method": "qr"}, "method.decomposition_method", "use relu"),
        ({"name": "adalora", "tinit": 900, "tfinal": 100}, "method.tinit", "below total_step - tfinal (900)"),
        ({"name": "tinylora", "weight_tying": 0.5}, "method.weight_tying", "use 0 or 1"),
        ({"name": "glora", "config_A_B": "none"}, "method.config_A_B", "no path gets a gradient"),
        ({"name": "psoft", "r": 600, "target_modules": ["k_proj"]}, "method.r", "512 singular values"),
        ({"name": "boft", "boft_n_butterfly_factor": 2}, "method.boft_n_butterfly_factor", "use 1"),
        ({"name": "boft", "boft_block_size": 3}, "method.boft_block_size", "must be a multiple"),
        ({"name": "shira", "r": 410, "target_modules": ["k_proj"]}, "method.r", "at most 409"),
        ({"name": "c3a", "block_size": 96, "target_modules": ["k_proj"]}, "method.block_size", "both sides of"),
        ({"name": "bitfit"}, "method.name", "trains biases"),
        ({"name": "oft", "oft_block_size": 1, "target_modules": ["q_proj"]}, "method.oft_block_size", "blocks of 1"),
        ({"name": "lily", "num_B": 1}, "method.num_B", "2"),
        ({"name": "lily", "target_modules": "all-linear"}, "method.target_modules", "list names (down_proj,"),
        ({"name": "vblora", "topk": 300}, "method.topk", "256 vectors"),
        (
            {"name": "vblora", "vector_length": 100, "target_modules": ["k_proj"]},
            "method.vector_length",
            "2,048 and 512",
        ),
    ],
)
def test_settings_that_peft_refuses_are_refused(method, loc, message):
    with pytest.raises(PlanError) as caught:
        estimate(parse_request({"model": TIED, "method": method}))
    assert [problem.loc for problem in caught.value.problems] == [loc]
    assert message in caught.value.problems[0].msg


@pytest.mark.parametrize("name", ["fourierft", "trainable_tokens", "waveft"])
def test_only_merged_models_are_served(name):
    body = {"model": TIED, "method": {"name": name}}
    assert inference(parse_inference({**body, "serving": {"merged": True}})).parameters.added_per_task == 0
    with pytest.raises(PlanError) as caught:
        inference(parse_inference(body))
    assert [problem.loc for problem in caught.value.problems] == ["serving.merged"]


def test_the_bank_of_vb_lora_counts_once():
    found = answer("vblora", target_modules=["q_proj", "v_proj"])
    logits = 16 * 4 * 256 * (2048 * 2 + 2048 + 512) // 256
    assert found.parameters.trainable == 256 * 256 + logits


def test_lilys_layers_share_a_in_blocks_and_b_in_all():
    found = answer("lily", r=8, stride_A=6, num_B=3, target_modules=["q_proj", "k_proj"])
    blocks, layers = 3, 16
    a, b, routers = 2 * blocks * 8 * 2048, 3 * 8 * (2048 + 512), 2 * layers * 3 * 8
    assert found.parameters.trainable == a + b + routers


def test_lilys_file_has_every_layers_matrices():
    """The size in PEFT's method comparison (run of 14 April 2026), but for the header of 252 tensors."""
    method = {"r": 140, "stride_A": 14, "target_modules": ["gate_proj", "up_proj", "down_proj"]}
    saved = answer("lily", "meta-llama/Llama-3.2-3B", **method).saved_bytes
    assert 0 < 835_056_616 - saved < 252 * 150


def test_only_the_loop_that_updates_adaloras_importance_keeps_it():
    def states(trainer):
        training = {"sequence_length": 64, "trainer": trainer}
        body = {"model": TIED, "method": {"name": "adalora"}, "training": training, "reserved": "rule"}
        rows = (row for component in estimate(parse_request(body)).memory.components for row in component.rows)
        return {row.name.rpartition(": ")[2] for row in rows if ".lora_A: " in row.name}

    assert states(None) - states("transformers") == {"ipt", "exp_avg_ipt", "exp_avg_unc"}


def test_a_vector_that_all_targets_share_counts_once():
    assert answer("tinylora", weight_tying=1).parameters.trainable == 64
    assert answer("tinylora").parameters.trainable == 64 * 2 * 16


def test_ranks_of_layers_are_served():
    body = {"name": "lora", "target_modules": ["q_proj"], "layers_to_transform": [0, 1]}
    served = inference(parse_inference({"model": TIED, "method": body}))
    assert served.parameters.added_per_task == answer(**body).parameters.added == 2 * 8 * 4096


def test_x_lora_of_images_is_refused_although_the_model_has_no_embedding():
    body = {"model": {"config": VIT}, "method": {"name": "xlora"}, "task": "image_cls"}
    with pytest.raises(PlanError, match="X-LoRA is modeled for causal_lm only"):
        estimate(parse_request(body))
