"""BAdam in LLaMA-Factory's files, and LISA in axolotl's."""

import pytest

from app.interop.exports import FORMATS
from app.interop.exports.planned import planned
from app.interop.imports import read
from calculator.common.errors import PlanError
from calculator.estimation.request import parse_request

MODEL = "meta-llama/Llama-3.2-1B"
BADAM = f"model_name_or_path: {MODEL}\nfinetuning_type: full\nuse_badam: true\ncutoff_len: 512\nbf16: true\n"
LISA = f"base_model: {MODEL}\nlisa_n_layers: 4\nlisa_step_interval: 20\nsequence_len: 512\nattn_implementation: sdpa\n"


def exported(method, format_):
    body = {"model": MODEL, "method": {"name": "full", **method}, "training": {"trainer": "transformers"}}
    return FORMATS[format_](planned(parse_request(body)))


def test_badam_is_read_with_weights_in_half_precision_and_without_checkpointing():
    found = read(f"{BADAM}badam_switch_mode: descending\nbadam_verbose: 2\n")
    method, training = found.request["method"], found.request["training"]
    assert method["use_badam"]
    assert method["badam_switch_mode"] == "descending"
    assert (training["dtype"], training["autocast"], training["gradient_checkpointing"]) == (
        "bfloat16",
        "bfloat16",
        False,
    )
    assert "badam_verbose" in found.without_effect
    (missed,) = found.not_understood
    assert "checkpoints only layers with trained parameters" in missed.why
    assert parse_request(found.request).method.use_badam


def test_an_interval_of_minus_one_changes_the_block_in_every_step():
    found = read(f"{BADAM}badam_switch_interval: -1\ndisable_gradient_checkpointing: true\n")
    assert found.request["method"]["badam_switch_interval"] == 1
    assert "every 1 steps" in found.not_understood[0].why


def test_badam_with_an_adapter_is_refused_by_llama_factory():
    (missed,) = [remark for remark in read(BADAM.replace("full", "lora")).not_understood if remark.key == "use_badam"]
    assert "only the adapter" in missed.why


def test_lisa_is_read_only_if_both_of_its_numbers_are_set():
    assert read(LISA).request["method"] == {"name": "full", "lisa_n_layers": 4, "lisa_step_interval": 20}
    without = LISA.replace("lisa_step_interval: 20\n", "")
    assert read(without).request["method"] == {"name": "full"}


@pytest.mark.parametrize(
    ("method", "format_"),
    [
        ({"use_badam": True, "badam_switch_mode": "fixed", "badam_start_block": 3}, "llama-factory"),
        ({"lisa_n_layers": 2, "lisa_step_interval": 5}, "axolotl"),
    ],
)
def test_badam_and_lisa_survive_a_round_trip_through_a_tools_file(method, format_):
    file = exported(method, format_)
    assert not [remark for remark in file.not_expressed if remark.loc.startswith("method")]
    read_back = read(file.content).request["method"]
    assert {name: read_back[name] for name in method} == method


def test_other_tools_state_that_every_weight_is_trained():
    (missed,) = [
        remark for remark in exported({"lisa_n_layers": 2}, "llama-factory").not_expressed if "lisa" in remark.loc
    ]
    assert "has no LISA" in missed.why
    with pytest.raises(PlanError, match="use format llama-factory"):
        exported({"use_badam": True}, "peft")
