"""One model that the calculator does not model, traced in its process: the API, the page and the command line."""

import json

import pytest

from app.__main__ import main

pytestmark = pytest.mark.trace

CONFIG = {
    "model_type": "kimi_linear",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "mlp_layer_types": ["dense", "sparse"],
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "linear_head_dim": 16,
    "linear_num_heads": 4,
    "vocab_size": 200,
    "num_experts": 4,
    "num_experts_per_token": 2,
    "moe_intermediate_size": 32,
    "pad_token_id": 0,
    "torch_dtype": "bfloat16",
}
BODY = {
    "model": {"config": CONFIG},
    "method": {"name": "lora", "r": 8, "target_modules": ["kv_a_proj_with_mqa"]},
    "training": {"sequence_length": 64},
    "device": {"gpu": "rtx-4090"},
}
FORM = {
    "config": json.dumps(CONFIG),
    "method": "lora",
    "r": "8",
    "target_modules": "kv_a_proj_with_mqa",
    "sequence_length": "64",
    "gradient_checkpointing": "false",
    "gpu": "rtx-4090",
}


@pytest.fixture(scope="module")
def answer(client):
    """The answer; the trace is kept, so that the page and the command line need no other."""
    response = client.post("/api/v1/estimate", json=BODY)
    assert response.status_code == 200, response.text
    return response.json()


def test_the_answer_states_its_engine_its_grade_and_what_ran(answer):
    assert (answer["engine"], answer["grade"]) == ("traced", "traced, but a kernel package changes it")
    assert answer["trace"]["versions"].keys() == {"torch", "transformers", "peft", "bitsandbytes"}
    assert answer["trace"]["kernel_packages"]["flash-linear-attention"] == ["chunk_kda"]
    assert "convolution" in answer["trace"]["unchecked_operations"]
    assert any("spread evenly" in guess for guess in answer["trace"]["guesses"])


def test_the_answer_adds_up(answer):
    memory = answer["memory"]
    assert sum(part["bytes"] for part in memory["components"]) == memory["peak_allocated_bytes"]
    assert max(phase["peak_bytes"] for phase in memory["phases"]) == memory["peak_allocated_bytes"]
    assert max(moment["bytes"] for moment in memory["timeline"]) == memory["peak_allocated_bytes"]
    for part in memory["components"]:
        assert sum(row["bytes"] for row in part["rows"]) == part["bytes"]
    assert memory["peak_reserved_bytes"] >= memory["peak_allocated_bytes"] + memory["library_workspace_bytes"]
    assert answer["fit"]["verdict"] == "fits"
    assert answer["fit"]["minimum_bytes"] <= memory["required_bytes"]


def test_parameters_are_those_of_the_built_model(answer):
    # One of two layers has attention; its kv_a_proj_with_mqa is (kv_lora_rank + qk_rope_head_dim, hidden_size).
    assert answer["parameters"]["trainable"] == answer["parameters"]["added"] == 8 * (64 + 16 + 8)
    assert answer["saved_bytes"] == 4 * answer["parameters"]["added"]


def test_other_gpus_and_the_rule_need_no_other_trace(client, answer):
    other = client.post("/api/v1/estimate", json={**BODY, "device": {"gpu": "a100-40gb"}, "reserved": "rule"}).json()
    assert other["trace"]["seconds"] == answer["trace"]["seconds"]
    assert other["memory"]["peak_allocated_bytes"] == answer["memory"]["peak_allocated_bytes"]
    assert other["memory"]["peak_reserved_bytes"] >= other["memory"]["peak_allocated_bytes"]


def test_the_page_shows_the_same_answer(client, answer):
    page = client.get("/", params=FORM)
    assert page.status_code == 200
    assert "Traced, not modeled" in page.text
    assert answer["grade"] in page.text
    assert f'value="{answer["memory"]["peak_allocated_bytes"]}"' in page.text
    assert "The methods side by side" not in page.text


def test_exported_files_use_the_same_trace(client, answer):
    assert client.get("/estimate.json", params=FORM).json()["memory"] == answer["memory"]
    assert "self_attn" in client.get("/estimate.csv", params=FORM).text


def test_the_command_line_prints_the_same_answer(answer, capsys, tmp_path):
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(BODY))
    assert main(["estimate", "--request", str(file), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["memory"] == answer["memory"]
    assert main(["estimate", "--request", str(file)]) == 0
    assert f"Grade: {answer['grade']}" in capsys.readouterr().out
