from math import inf

import pytest
import torch
from torch import nn

from validation.prove import digits, intrinsic
from validation.prove.experiment import Setting
from validation.prove.fine_tuning import TuningResult
from validation.prove.intrinsic import EXPERIMENT, steps
from validation.prove.spectrum import energy, singular_values
from validation.prove.subspace import Subspace, intrinsic_dimension

CPU = torch.device("cpu")

pytestmark = pytest.mark.filterwarnings("ignore")


def run():
    done = []
    findings = EXPERIMENT.run(Setting(device=CPU, quick=True, step=lambda: done.append(1)))
    assert len(done) == steps(True)
    return findings.to_json()


def test_a_quick_run_is_reproducible():
    first = run()
    assert run() == first
    assert [claim["id"] for claim in first["claims"]] == [
        "intrinsic-dimension",
        "intrinsic-pretrained",
        "low-rank-accuracy",
        "low-rank-update",
        "low-rank-regulariser",
    ]
    assert [curve["id"] for curve in first["curves"]] == ["accuracy-by-rank", "subspace", "spectrum", "singular-values"]


def tuned(**changed):
    fields = {
        "parameters": 10_000,
        "before": 0.1,
        "full": 1.0,
        "full_gap": 0.05,
        "updates": (torch.eye(64), torch.outer(torch.ones(64), torch.ones(64)), torch.eye(64)),
        "lora": {4: 0.995},
        "lora_gap": {4: 0.01},
        "subspace": {"pretrained": {64: 0.95}, "random": {64: 0.5, 128: 0.95}},
    }
    return TuningResult(**fields | changed)


def kinds(**changed):
    runs = {change: [tuned(**changed)] for change in intrinsic.CHANGES}
    plan = intrinsic.Plan(seeds=1, ranks=(4,))
    found = (
        intrinsic._far_smaller(runs),
        intrinsic._specializes(runs),
        intrinsic._as_good(runs, plan),
        intrinsic._low_rank(runs),
        intrinsic._regularizer(runs, plan),
    )
    return [claim.kind for claim in found]


def test_figures_as_the_lesson_expects_them_hold():
    assert kinds() == ["holds"] * 5


@pytest.mark.parametrize(
    ("changed", "failing"),
    [
        ({"subspace": {"pretrained": {4096: 0.95}, "random": {4096: 0.95}}}, [0]),
        ({"subspace": {"pretrained": {64: 0.1}, "random": {64: 0.95}}}, [0, 1]),
        ({"lora": {4: 0.98}}, [2]),
        ({"updates": (torch.eye(64),) * 3}, [3]),
        ({"lora_gap": {4: 0.06}}, [4]),
    ],
)
def test_other_figures_do_not_hold(changed, failing):
    assert [i for i, kind in enumerate(kinds(**changed)) if kind == "does not hold"] == failing


def test_the_intrinsic_dimension_is_the_first_that_reaches_90_per_cent_or_infinite():
    assert intrinsic_dimension({8: 0.5, 64: 0.9, 128: 1.0}, full=1.0) == 64
    assert intrinsic_dimension({8: 0.5}, full=1.0) == inf


def test_a_subspace_starts_at_the_network_and_trains_only_its_coordinates():
    torch.manual_seed(0)
    network = digits.network(8, CPU)
    before = [parameter.clone() for parameter in network.parameters()]
    model = Subspace(network, 4)
    on = digits.task(0, CPU)
    assert torch.equal(model(on.images), network(on.images))
    assert [tuple(parameter.shape) for parameter in model.parameters()] == [(4,)]
    digits.train(model, model.parameters(), on, steps=2, lr=0.1)
    assert not torch.allclose(model(on.images), network(on.images))
    assert all(torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))


def test_as_many_directions_as_parameters_reach_any_parameters():
    torch.manual_seed(0)
    network = nn.Linear(2, 2)
    model = Subspace(network, 6)
    wanted = torch.randn(6)
    model.z.data = torch.linalg.solve(model.directions, wanted)
    x = torch.randn(3, 2)
    expected = x @ (network.weight + wanted[:4].view(2, 2)).T + network.bias + wanted[4:]
    assert torch.allclose(model(x), expected, atol=1e-4)


def test_a_matrix_of_rank_one_has_all_its_energy_in_the_first_value():
    update = torch.outer(torch.arange(1.0, 5), torch.arange(1.0, 4))
    assert energy(update).tolist() == pytest.approx([1, 1, 1])
    assert singular_values(torch.diag(torch.tensor([3.0, 6.0]))).tolist() == [1, 0.5]
    assert energy(torch.eye(4)).tolist() == pytest.approx([0.25, 0.5, 0.75, 1])
