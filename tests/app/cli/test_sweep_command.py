"""`python -m app sweep` prints what POST /api/v1/sweep answers, or one line per point."""

import json

import pytest

from app.__main__ import main

SWEEP = ("sweep", "--model", "gpt2", "--gpu", "rtx-4090", "--grid", "method=lora,prefix", "--grid", "r=4,8")
SWEPT = {
    "request": {"model": "gpt2", "device": {"gpu": "rtx-4090"}},
    "grid": {"method.name": ["lora", "prefix"], "method.r": [4, 8]},
}


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_a_sweep_equals_the_apis_answer(kind, client, capsys):
    assert main([*SWEEP, f"--{kind}"]) == 0
    body = {**SWEPT, "format": {"json": "ndjson"}.get(kind, kind)}
    assert capsys.readouterr().out == client.post("/api/v1/sweep", json=body).text


def test_a_sweep_as_text_has_a_line_a_point(capsys):
    assert main([*SWEEP, "--grid", "model=gpt2,openai-community/gpt2-xl", "--r", "99"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["method.name", "method.r", "model"]
    assert len(lines) == 8
    assert "method.r: unknown field" in lines[-1]


def test_options_extend_the_sweep_of_a_file(tmp_path, capsys):
    file = tmp_path / "sweep.json"
    file.write_text(json.dumps({**SWEPT, "format": "csv"}))
    options = ["--method.r", "2", "--grid", 'target_modules=["all-linear",["c_attn"],null]', "--sequence_length", "64"]
    assert main(["sweep", "--request", str(file), *options, "--json"]) == 0
    points = [json.loads(line)["point"] for line in capsys.readouterr().out.splitlines()]
    assert points[1] == {"method.name": "lora", "method.r": 4, "method.target_modules": ["c_attn"]}
    assert len(points) == 12


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({**SWEPT, "grid": 5}, "grid: must be an object of lists"),
        ({**SWEPT, "grid": None}, "grid: must be an object of lists"),
        ({**SWEPT, "request": 5}, "request: must be an estimate's request"),
        ({"grid": SWEPT["grid"]}, "request.model: must be"),
    ],
)
def test_a_sweeps_file_is_refused_if_it_is_wrong(stated, message, tmp_path, capsys):
    file = tmp_path / "sweep.json"
    file.write_text(json.dumps(stated))
    assert main(["sweep", "--request", str(file), "--grid", "sequence_length=64"]) == 2
    assert capsys.readouterr().err.startswith(message)


def test_a_sweep_of_which_nothing_fits_exits_with_1(capsys):
    plan = ["sweep", "--model", "gpt2", "--method", "lora", "--grid", "device.memory_bytes=1000,2000"]
    assert main(plan) == 1
    assert main(["sweep", "--model", "gpt2", "--method", "lora", "--grid", "r=1"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ((), "--grid: is required, such as --grid r=8,16"),
        (("r",), "FIELD=VALUE"),
        (("color=red",), "--grid color: is not a field of a request, such as --sequence_length or --r"),
        (("r=4", "method.r=8"), "--grid: give each field once"),
    ],
)
def test_a_wrong_grid_exits_with_2(grid, message, capsys):
    plan = ["sweep", "--model", "gpt2", "--method", "lora"]
    assert main([*plan, *(option for axis in grid for option in ("--grid", axis))]) == 2
    assert message in capsys.readouterr().err


def test_progress_is_shown_on_a_terminal_while_rows_are_redirected(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("app.cli.sweep_progress.UPDATE_SECONDS", 0)
    main([*SWEEP, "--json"])
    progress, remark, _ = capsys.readouterr().err.split("\n")
    assert progress.split("\r")[1:] == [f"{number} of 4 points" for number in range(1, 5)]
    assert remark.startswith("2 of 4 points are refused")


LORA = ("sweep", "--model", "gpt2", "--method", "lora", "--gpu", "rtx-4090")
CHECKPOINTED = ("sweep", "--model", "gpt2", "--gpu", "rtx-4090", "--gradient_checkpointing", "--grid")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ((*LORA, "--grid", "r=8,16"), 0),
        ((*LORA, "--grid", "r=hello"), 2),
        ((*LORA, "--grid", "r=8,hello"), 2),
        ((*LORA, "--grid", "r=8,,16"), 2),
        ((*LORA, "--grid", "r=8,99999"), 2),
        ((*LORA, "--grid", "gpu=t4,abacus"), 2),
        ((*LORA, "--grid", "model=gpt2,nobody/nothing"), 2),
        ((*LORA, "--grid", "target_modules=[[5],null]"), 2),
        ((*LORA, "--grid", "sequence_length=64,2048", "--grid", "r=8,16"), 2),
        ((*LORA, "--grid", "sequence_length=64,2048", "--grid", "model=gpt2,meta-llama/Llama-3.2-1B"), 0),
        ((*CHECKPOINTED, "method=lora,prefix"), 0),
        ((*CHECKPOINTED, "method=lora,prefix,magic"), 2),
        ((*CHECKPOINTED, "method=prefix"), 2),
        (("sweep", "--model", "gpt2", "--method", "prefix", "--grid", "gradient_checkpointing=true,false"), 2),
        (("sweep", "--model", "gpt2", "--memory_gib", "0.1", "--gradient_checkpointing", "--grid", "method=lora"), 1),
        ((*CHECKPOINTED, "method=lora,prefix", "--grid", "device.gpu=[null]", "--memory_gib", "0.1"), 1),
    ],
    ids=lambda options: " ".join(options[3:]) if isinstance(options, tuple) else None,
)
def test_the_status_distinguishes_a_wrong_grid_from_refused_combinations(arguments, status, capsys):
    assert main(list(arguments)) == status
    capsys.readouterr()


def test_refusals_are_reported_next_to_the_rows(capsys):
    assert main([*LORA, "--grid", "r=8,hello,0", "--json"]) == 2
    output = capsys.readouterr()
    assert len(output.out.splitlines()) == 3
    assert output.err.splitlines() == [
        "2 of 3 points are refused, the first for method.r: must be a whole number",
        "No point can have method.r hello: must be a whole number",
        "No point can have method.r 0: must be at least 1",
    ]


def test_combinations_that_the_stack_refuses_are_only_counted(capsys):
    assert main([*CHECKPOINTED, "method=lora,prefix"]) == 0
    (remark,) = capsys.readouterr().err.splitlines()
    assert remark.startswith("1 of 2 points is refused, the first for training.gradient_checkpointing: ")


def test_of_many_wrong_values_the_first_are_listed(capsys):
    assert main([*LORA, "--grid", f"r=8,{','.join(f'r{number}' for number in range(30))}"]) == 2
    remarks = capsys.readouterr().err.splitlines()
    assert (len(remarks), remarks[-1]) == (12, "Nor 20 more values of the grid")


def test_a_sweep_without_refused_points_prints_only_rows(capsys):
    assert main([*LORA, "--grid", "r=8"]) == 0
    assert capsys.readouterr().err == ""


def test_a_sweep_is_printed_in_one_format(capsys):
    assert main([*LORA, "--grid", "r=8", "--csv", "--json"]) == 2
    assert capsys.readouterr().err == "--csv: give either --csv or --json, not both\n"
