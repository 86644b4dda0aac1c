"""`check`: a verdict for every file, reports, and the GitHub action and pre-commit hook that run it."""

import json
import os
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
import yaml

from app.__main__ import main
from app.checks.reports import NOT_MODELED, RULES, WORDS
from app.cli.check import STATUS
from tests.app.cli.test_command_line import BROKEN
from tests.paths import ROOT

REQUEST = {"model": "gpt2", "method": {"name": "lora"}, "reserved": "rule"}
SCRIPT = 'from transformers import AutoModelForCausalLM\nmodel = AutoModelForCausalLM.from_pretrained("gpt2")\n'
TUNED = "args = TrainingArguments(per_device_train_batch_size=2)\nTrainer(model, args).train()\n"


@pytest.fixture(name="folder", autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "request.json").write_text(json.dumps(REQUEST))
    (tmp_path / "axolotl.yaml").write_text("base_model: gpt2\nadapter: lora\nlora_r: 8\nsample_packing: true\n")
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "gpt2", "r": 8, "target_modules": ["c_attn"]})
    )
    (tmp_path / "train.py").write_text(SCRIPT + TUNED)
    (tmp_path / "wrong.json").write_text(json.dumps({**REQUEST, "training": {"sequence_length": 0}}))
    return tmp_path


def test_every_kind_of_file_gets_a_verdict(capsys):
    names = ["request.json", "axolotl.yaml", "adapter_config.json", "train.py"]
    assert main(["check", *names, "--gpu", "RTX 4090"]) == 0
    out = capsys.readouterr().out
    for name in names:
        assert f"{name}: fits\n  It fits with" in out
    assert "train.py: fits" in out.split("Warning: max_length: null")[0]


@pytest.mark.parametrize(
    ("options", "status", "word"),
    [
        (["request.json"], 0, "no GPU given"),
        (["request.json", "--memory_bytes", "100000000"], 1, "does not fit"),
        (["request.json", "wrong.json", "--gpu", "RTX 4090"], 2, "invalid"),
        (["missing.yaml", "request.json"], 2, "no file 'missing.yaml'"),
    ],
)
def test_the_status_is_that_of_the_worst_file(capsys, options, status, word):
    assert main(["check", *options]) == status
    out = capsys.readouterr().out
    assert word in out
    assert "request.json: " in out


def test_an_invalid_file_names_its_fields(capsys):
    main(["check", "wrong.json"])
    assert "  training.sequence_length: must be" in capsys.readouterr().out


def test_broken_files_are_invalid(folder, capsys):
    for number, raw in enumerate(BROKEN):
        (folder / f"{number}.json").write_bytes(raw)
    assert main(["check", *(f"{number}.json" for number in range(len(BROKEN)))]) == 2
    assert capsys.readouterr().out.count(".json: invalid\n  ") == len(BROKEN)


def test_a_model_option_replaces_the_models_of_the_files(folder):
    (folder / "unknown.json").write_text(json.dumps({**REQUEST, "model": "nobody/nothing"}))
    assert main(["check", "unknown.json"]) == 2
    assert main(["check", "unknown.json", "--model", "gpt2"]) == 0


def test_reports_state_every_file(folder, capsys):
    arguments = ["axolotl.yaml", "wrong.json", "--memory_bytes", "100000000", "--report", "markdown"]
    assert main(["check", *arguments, "--sarif", "log.sarif"]) == 2
    out = capsys.readouterr().out
    assert "| `axolotl.yaml` | does not fit | " in out
    assert "| `wrong.json` | invalid |  |  |" in out
    (run,) = json.loads((folder / "log.sarif").read_text())["runs"]
    results = {(result["ruleId"], result["level"], uri(result)) for result in run["results"]}
    assert {("does_not_fit", "error", "axolotl.yaml"), ("invalid", "error", "wrong.json")} < results
    assert (NOT_MODELED, "note", "axolotl.yaml") in results
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == {*RULES, NOT_MODELED}


def uri(result):
    (location,) = result["locations"]
    address = location["physicalLocation"]["artifactLocation"]["uri"]
    assert not urlsplit(address).scheme
    return address


def test_every_outcome_has_words_and_a_status():
    assert set(WORDS) == set(STATUS)


def test_the_steps_of_the_github_action_write_a_summary_and_a_log(folder):
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    (step,) = [step for step in action["runs"]["steps"] if step.get("name") == "Check"]
    given = {"files": "*.yaml request.json", "gpu": "RTX 4090", "options": "--count 1", "sarif": "log.sarif"}
    assert given.keys() == action["inputs"].keys()
    inputs = {name: given[value.split("inputs.")[1].split()[0]] for name, value in step["env"].items()}
    environment = with_headroom(folder) | inputs | {"GITHUB_STEP_SUMMARY": str(folder / "summary.md")}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    assert subprocess.run(command, env=environment, check=False, capture_output=True).returncode == 0
    assert "| `axolotl.yaml` | fits |" in (folder / "summary.md").read_text()
    assert json.loads((folder / "log.sarif").read_text())["version"] == "2.1.0"


def test_the_hook_of_pre_commit_runs_the_command(folder):
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    command = [*hook["entry"].split(), "--memory_bytes", "100000000", "axolotl.yaml"]
    assert subprocess.run(command, env=with_headroom(folder), check=False, capture_output=True).returncode == 1


def with_headroom(folder):
    """An environment whose `headroom` is this checkout's."""
    script = folder / "bin" / "headroom"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m app "$@"\n')
    script.chmod(0o755)
    return {**os.environ, "PATH": f"{script.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
