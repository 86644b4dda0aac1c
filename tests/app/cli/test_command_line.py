"""The command line prints what the API answers, or the same as text."""

import gc
import io
import json
import sys
from contextlib import nullcontext
from importlib import import_module

import pytest

from app.__main__ import main
from app.cli import COMMANDS, serve
from app.forms.fields import FIELDS
from app.resources import VERSION
from app.service.served import served

#: The fixture's plan as options.
PLAN = (
    *("--model", "meta-llama/Llama-3.1-8B", "--method", "qlora", "--r", "16", "--target_modules", "all-linear"),
    *("--training.sequence_length", "2048", "--gradient_checkpointing", "--gpu", "rtx-4090"),
)


@pytest.fixture
def file(tmp_path, plan):
    """The plan in a file."""
    path = tmp_path / "request.json"
    path.write_text(json.dumps(plan))
    return str(path)


#: Commands with the options of an estimate.
OTHER = {"serve", "plan", "inference", "import", "check", "fetch", "mcp", "cards"}
PLANNING = [name for name in COMMANDS if name not in OTHER]


@pytest.mark.parametrize("command", PLANNING)
def test_a_command_offers_every_input_and_the_api_answer(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    output = capsys.readouterr().out
    assert [name for name, field in FIELDS.items() if f"--{name}" not in output and not field.method] == []
    assert "--json" in output
    assert import_module(COMMANDS[command]).__doc__.splitlines()[0] in output


def test_an_estimate_from_options_equals_the_apis_answer(client, plan, capsys):
    assert main(["estimate", *PLAN, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == client.post("/api/v1/estimate", json=plan).json()


@pytest.mark.parametrize("command", ["estimate", "export", "run"])
def test_a_missing_model_or_method_is_named_as_an_option(command, capsys):
    assert main([command]) == 2
    error = capsys.readouterr().err
    assert "--model: is required, such as --model meta-llama/Llama-3.1-8B\n" in error
    assert "--method: is required, such as --method lora\n" in error


def test_an_estimate_from_a_file_equals_the_apis_answer(client, plan, file, capsys):
    assert main(["estimate", "--request", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == client.post("/api/v1/estimate", json=plan).json()


def test_options_override_a_request_from_standard_input(client, plan, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(plan).encode())))
    main(["estimate", "--request", "-", "--json", "--r", "32", "--gradient_checkpointing", "false"])
    plan["method"]["r"] = 32
    plan["training"]["gradient_checkpointing"] = False
    assert json.loads(capsys.readouterr().out) == client.post("/api/v1/estimate", json=plan).json()


def test_the_text_shows_the_same_figures(client, plan, capsys):
    answer = client.post("/api/v1/estimate", json=plan).json()
    assert main(["estimate", *PLAN]) == 0
    output = capsys.readouterr().out
    assert "fits with" in output
    assert f"{answer['memory']['required_bytes']:,}" in output
    weights = next(part for part in answer["memory"]["components"] if part["name"] == "base_weights")
    assert f"{weights['bytes']:,}" in output
    assert answer["assumptions"][0] in output


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (("--memory_gib", "24"), 0),
        (("--memory_bytes", str(24 << 30)), 0),
        ((), 0),
        (("--memory_gib", "0.5"), 1),
        (("--device.memory_bytes", "500000000"), 1),
    ],
)
def test_the_status_states_whether_it_fits(options, status, capsys):
    assert main(["estimate", "--model", "gpt2", "--method", "lora", *options]) == status
    capsys.readouterr()


def test_a_tight_plan_exits_with_1(capsys):
    plan = ["estimate", "--model", "gpt2", "--method", "lora", "--json"]
    main(plan)
    required = json.loads(capsys.readouterr().out)["memory"]["required_bytes"]
    assert main([*plan, "--memory_bytes", str(required - 1)]) == 1
    assert json.loads(capsys.readouterr().out)["fit"]["verdict"] == "tight"


def test_a_config_file_and_a_bare_count_are_models_too(tmp_path, capsys):
    config = tmp_path / "config.json"
    config.write_text(
        '{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, '
        '"intermediate_size": 128, "vocab_size": 100}'
    )
    assert main(["estimate", "--config", str(config), "--method", "lora"]) == 0
    assert "LoRA of llama" in capsys.readouterr().out
    assert main(["estimate", "--model", "70,000,000,000", "--method", "full", "--accounting", "textbook"]) == 0
    assert "560,000,000,000" in capsys.readouterr().out
    assert main(["estimate", "--config", str(config), "--model", "gpt2", "--method", "lora"]) == 2
    assert "not both" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "must be an object"),
        ("{}", "model: "),
        ('{"model": "gpt2", "method": {"name": "lora", "r": 0}}', "method.r: must be at least 1, not 0"),
    ],
)
def test_a_request_without_an_answer_is_reported_and_exits_with_2(text, message, tmp_path, capsys):
    file = tmp_path / "request.json"
    file.write_text(text)
    assert main(["estimate", "--request", str(file)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--r", "many"), "--r: must be a whole number, not 'many'"),
        (("--num_virtual_tokens", "8"), "--num_virtual_tokens: unknown field"),
        (("--gradient_checkpointing", "perhaps"), "--gradient_checkpointing: must be true or false"),
        (("--optimizer", ""), "--optimizer: must be one of"),
        (("--gpu", "abacus"), "--gpu: 'abacus' is not in the catalogue; give its size as --memory_gib"),
        (("--max_grad_norm", "-1"), "--max_grad_norm: must be at least 0"),
    ],
)
def test_an_error_names_the_option(options, message, capsys):
    assert main(["estimate", "--model", "gpt2", "--method", "lora", *options]) == 2
    assert message in capsys.readouterr().err


def test_null_is_a_value_if_a_field_admits_it(capsys):
    assert main(["estimate", "--model", "gpt2", "--method", "lora", "--max_grad_norm", "null"]) == 0
    assert main(["estimate", "--model", "gpt2", "--method", "lora", "--r", "null"]) == 2
    capsys.readouterr()


@pytest.mark.parametrize("arguments", [["imagine"], ["estimate", "--imagine", "1"], ["estimate", "--sequence", "9"]])
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ("--micro_batchsize 4", "--micro_batch_size"),
        ("--per_device_train_batch_size 4", "--micro_batch_size"),
        ("--bf16 true", "--autocast bfloat16"),
        ("--load_in_4bit", "--method qlora"),
        ("--epochs 3", "--num_train_epochs of the command run"),
        ("--save_steps 3", "--save_steps of the command run"),
    ],
)
def test_an_unknown_option_names_the_one_that_was_probably_meant(arguments, meant, capsys):
    with pytest.raises(SystemExit):
        main(["estimate", *arguments.split()])
    lines = capsys.readouterr().err.splitlines()
    assert lines[1].endswith(f"unrecognized arguments: {arguments}: did you mean {meant}?")
    assert len(lines) == 3


def test_an_option_with_the_name_of_an_argument_is_answered_with_the_argument(capsys):
    with pytest.raises(SystemExit):
        main(["cards", "--gpu", "RTX 4090"])
    assert capsys.readouterr().err.endswith("unrecognized arguments: --gpu: GPU is given without --gpu\n")


def test_only_options_of_the_command_are_suggested(capsys):
    with pytest.raises(SystemExit):
        main(["cards", "--bf16"])
    assert capsys.readouterr().err.endswith("unrecognized arguments: --bf16\n")


def test_a_size_in_gib_and_one_in_bytes_exclude_each_other(capsys):
    plan = ["estimate", "--model", "gpt2", "--method", "lora"]
    assert main([*plan, "--memory_gib", "24", "--memory_bytes", "1000"]) == 2
    assert "--memory_bytes: give either --memory_gib or --memory_bytes, not both" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["many", "-1", "9" * 5000])
def test_a_size_that_is_not_a_number_is_refused(size, capsys):
    assert main(["estimate", "--model", "gpt2", "--method", "lora", f"--memory_bytes={size}"]) == 2
    assert "--memory_bytes: must be" in capsys.readouterr().err


#: Files that no command takes for a request.
BROKEN = [
    b"",
    b"{",
    b"[]",
    b"5",
    b"null",
    b"NaN",
    b"\xff\xfe",
    b'{"model": 1e999}',
    b'{"model": "gpt2", "model": "gpt2"}',
    b'{"model": "\\ud800"}',
    b"[" * 100_000,
    b"1" * 5000,
    b'{"model": {"config": []}, "methods": 5}',
    b'{"request": {"model": "gpt2", "method": {"name": "lora"}}, "grid": 5}',
    b'{"request": 5, "grid": {"method.r": [8]}}',
    b'{"request": {"model": "gpt2", "method": 5}, "grid": {"method.r": [8]}}',
    b'{"request": {"model": "gpt2", "method": {"name": "lora"}}, "grid": {"method.r": 8}}',
    b'{"model": null, "method": null, "training": null, "device": null, "needs": null, "serving": null}',
]


@pytest.mark.parametrize("raw", BROKEN, ids=lambda raw: raw[:70].decode("latin-1"))
@pytest.mark.parametrize(
    "command", [*(name for name in PLANNING if name not in ("diagnose", "lengths")), "plan", "inference", "import"]
)
def test_a_broken_file_is_refused_by_every_command(command, raw, tmp_path, capsys):
    file = tmp_path / "request.json"
    file.write_bytes(raw)
    assert main([command, *(() if command == "import" else ("--request",)), str(file)]) == 2
    output = capsys.readouterr()
    assert (output.out, bool(output.err.strip())) == ("", True)


def test_a_limit_equals_the_apis_answer(client, plan, capsys):
    command = ["limits", "--solve_for", "r", *PLAN, "--reserved", "rule"]
    assert main([*command, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == client.post("/api/v1/limits", json={**plan, "solve_for": "r", "reserved": "rule"}).json()
    assert main(command) == 0
    text = capsys.readouterr().out
    assert f"The largest r that fits: {answer['value']:,}" in text
    assert f"{answer['value'] + 1:,}" in text
    assert answer["guarantee"] in text


def test_a_limit_that_no_value_meets_exits_with_1(capsys):
    plan = ["--model", "meta-llama/Llama-3.1-70B", "--method", "lora", "--gpu", "rtx-4090"]
    assert main(["limits", "--solve_for", "micro_batch_size", *plan]) == 1
    assert "No micro_batch_size fits." in capsys.readouterr().out
    assert main(["limits", *plan]) == 2
    assert "--solve_for: is required, one of r, " in capsys.readouterr().err


def test_the_fewest_gpus_are_printed_with_the_run_on_one_fewer(capsys):
    plan = [
        "--model",
        "meta-llama/Llama-3.2-1B",
        "--method",
        "full",
        "--reserved",
        "rule",
        "--memory_bytes",
        "8000000000",
    ]
    assert main(["limits", "--solve_for", "count", "--sharding", "fsdp", "--gradient_checkpointing", *plan]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("The smallest count that fits: ")
    assert [line.split()[1] for line in lines[4:6]] == ["Tight", "Fits"]
    assert main(["limits", "--solve_for", "count", *plan]) == 2
    assert (
        "--sharding: a run without sharding has one GPU: to solve for count, set --sharding to one of ddp"
        in capsys.readouterr().err
    )


def test_the_version_is_that_of_the_project(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"Headroom {VERSION}\n"


def test_without_a_command_the_help_is_printed_and_nothing_is_served(monkeypatch, capsys):
    monkeypatch.setattr(serve.uvicorn, "run", lambda *_, **__: pytest.fail("served"))
    assert main([]) == 2
    output = capsys.readouterr()
    assert (output.out, [name for name in COMMANDS if name not in output.err]) == ("", [])
    with pytest.raises(SystemExit) as left:
        main(["--port", "7"])
    assert left.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["many", "-1", "65536", "9" * 5000])
def test_an_invalid_port_is_refused(port, capsys):
    with pytest.raises(SystemExit) as left:
        main(["serve", f"--port={port}"])
    assert left.value.code == 2
    assert "is not a port: give a whole number from 0 to 65,535" in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["many", "0", "1000", "9" * 5000, ""])
def test_an_invalid_number_of_processes_is_refused(workers, capsys):
    with pytest.raises(SystemExit) as left:
        main(["serve", f"--workers={workers}"])
    assert left.value.code == 2
    assert "is not a number of processes: give 1 to 512" in capsys.readouterr().err


def test_the_served_application_answers_with_a_garbage_collector_that_rarely_runs(monkeypatch):
    before = gc.get_threshold()
    turns = sys.getswitchinterval()
    monkeypatch.setenv("ACCESS_LOG", "0")
    try:
        assert callable(served())
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold()[0] > before[0]
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
        sys.setswitchinterval(turns)


def test_serve_reads_host_and_port_from_its_options_or_the_environment(monkeypatch):
    addresses = []
    monkeypatch.setattr(serve.uvicorn, "run", lambda *_, host, port, **__: addresses.append((host, port)))
    monkeypatch.setattr(serve, "LongProcesses", lambda *_: nullcontext())
    main(["serve"])
    main(["serve", "--port", "7"])
    monkeypatch.setenv("HOST", "0.0.0.0")
    monkeypatch.setenv("PORT", "9001")
    main(["serve"])
    main(["serve", "--host", "::1"])
    assert addresses == [("127.0.0.1", 8000), ("127.0.0.1", 7), ("0.0.0.0", 9001), ("::1", 9001)]


def test_an_export_is_the_apis_file_and_shows_where_it_differs(client, plan, tmp_path, capsys):
    answer = client.post("/api/v1/export", json={**plan, "format": "axolotl"}).json()
    file = tmp_path / "axolotl.yaml"
    assert main(["export", "--format", "axolotl", *PLAN, "--output", str(file)]) == 0
    output = capsys.readouterr()
    assert (file.read_text(), output.out) == (answer["content"], "")
    assert [line.split(": ")[0] for line in output.err.splitlines()] == [
        remark["loc"] for remark in answer["not_expressed"]
    ]
    assert main(["export", *PLAN, "--gpu", "rtx-3060-12gb"]) == 1
    assert "import torch" in capsys.readouterr().out


def test_an_imported_file_is_a_request_that_the_estimate_takes(client, tmp_path, capsys):
    file, request = tmp_path / "axolotl.yaml", tmp_path / "request.json"
    file.write_text("base_model: gpt2\nadapter: lora\nlora_target_linear: true\nbf16: false\nsample_packing: true\n")
    answer = client.post("/api/v1/import", json={"content": file.read_text()}).json()
    assert main(["import", str(file)]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out) == answer["request"]
    assert output.err.startswith("Warning: Headroom does not model sample_packing: true.")
    request.write_text(output.out)
    assert main(["estimate", "--request", str(request)]) == 0
    capsys.readouterr()
    assert main(["import", str(file), "--json", "--model", "gpt2-xl"]) == 0
    assert json.loads(capsys.readouterr().out)["request"]["model"] == "gpt2-xl"


def test_a_file_that_cannot_be_imported_is_reported(tmp_path, capsys):
    file = tmp_path / "none.yaml"
    file.write_text("base_model: gpt2\nadapter: magic\n")
    assert main(["import", str(file)]) == 2
    assert "content.adapter" in capsys.readouterr().err
