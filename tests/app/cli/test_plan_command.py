"""`python -m app plan` prints what POST /api/v1/plan answers, or the same as text."""

import json

import pytest

from app.__main__ import main
from app.cli.plan import FIELDS

#: A plan as options, and the body that they stand for.
OPTIONS = (
    *("--model", "meta-llama/Llama-3.2-1B", "--gpu", "T4", "--tasks", "4"),
    *(
        "--switch_per_request",
        "--reserved",
        "rule",
        "--needs.effective_batch_size",
        "8",
        "--priorities",
        "memory,speed",
    ),
)
BODY = {
    "model": "meta-llama/Llama-3.2-1B",
    "device": {"gpu": "T4"},
    "needs": {
        "tasks": 4,
        "switch_per_request": True,
        "effective_batch_size": 8,
        "priorities": ["memory", "speed"],
    },
    "reserved": "rule",
}


def api_answer(client, body):
    return client.post("/api/v1/plan", json=body).json()


def printed(capsys, *options):
    assert main(["plan", *options, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_input_has_its_option(capsys):
    with pytest.raises(SystemExit) as left:
        main(["plan", "--help"])
    assert left.value.code == 0
    output = capsys.readouterr().out
    assert [field.name for field in FIELDS if f"--{field.name}" not in output] == []


def test_options_are_the_request_of_the_api(client, capsys):
    assert printed(capsys, *OPTIONS) == api_answer(client, BODY)


def test_options_override_the_request_of_a_file(client, capsys, tmp_path):
    file = tmp_path / "needs.json"
    file.write_text(json.dumps({**BODY, "device": None, "devices": [{"gpu": "l4"}, {"gpu": "a2"}]}))
    answer = printed(capsys, "--request", str(file), "--model", "gpt2, distilgpt2", "--gpu", "T4", "--tasks", "3")
    body = {
        "models": ["gpt2", "distilgpt2"],
        "device": {"gpu": "T4"},
        "needs": {**BODY["needs"], "tasks": 3},
        "reserved": "rule",
    }
    assert answer == api_answer(client, body)


def test_more_gpus_can_be_planned_for(client, capsys):
    answer = printed(capsys, "--model", "gpt2", "--memory_gib", "4", "--gpus", "T4, L4", "--reserved", "rule")
    body = {"model": "gpt2", "devices": [{"memory_bytes": 4 << 30}, {"gpu": "T4"}, {"gpu": "L4"}], "reserved": "rule"}
    assert answer == api_answer(client, body)


def test_a_config_json_is_the_model(client, capsys, tmp_path):
    config = {"model_type": "gpt2", "n_layer": 2, "n_embd": 256, "n_head": 4, "vocab_size": 1000}
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    answer = printed(capsys, "--config", str(file), "--gpu", "T4")
    assert answer == api_answer(client, {"model": {"config": config}, "device": {"gpu": "T4"}})
    assert main(["plan", "--config", str(file), "--model", "gpt2", "--gpu", "T4"]) == 2


def test_the_text_shows_what_fits_and_why(client, capsys):
    assert main(["plan", *OPTIONS]) == 0
    text = capsys.readouterr().out
    for configuration in api_answer(client, BODY)["plans"][0]["configurations"]:
        assert configuration["label"] in text
        assert all(reason["sentence"] in text for reason in configuration["reasons"])


def test_if_nothing_fits_the_status_is_1_and_the_text_lists_what_would(capsys):
    assert main(["plan", "--model", "meta-llama/Llama-3.1-70B", "--gpu", "4090", "--reserved", "rule"]) == 1
    text = capsys.readouterr().out
    assert "Nearest: QLoRA" in text
    assert "The smallest GPU that fits it" in text
    assert "paged_adamw_8bit" in text
    assert "1 × 16" in text
    assert "With 2,048 tokens per sequence, bfloat16, sdpa." in text
    assert "meta-llama/Llama-3.1-8B" in text


def test_a_warning_of_every_estimate_is_shown_once(capsys):
    assert (
        main(
            [
                "plan",
                "--model",
                "meta-llama/Llama-2-7b-hf",
                "--gpu",
                "4090",
                "--sequence_length",
                "4224",
                "--reserved",
                "rule",
            ]
        )
        == 0
    )
    text = capsys.readouterr().out
    assert text.count("! The sequence is longer than the model's 4,096 positions") == 1


def test_warnings_of_the_nearest_miss_are_reported(capsys):
    """Experts stay in 16 bits, so that 4 bits save little of Mixtral."""
    assert main(["plan", "--model", "mistralai/Mixtral-8x7B-v0.1", "--gpu", "A100 80GB", "--reserved", "rule"]) == 1
    text = capsys.readouterr().out
    assert "! bitsandbytes does not quantize experts" in text
    assert "No shorter sequence makes it fit: with 64 tokens" in text


def test_if_little_memory_remains_changes_that_save_memory_are_shown(capsys):
    assert main(["plan", "--model", "meta-llama/Llama-3.2-3B", "--gpu", "RTX 3070", "--reserved", "rule"]) == 0
    text = capsys.readouterr().out
    assert "reserved: replay" in text
    assert "> With rank 8: +0.23 GiB to spare." in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "gpt2"), '--gpu: is required, such as --gpu "RTX 4090"'),
        (("--gpu", "T4"), "--model: is required, such as --model meta-llama/Llama-3.1-8B"),
        (("--model", "gpt2", "--gpu", "T4", "--tasks", "many"), "--tasks: must be a whole number"),
        (("--model", "gpt2", "--gpu", "T4", "--must_merge", "--frozen_base"), "--must_merge: merging"),
    ],
)
def test_wrong_usage_is_reported_with_status_2(options, message, capsys):
    assert main(["plan", *options]) == 2
    assert message in capsys.readouterr().err


def test_several_gpus_without_a_sharding_list_what_each_makes_of_the_first_method(capsys):
    options = ("--model", "meta-llama/Llama-3.2-1B", "--gpu", "rtx-4090", "--count", "2", "--reserved", "rule")
    assert main(["plan", *options]) == 0
    text = capsys.readouterr().out
    lines = text.partition("under each sharding\n")[2].splitlines()[:5]
    assert sorted(line.split(":")[0] for line in lines) == ["- ddp", "- fsdp", "- zero1", "- zero2", "- zero3"]
    assert all("each GPU sends" in line for line in lines)
    assert "on 2 × GeForce RTX 4090" in text
