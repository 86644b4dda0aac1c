"""`python -m app cards` prints what the API answers, or the same as text."""

import json

from app.__main__ import main


def test_the_command_prints_the_rows_of_a_gpu(capsys):
    assert main(["cards", "RTX 4060", "--q", "Qwen2.5-0.5B", "--method", "lora"]) == 0
    shown = capsys.readouterr().out
    assert "GeForce RTX 4060: a process can use" in shown
    assert "Qwen/Qwen2.5-0.5B" in shown


def test_the_json_is_the_answer_of_the_api(capsys, client):
    main(["cards", "rtx-4060", "--sort", "model", "--limit", "3", "--json"])
    expected = client.get("/api/v1/cards/rtx-4060?sort=model&limit=3").json()
    assert json.loads(capsys.readouterr().out) == expected


def test_without_a_gpu_every_gpu_is_listed(capsys):
    assert main(["cards", "--q", "4060"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("GeForce RTX 4060") == 3


def test_the_status_is_1_if_nothing_matches(capsys):
    assert main(["cards", "rtx-4060", "--q", "no-such-model"]) == 1
    assert "No model and method matches these filters." in capsys.readouterr().out


def test_an_unknown_gpu_is_refused(capsys):
    assert main(["cards", "rtx-4061"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("GPU: 'rtx-4061' is not in the catalogue")
    assert error.rstrip().endswith("Or leave it out to list all GPUs")
