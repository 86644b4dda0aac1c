"""Trainers and tools: each trainer is offered, defaults are settings of a request, forms and commands apply them."""

import json
from urllib.parse import parse_qsl

import pytest

from app.__main__ import main
from app.api.estimate import answer
from app.forms import tool_fields
from app.forms.fields import FIELDS, set_at
from app.forms.plan_form import read
from app.tools import TOOLS
from calculator.estimation.request import parse_request
from calculator.methods import METHODS
from calculator.trainers import TRAINERS

MODEL = "meta-llama/Llama-3.2-1B"


def typed(address):
    return read(parse_qsl(address, keep_blank_values=True))


def body_of(tool, method, **training):
    body = {"model": MODEL, "method": {"name": method}, "reserved": "rule", "training": dict(training)}
    for path, value in TOOLS[tool].settings_for(method).items():
        set_at(body, path.split("."), value)
    return body


def test_every_trainer_of_the_calculator_is_offered_in_its_order():
    offered = [tool.trainer for tool in TOOLS.values() if tool.is_trainer]
    assert offered == list(TRAINERS)
    assert {"axolotl", "llama-factory"} < set(TOOLS)
    assert all(tool.summary.endswith(".") and tool.source for tool in TOOLS.values())


def test_every_trainer_but_the_reference_step_has_defaults_with_a_source():
    for name, loop in TRAINERS.items():
        assert bool(loop.facts.defaults) is (name is not None)
        assert all(default.source for default in loop.facts.defaults)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tools_defaults_are_settings_of_a_request(tool):
    for method in ("full", "lora", "qlora"):
        assert parse_request(body_of(tool, method)).training.trainer == TOOLS[tool].trainer
    for default in TOOLS[tool].defaults:
        field = FIELDS[default.path.rsplit(".", 1)[-1]]
        assert field.value(tool_fields.text_of(default)) == default.value


def test_trls_defaults_leave_nothing_to_warn_about():
    assert answer(body_of("trl-sft", "lora")).warnings == ()
    warned = answer(
        {"model": MODEL, "method": {"name": "lora"}, "training": {"trainer": "trl-sft"}, "reserved": "rule"}
    )
    assert len(warned.warnings) == 3


def test_llama_factory_keeps_trained_weights_in_float32():
    assert TOOLS["llama-factory"].settings_for("full")["training.dtype"] == "float32"
    assert TOOLS["llama-factory"].settings_for("lora")["training.dtype"] == "bfloat16"


def test_a_method_without_a_setting_gets_no_default_of_it():
    path = "method.prepare_model_for_kbit_training"
    assert path in TOOLS["trl-sft"].settings_for("qlora")
    assert path not in TOOLS["trl-sft"].settings_for("ia3")
    assert list(TOOLS["trl-sft"].defaults_for("no-such-method")) == []


def test_another_tool_than_the_form_showed_sets_its_defaults():
    form = typed("tool_shown=reference&tool=axolotl&trainer=&gradient_checkpointing=true&optimizer=sgd&r=32")
    assert form.tool is TOOLS["axolotl"]
    training = form.estimate()["training"]
    assert training["trainer"] == "transformers"
    assert "gradient_checkpointing" not in training
    assert training["gradient_checkpointing_kwargs"] == {"use_reentrant": True}
    assert training["optimizer"] == "adamw_torch_fused"
    assert form.typed["r"] == "32"


def test_the_tool_that_the_form_showed_leaves_changes_alone():
    form = typed("tool_shown=axolotl&tool=axolotl&trainer=transformers&optimizer=sgd&gradient_checkpointing=true")
    assert (form.typed["optimizer"], form.typed["gradient_checkpointing"]) == ("sgd", "true")
    assert "tool=axolotl" in form.address()


def test_the_reference_step_resets_every_setting_of_a_trainer():
    chosen = typed("tool=trl-sft&use_liger_kernel=true&completion_tokens=7&loss_type=nll")
    assert chosen.typed["use_liger_kernel"] == "true"
    back = read([*chosen.typed.items(), ("tool", "reference"), ("tool_shown", "trl-sft")])
    assert back.address() == ""


def test_an_address_with_a_tool_alone_gets_its_defaults_if_it_has_no_field():
    form = typed("tool=trl-sft&dtype=bfloat16")
    assert (form.typed["trainer"], form.typed["autocast"], form.typed["dtype"]) == ("trl-sft", "bfloat16", "bfloat16")
    assert "tool=" not in form.address()


def test_a_trainer_outweighs_a_tool_of_another_trainer():
    form = typed("tool=axolotl&trainer=trl-sft")
    assert (form.tool, form.typed["tool"]) == (TOOLS["trl-sft"], "")
    assert typed("trainer=nobody").tool is None
    assert typed("tool=nobody").tool is TOOLS["reference"]


def test_a_plan_with_other_values_than_its_tools_is_marked():
    rows = tool_fields.settings(TOOLS["trl-sft"], typed("tool=trl-sft&dtype=bfloat16").typed)
    assert [(row.label, row.value, row.instead) for row in rows if row.instead] == [
        ("Precision", "float32", "bfloat16")
    ]
    off = tool_fields.settings(TOOLS["axolotl"], typed("tool=axolotl&use_reentrant=false").typed)
    assert [row.label for row in off if row.instead] == []


def test_the_page_asks_for_the_trainer_first_and_shows_its_defaults(client):
    text = client.get(f"/?model={MODEL}&tool=trl-sft&reserved=rule").text
    assert text.index("Which trainer do you use?") < text.index('for="model"')
    for name, tool in TOOLS.items():
        assert f'id="tool-{name}" name="tool" value="{name}"{" checked" if name == "trl-sft" else ""}>' in text
        assert tool.label in text
    assert "This run has its defaults:" in text
    other = client.get(f"/?model={MODEL}&tool=trl-sft&dtype=bfloat16&reserved=rule").text
    assert "here bfloat16" in other
    assert "Set its defaults" in other


def test_a_trainer_that_does_not_exist_is_refused_at_the_choice(client):
    response = client.get("/?trainer=nobody")
    assert response.status_code == 422
    assert 'href="#trainer"' in response.text


def test_the_api_lists_trainers_and_tools_with_their_defaults(client):
    listed = {trainer["name"]: trainer for trainer in client.get("/api/v1/trainers").json()["trainers"]}
    assert list(listed) == list(TOOLS)
    assert listed["reference"]["trainer"] is None
    values = {default["path"]: default["value"] for default in listed["trl-sft"]["defaults"]}
    assert values["training.dtype"] == "float32"


def test_a_command_starts_from_a_tools_defaults(capsys):
    given = ["estimate", "--model", MODEL, "--method", "lora", "--reserved", "rule", "--json"]
    assert main([*given, "--tool", "trl-sft", "--dtype", "bfloat16"]) == 0
    printed = json.loads(capsys.readouterr().out)
    wanted = answer(
        body_of("trl-sft", "lora")
        | {
            "training": {
                "trainer": "trl-sft",
                "autocast": "bfloat16",
                "gradient_checkpointing": True,
                "optimizer": "adamw_torch_fused",
            }
        }
    )
    assert printed["memory"]["peak_allocated_bytes"] == wanted.memory.peak_allocated_bytes
    assert main([*given, "--tool", "axolotl"]) == 0
    assert "lora_mlp_kernel" in capsys.readouterr().err


def test_every_method_has_defaults_that_its_request_may_have():
    for tool in TOOLS.values():
        for method in METHODS:
            parse_request(body_of(tool.name, method))


def test_a_trainer_that_needs_two_rows_raises_the_batch_and_keeps_a_larger_one():
    assert typed("tool_shown=reference&tool=trl-kto&trainer=&micro_batch_size=1").typed["micro_batch_size"] == "2"
    assert typed("tool=trl-grpo").typed["micro_batch_size"] == "2"
    larger = typed("tool_shown=reference&tool=trl-kto&trainer=&micro_batch_size=6")
    assert larger.typed["micro_batch_size"] == "6"
    assert not any(row.instead for row in tool_fields.settings(TOOLS["trl-kto"], larger.typed))
    (row,) = [
        row
        for row in tool_fields.settings(TOOLS["trl-kto"], typed("trainer=trl-kto").typed)
        if row.value == "at least 2"
    ]
    assert row.instead == "1"


def chosen(form, tool, **typed):
    """Return the form after another tool is chosen, as a browser submits it."""
    hidden = {"tool_shown": form.tool.name, "raised_from": form.raised_from, "tool": tool}
    return read({**form.typed, **hidden, **typed}.items())


@pytest.mark.parametrize("other", ["reference", "trl-sft", "trl-reward", "axolotl"])
def test_a_raised_batch_is_lowered_again_with_another_trainer(other):
    raised = chosen(typed(""), "trl-kto")
    assert (raised.typed["micro_batch_size"], raised.raised_from) == ("2", "1")
    kept = chosen(chosen(raised, "trl-kto", sequence_length="512"), "trl-grpo")
    assert (kept.typed["micro_batch_size"], kept.raised_from) == ("2", "1")
    lowered = chosen(kept, other)
    assert (lowered.typed["micro_batch_size"], lowered.raised_from) == ("1", "")


def test_a_batch_that_is_typed_is_not_lowered():
    assert chosen(typed("micro_batch_size=2"), "trl-kto").raised_from == ""
    larger = chosen(chosen(typed(""), "trl-kto"), "trl-kto", micro_batch_size="4")
    assert (larger.raised_from, chosen(larger, "trl-sft").typed["micro_batch_size"]) == ("", "4")


def test_the_page_has_the_batch_before_a_trainer_raised_it(client):
    page = client.get(f"/?model={MODEL}&tool=trl-kto&reserved=rule").text
    assert 'name="raised_from" id="raised-from" value="1">' in page


@pytest.mark.parametrize("tool", TOOLS)
def test_the_reference_step_after_any_trainer_is_the_first_form(tool):
    first = typed("r=32&sequence_length=512")
    assert chosen(chosen(first, tool), "reference").address() == first.address()


UNSLOTH = {
    "trainer": "unsloth",
    "autocast": "bfloat16",
    "gradient_checkpointing": True,
    "micro_batch_size": 2,
    "sequence_length": 1024,
}


def test_the_interval_of_unsloth_is_on_the_page_in_json_and_on_the_command_line(client, capsys):
    method = {"name": "qlora", "target_modules": ["q_proj"]}
    body = {"model": MODEL, "method": method, "training": UNSLOTH, "reserved": "rule", "device": {"gpu": "T4"}}
    found = client.post("/api/v1/estimate", json=body).json()
    interval = found["memory"]["interval"]
    for name in ("peak_allocated_bytes", "peak_reserved_bytes", "required_bytes"):
        assert interval[name]["low"] <= interval[name]["high"] == found["memory"][name]
    assert interval["lowest_verdict"] == found["fit"]["verdict"] == "fits"
    assert found["accuracy"]["errors"] == []
    address = f"/?model={MODEL}&method=qlora&tool=unsloth&reserved=rule"
    page = client.get(address).text
    assert "The memory is an interval" in page
    assert "Chunks of the loss" in page
    given = ["estimate", "--model", MODEL, "--method", "lora", "--target_modules", "q_proj", "--reserved", "rule"]
    assert main([*given, "--tool", "unsloth"]) == 0
    assert "The memory is an interval" in capsys.readouterr().out
