import pytest
import torch
from torch import nn

from validation.prove.experiment import Setting
from validation.prove.merged_layer import Layer
from validation.prove.merging import EXPERIMENT, _dense, steps, tolerance
from validation.prove.unmergeable import NOT_ROUNDED, ROUNDED, defect

CPU = torch.device("cpu")

pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_verdicts_on_merging():
    done = []
    torch.manual_seed(0)
    found = EXPERIMENT.run(Setting(device=CPU, quick=True, step=lambda: done.append(1)))
    assert {claim.id: claim.kind for claim in found.claims} == {
        "merge-float32": "holds within",
        "merge-bfloat16": "holds within",
        "merge-nf4": "does not hold",
        "merge-update": "does not hold",
        "unmergeable": "holds within",
    }
    assert len(done) == steps(True)


def test_a_merge_with_a_wrong_scaling_is_detected(monkeypatch):
    def half(layer):
        layer.module.get_submodule("base_layer").weight.data += (layer.update() / 2).float()
        layer.module.merged_adapters.append("default")

    monkeypatch.setattr(Layer, "merge", half)
    claim = _dense(64, torch.float32, Setting(device=CPU, quick=True, step=lambda: None))
    assert claim.kind == "does not hold"


def test_the_tolerance_is_a_few_roundings():
    assert tolerance(1, torch.float32) == 2 * torch.finfo(torch.float32).eps
    assert tolerance(1024, torch.bfloat16) == pytest.approx(1.5 * 2**-7, rel=1e-3)


@pytest.mark.parametrize("four_bit", [False, True])
def test_a_layers_update_has_the_requested_size(four_bit):
    layer = Layer(128, torch.bfloat16, CPU, size=0.25, four_bit=four_bit)
    assert float(layer.update().norm() / layer.weight().norm()) == pytest.approx(0.25)
    x = torch.randn(8, 128, dtype=torch.bfloat16)
    expected = x.double() @ (layer.weight() + layer.update()).T
    assert float((layer.output(x).double() - expected).norm() / expected.norm()) < tolerance(128, torch.bfloat16)


def test_a_four_bit_layer_is_pefts():
    assert type(Layer(64, torch.bfloat16, CPU, size=0.1, four_bit=True).module).__name__ == "Linear4bit"


def test_a_linear_layer_is_affine_and_a_square_is_not():
    torch.manual_seed(0)
    assert defect(nn.Linear(8, 8), 8, CPU) < ROUNDED
    assert defect(torch.square, 8, CPU) > NOT_ROUNDED
