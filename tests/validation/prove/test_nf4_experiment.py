import pytest
import torch

from validation.prove import bits, four_bit_error
from validation.prove.code_books import FP4, LEVELS, NF4, codes, relative_error, round_by_bitsandbytes, round_trip
from validation.prove.experiment import Setting
from validation.prove.four_bit_error import Weights
from validation.prove.nf4 import EXPERIMENT, steps

CPU = torch.device("cpu")

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def found():
    done = []
    torch.manual_seed(0)
    findings = EXPERIMENT.run(Setting(device=CPU, quick=True, step=lambda: done.append(1)))
    assert len(done) == steps(True)
    return findings


def test_the_verdicts_on_nf4(found):
    kinds = {claim.id: claim.kind for claim in found.claims}
    assert kinds.pop("nf4-trained")
    assert kinds == {
        "nf4-levels": "holds",
        "nf4-equal-mass": "does not hold",
        "nf4-gaussian": "holds",
        "nf4-kernels": "holds",
        "nf4-bits": "does not hold",
    }


def test_a_level_has_its_share_of_a_gaussian_by_the_quantiles_and_in_blocks(found):
    (curve,) = (curve for curve in found.curves if curve.id == "nf4-levels")
    assert [series.x for series in curve.series] == [LEVELS[NF4]] * 2
    assert [sum(series.y) for series in curve.series] == pytest.approx([100, 100], rel=0.01)


def test_a_weight_has_4_5_bits_or_about_4_13(found):
    (claim,) = (claim for claim in found.claims if claim.id == "nf4-bits")
    figures = {figure.key: figure.value for figure in claim.figures}
    shared = 32 * 16 / 512**2
    assert figures["single"] == 4 + 32 / 64 + shared
    assert figures["double"] == pytest.approx(4 + 8 / 64 + 32 / (64 * 256) + shared + 32 * 257 / 512**2)
    assert figures["beyond"] == 0


def test_uniform_weights_have_a_smaller_error_with_even_levels():
    even = Weights(key="even", name="even", samples=(torch.rand(1 << 14) * 2 - 1,))
    assert even.against_best.value > 1
    assert four_bit_error._claim_of_least_error([even], id="x", lesson="", done="").kind == "does not hold"


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("name", [NF4, FP4])
def test_quantizing_by_the_table_of_levels_equals_bitsandbytes(name, double_quant):
    weights = torch.randn(4096)
    ours = round_trip(weights, LEVELS[name], double_quant=double_quant)
    assert torch.equal(ours, round_by_bitsandbytes(weights, name.lower(), double_quant=double_quant))


def test_a_wrong_table_of_levels_is_detected(monkeypatch):
    monkeypatch.setitem(LEVELS, NF4, tuple(level * 0.99 for level in LEVELS[NF4]))
    kind = Weights(key="x", name="x", samples=(torch.randn(4096),))
    assert four_bit_error._kernels(kind).kind == "does not hold"


def test_a_block_of_zeros_stays_zero():
    nearest, constants = codes(torch.zeros(64), LEVELS[NF4])
    assert constants.tolist() == [[0]]
    assert set(nearest.flatten().tolist()) == {LEVELS[NF4].index(0)}


def test_the_error_is_0_if_nothing_is_lost_and_1_if_everything_is():
    weights = torch.randn(64)
    assert relative_error(weights, weights) == 0
    assert relative_error(weights, torch.zeros(64)) == 1


def test_a_missing_constant_is_detected(monkeypatch):
    monkeypatch.setattr(bits, "quantization_constants", lambda _: iter(()))
    claim, _ = bits.bits(Setting(device=CPU, quick=True, step=lambda: None))
    assert "bytes in which the calculator differs" in claim.words
