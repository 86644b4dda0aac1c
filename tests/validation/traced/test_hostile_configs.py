"""An untrusted config.json: what is refused before the model is built, and what its process may not do."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.request import parse_request
from validation.traced.config import checked
from validation.traced.engine import answer
from validation.traced.limits import auditor

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

#: A small Mamba 2, which the calculator does not model.
MAMBA = {
    "model_type": "mamba2",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "vocab_size": 50,
    "state_size": 8,
    "head_dim": 8,
    "num_heads": 8,
    "n_groups": 1,
    "chunk_size": 16,
}


def traced(config, **training):
    body = {"model": {"config": config}, "method": {"name": "full"}, "training": {"sequence_length": 32, **training}}
    return answer(parse_request(body))


def problem(call, *arguments):
    with pytest.raises(PlanError) as refused:
        call(*arguments)
    return refused.value.problems[0]


@pytest.mark.parametrize(
    ("config", "loc"),
    [
        ({"model_type": "no_such_type"}, "model.config.model_type"),
        ({"model_type": ["mamba2"]}, "model.config.model_type"),
        ({"model_type": "../mamba2"}, "model.config.model_type"),
        ({"model_type": "resnet"}, "model.config.model_type"),
        ({**MAMBA, "auto_map": {"AutoModelForCausalLM": "modeling.Model"}}, "model.config.auto_map"),
        ({**MAMBA, "text_config": {"auto_map": {"AutoConfig": "x.Y"}}}, "model.config.text_config.auto_map"),
        ({**MAMBA, "layers": [{"trust_remote_code": True}]}, "model.config.layers.0.trust_remote_code"),
        ({**MAMBA, "output_hidden_states": True}, "model.config.output_hidden_states"),
        ({**MAMBA, "gradient_checkpointing": True}, "model.config.gradient_checkpointing"),
    ],
)
def test_a_config_that_names_code_or_no_language_model_is_refused(config, loc):
    assert problem(checked, config).loc == loc


def test_fields_that_choose_code_or_storage_are_removed_at_any_depth():
    chosen = {
        "_attn_implementation": "somebody/kernel",
        "attn_implementation": "somebody/kernel",
        "quantization_config": {"quant_method": "somebody_package"},
        "torch_dtype": "os.system",
        "_name_or_path": "/etc/passwd",
    }
    assert checked({**MAMBA, **chosen, "text_config": {**chosen, "a": 1}}) == {**MAMBA, "text_config": {"a": 1}}


def test_infinities_are_read_as_transformers_writes_them():
    assert checked({**MAMBA, "time_step_limit": [0.0, {"__float__": "Infinity"}]})["time_step_limit"] == [
        0.0,
        float("inf"),
    ]


def test_releases_of_other_packages_change_no_figure():
    named = {"quantization_config": {"quant_method": "somebody_package"}, "torch_dtype": "float64"}
    assert traced({**MAMBA, **named}).peaks == traced(MAMBA).peaks


@pytest.mark.parametrize(
    "changes", [{"num_hidden_layers": -1}, {"hidden_size": -32}, {"vocab_size": 0}, {"hidden_size": "a"}]
)
def test_sizes_that_no_model_has_are_refused(changes):
    assert problem(traced, {**MAMBA, **changes}).loc in {"model", "training.sequence_length"}


def test_a_model_of_exabytes_is_traced_like_any_other():
    found = traced({**MAMBA, "vocab_size": 10**12})
    assert found.parameters["total"] > 10**13


@pytest.mark.parametrize(
    ("event", "arguments", "error"),
    [
        ("import", ("fla.ops", None, None, None, None), ImportError),
        ("import", ("timm", None, None, None, None), ImportError),
        ("socket.connect", (None, None), PermissionError),
        ("socket.getaddrinfo", ("huggingface.co", 443, 0, 0, 0), PermissionError),
        ("subprocess.Popen", ("sh", (), None, None), PermissionError),
        ("os.system", (b"sh",), PermissionError),
    ],
)
def test_the_process_refuses_other_packages_the_network_and_programs(event, arguments, error):
    with pytest.raises(error, match="a trace does not"):
        auditor(frozenset({"torch", "os"}))(event, arguments)


def test_the_process_imports_what_a_trace_needs():
    for name in ("torch._dynamo", "os"):
        auditor(frozenset({"torch", "os"}))("import", (name, None, None, None, None))
