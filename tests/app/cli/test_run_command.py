"""`python -m app run` prints what the API answers, or the same as text."""

import json

from app.__main__ import main

OPTIONS = (
    *("--model", "Qwen/Qwen2.5-0.5B", "--method", "lora", "--gpu", "rtx-4060", "--sequence_length", "256"),
    *("--reserved", "rule", "--eval_strategy", "epoch", "--compute_metrics", "--eval_samples", "64"),
)

#: A micro-batch that published runs are near.
LONGER = ("--sequence_length", "4096", "--micro_batch_size", "16")


def test_the_command_prints_the_phases_and_exits_by_the_verdict(capsys):
    assert main(["run", *OPTIONS]) == 1
    shown = capsys.readouterr().out
    assert "The run ends in the evaluation: it runs out of GPU memory." in shown
    assert "adapter_model.safetensors" in shown
    assert main(["run", *OPTIONS, "--eval_strategy", "no"]) == 0
    assert "Every phase fits." in capsys.readouterr().out


def test_the_json_is_the_answer_of_the_api(capsys, client):
    main(["run", *OPTIONS, "--json"])
    body = {
        "model": "Qwen/Qwen2.5-0.5B",
        "method": {"name": "lora"},
        "training": {"sequence_length": 256},
        "device": {"gpu": "rtx-4060"},
        "reserved": "rule",
        "run": {"eval_strategy": "epoch", "compute_metrics": True, "eval_samples": 64},
    }
    assert json.loads(capsys.readouterr().out) == client.post("/api/v1/run", json=body).json()


def test_the_command_prints_the_time_and_the_cost(capsys):
    main(["run", *OPTIONS, "--gpu", "a100-sxm4-80gb", "--eval_strategy", "no", "--price_per_hour", "2", *LONGER])
    shown = capsys.readouterr().out
    assert "1,000 training steps take" in shown
    assert "At the price of the request they cost" in shown
    assert "USD an hour on 2026-11-09" in shown
    assert "published speeds, the interval from the other sources contains" in shown


def test_the_command_states_why_there_is_no_time(capsys):
    main(["run", *OPTIONS, "--gpu", "quadro-rtx-6000", "--eval_strategy", "no"])
    assert "The time is not estimated. --gpu: the rated speed of" in capsys.readouterr().out


def test_the_text_names_options_unless_the_request_is_a_file(capsys, tmp_path):
    main(["run", "--model", "openai-community/gpt2", "--method", "lora"])
    assert "Set --checkpoint_dtype for another one" in capsys.readouterr().out
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"model": "openai-community/gpt2", "method": {"name": "lora"}}))
    main(["run", "--request", str(file)])
    assert "Set run.checkpoint_dtype for another one" in capsys.readouterr().out
