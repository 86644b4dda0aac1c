"""`python -m app compare` prints what POST /api/v1/compare answers, or the same as text."""

import json

from app.__main__ import main


def test_a_comparison_equals_the_apis_answer(client, plan, capsys):
    common = {key: plan[key] for key in ("model", "training", "device")}
    methods = [{"name": "full"}, {"name": "lora", "r": 16}, {"name": "qlora", "r": 16}, {"name": "prefix"}]
    options = ["compare", "--model", plan["model"], "--methods", "full,lora,qlora,prefix", "--r", "16"]
    options += ["--gradient_checkpointing", "--sequence_length", "2048", "--gpu", "rtx-4090"]
    assert main([*options, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == client.post("/api/v1/compare", json={**common, "methods": methods}).json()
    assert main(options) == 0
    text = capsys.readouterr().out
    assert f"{answer['rows'][1]['estimate']['parameters']['trainable']:,}" in text
    assert "Prefix tuning is refused: --gradient_checkpointing" in text


def test_a_comparison_succeeds_if_one_method_fits(capsys):
    plan = ["compare", "--model", "meta-llama/Llama-3.1-8B", "--gradient_checkpointing", "--gpu", "rtx-4090"]
    assert main(plan) == 0
    assert main([*plan, "--methods", "full"]) == 1
    capsys.readouterr()


def test_options_override_the_methods_of_a_comparisons_file(tmp_path, capsys):
    file = tmp_path / "request.json"
    file.write_text('{"model": "gpt2", "methods": [{"name": "lora", "use_dora": true}, {"name": "prompt"}]}')
    assert main(["compare", "--request", str(file), "--r", "4", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert (rows[0]["method"]["r"], rows[0]["method"]["use_dora"]) == (4, True)
    assert main(["compare", "--request", str(file), "--bottleneck_size", "4"]) == 2
    assert "--bottleneck_size: none of the methods has this setting" in capsys.readouterr().err
