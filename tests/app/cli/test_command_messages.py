"""Errors of the command line name its options where the API names dotted paths and JSON."""

import json

import pytest

from app.__main__ import main

GPT2 = ("estimate", "--model", "gpt2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "dora"), "--method: 'dora' is not a method; did you mean --method lora --use_dora true?"),
        (
            ("--method", "galore"),
            "did you mean --method full --optimizer galore_adamw --optim_target_modules all-linear?",
        ),
        (
            ("--method", "corda"),
            "did you mean --method lora --init_lora_weights corda --target_modules q_proj,v_proj?",
        ),
        (
            ("--method", "lora", "--gpu", "rtx-4090", "--sharding", "fsdp"),
            "--count: fsdp needs 2 GPUs or more: set --count 2, or --sharding none",
        ),
        (
            ("--method", "lora", "--gpu", "rtx-4090", "--memory_gib", "24"),
            "--memory_gib: give either it or --gpu (GeForce RTX 4090), not both",
        ),
        (("--method", "lora", "--reserved", "ruel"), "--reserved: must be one of 'rule', 'replay', not 'ruel'"),
    ],
)
def test_a_message_names_options(options, message, capsys):
    assert main([*GPT2, *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["estimate"], ["--model", "--method"]),
        (["run", "--method", "lora"], ["--model"]),
        (["compare"], ["--model"]),
        (["inference"], ["--model"]),
        (["plan"], ["--model", "--gpu"]),
        (["sweep", "--grid", "r=8"], ["--model", "--method"]),
    ],
)
def test_missing_options_are_named_with_an_example(arguments, options, capsys):
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == options
    assert all("is required, such as --" in line for line in lines)


def test_an_error_in_a_file_names_the_path_in_the_file(tmp_path, capsys):
    file = tmp_path / "request.json"
    file.write_text(json.dumps({"model": "gpt2", "method": {"name": "dora"}}))
    assert main(["estimate", "--request", str(file)]) == 2
    assert 'method.name: \'dora\' is not a method; did you mean {"name": "lora"' in capsys.readouterr().err
