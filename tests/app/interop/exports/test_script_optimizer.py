"""The script makes the optimizer of the figures, and steps as it needs."""

import runpy

import bitsandbytes as bnb
import pytest
import torch
from transformers.optimization import Adafactor

from app.interop.exports import export, script_optimizer
from calculator.common.errors import PlanError
from calculator.estimation.request import parse_request
from calculator.resident.optimizers import OPTIMIZERS
from tests.app.interop.exports.scripts import (
    body,
    optimizing,
    script,
)
from tests.tiny_models import LLAMA
from validation.reference.build import build_model
from validation.reference.optimizers import optimizer_for

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(
    "name", [name for name, optimizer in OPTIMIZERS.items() if not optimizer.package and name not in ("muon", "lorafa")]
)
def test_the_optimizer_is_the_one_of_the_figures(name):
    trainable = [torch.nn.Parameter(torch.zeros(2, 2))]
    names = {"torch": torch, "bnb": bnb, "Adafactor": Adafactor, "trainable": trainable, "LEARNING_RATE": 1e-4}
    ours, theirs = eval(script_optimizer.OPTIMIZERS[name], names), optimizer_for(name, trainable)
    assert type(ours) is type(theirs)
    assert ours.defaults == theirs.defaults
    if name not in ("sgd", "adafactor", "adagrad", "rmsprop") and "torch" not in name:
        assert (vars(ours.args), ours.is_paged) == (vars(theirs.args), theirs.is_paged)


def test_the_script_of_lorafa_lists_what_is_trained_after_a_is_frozen():
    text = script(body({"name": "lora"}, LLAMA, optimizer="lorafa"))
    assert "from peft.optimizers import create_lorafa_optimizer" in text
    assert text.count("optimizer = create_lorafa_optimizer(") == 1
    assert text.index("create_lorafa_optimizer(\n") < text.index("trainable = [")
    compile(text, "train.py", "exec")


@pytest.mark.parametrize("tool", ["axolotl", "llama-factory"])
def test_a_file_with_lorafa_is_refused(tool):
    request = parse_request(body({"name": "lora"}, LLAMA, optimizer="lorafa"))
    with pytest.raises(PlanError, match=r"training\.optimizer: only a script makes .*: export the peft script"):
        export(request, tool)


def test_the_script_of_muon_updates_hidden_matrices_with_it(tmp_path):
    request = body({"name": "full"}, LLAMA, optimizer="muon")
    file = tmp_path / "train.py"
    file.write_text(script(request))
    made = runpy.run_path(str(file))["MuonWithAdamW"]
    model = build_model(parse_request(request)).model
    muon, adamw = made(model, lr=1e-4).optimizers
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert type(muon) is torch.optim.Muon
    assert {names[id(param)].split(".")[-2] for group in muon.param_groups for param in group["params"]} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    assert len(adamw.param_groups[0]["params"]) + len(muon.param_groups[0]["params"]) == len(names)


@pytest.mark.parametrize("name", [name for name, optimizer in OPTIMIZERS.items() if optimizer.package])
def test_a_script_imports_the_package_of_its_optimizer(name):
    text = script(body({"name": "full"}, LLAMA, **optimizing(name)))
    module = script_optimizer.MODULES[OPTIMIZERS[name].package]
    assert f"\nimport {module}\n" in text
    call = "lambda group: " if OPTIMIZERS[name].layerwise else "optimizer = "
    assert f" {call}{module}." in text
    assert ("optimizer.train()" in text) == name.startswith("schedule_free")


def test_the_script_projects_the_gradients_of_the_figures(tmp_path):
    request = body({"name": "full"}, LLAMA, **optimizing("galore_adamw", ["q_proj"]), optim_args="rank=8")
    text = script(request).replace("import galore_torch\n", "")
    file = tmp_path / "train.py"
    file.write_text(text)
    model = build_model(parse_request(request)).model
    others, projected = runpy.run_path(str(file))["projected"](model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all(names[id(parameter)].endswith("q_proj.weight") for parameter in projected.pop("params"))
    assert projected == {"rank": 8, "update_proj_gap": 200, "scale": 0.25, "proj_type": "std"}
    assert not any("q_proj" in names[id(param)] for param in others["params"])


def test_the_script_of_released_gradients_steps_in_the_backward_pass(tmp_path):
    file = tmp_path / "train.py"
    file.write_text(script(body({"name": "full"}, LLAMA, optimizer_in_bwd=True)))
    made = runpy.run_path(str(file))["OptimizerPerParameter"]
    weight = torch.nn.Parameter(torch.ones(2, 2))
    made([{"params": [weight]}], lambda trainable: torch.optim.SGD(trainable, lr=1.0))
    weight.sum().backward()
    assert weight.grad is None
    assert torch.equal(weight, torch.zeros(2, 2))
    assert "optimizer.step()" not in file.read_text()


@pytest.mark.parametrize("name", ["lomo", "adalomo"])
def test_the_script_of_lomo_calls_its_backward(name):
    text = script(body({"name": "full"}, LLAMA, optimizer=name))
    assert "    optimizer.fused_backward(loss, LEARNING_RATE)\n" in text
    assert "loss.backward()" not in text


@pytest.mark.parametrize(("init", "function"), [("corda", "preprocess_corda"), ("eva", "initialize_lora_eva_weights")])
def test_a_script_states_what_an_initialization_runs_on_samples(init, function):
    method = {"name": "lora", "init_lora_weights": init, "target_modules": ["q_proj"]}
    exported = export(parse_request(body(method, LLAMA)), "peft")
    stated = [remark.why for remark in exported.not_expressed if remark.loc == "method.init_lora_weights"]
    assert len(stated) == 1
    assert function in stated[0]
    assert function in exported.content
