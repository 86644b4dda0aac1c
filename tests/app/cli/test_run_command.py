"""`python -m app run` prints what the API answers, or the same as text."""

import json

from app.__main__ import main

OPTIONS = (
    *("--model", "Qwen/Qwen2.5-0.5B", "--method", "lora", "--gpu", "rtx-4060", "--sequence_length", "256"),
    *("--reserved", "rule", "--eval_strategy", "epoch", "--compute_metrics", "--eval_samples", "64"),
)


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
