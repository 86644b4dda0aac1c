"""Options with several values accept commas, or a JSON list as in a request."""

import pytest

from app.__main__ import main
from calculator.common.errors import PlanError


def test_names_are_comma_separated_or_a_list_as_in_a_request(capsys):
    plan = ["estimate", "--model", "gpt2", "--method", "lora", "--json"]
    answers = []
    for typed in ("c_attn,c_proj", "c_attn c_proj", '["c_attn","c_proj"]', ' ["c_attn", "c_proj"]'):
        assert main([*plan, "--target_modules", typed]) == 0
        answers.append(capsys.readouterr().out)
    assert len(set(answers)) == 1
    compared = [main(["compare", "--model", "gpt2", "--methods", typed]) for typed in ("lora,full", '["lora","full"]')]
    first, second = capsys.readouterr().out.split("Method")[1:]
    assert (compared, first) == ([0, 0], second)


@pytest.mark.parametrize("typed", ['["c_attn",', "[1]", '[["c_attn"]]', "[" * 5000])
def test_a_value_that_is_not_a_list_of_names_is_refused(typed, capsys):
    assert main(["estimate", "--model", "gpt2", "--method", "lora", "--target_modules", typed]) == 2
    assert "--target_modules: must be one of 'all-linear' or a list of names" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "--model", "gpt2", "--methods", '["lora"'], "--methods: '[\"lora\"' is not JSON"),
        (["compare", "--model", "gpt2", "--methods", "[5]"], "--methods: must be one of full"),
        (["plan", "--model", '["gpt2"', "--gpu", "t4"], "--model: '[\"gpt2\"' is not JSON"),
        (
            ["plan", "--model", "[5]", "--gpu", "t4"],
            "--model: must be a catalogue id or a hub URL, not 5. Or give its config.json with --config",
        ),
        (["plan", "--model", "gpt2", "--gpus", "[5]"], "--gpus: must be a string"),
    ],
)
def test_a_list_with_wrong_items_is_refused(arguments, message, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(message)


def test_models_and_gpus_are_comma_separated_or_lists(monkeypatch):
    planned = []

    def plan(request):
        planned.append(request)
        raise PlanError

    monkeypatch.setattr("app.cli.plan.plan", plan)
    ways = (("gpt2, openai-community/gpt2-xl", "t4,l4"), ('["gpt2", "openai-community/gpt2-xl"]', '["t4", "l4"]'))
    for models, cards in ways:
        assert main(["plan", "--model", models, "--gpus", cards, "--priorities", '["memory"]', "--json"]) == 2
    assert planned[0] == planned[1]
    assert [model.id for model in planned[0].models] == ["gpt2", "openai-community/gpt2-xl"]
    assert [device.requested.gpu for device in planned[0].devices] == ["t4", "l4"]


def test_a_plan_refuses_an_option_that_is_given_twice(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["plan", "--model", "gpt2", "--gpu", "t4", "--gpu", "l4"])
    assert exit_.value.code == 2
    assert "given twice, as t4 and l4: --gpus takes a list" in capsys.readouterr().err
