import pytest
import torch

from validation.prove.by_hand import by_hand
from validation.prove.experiment import Setting
from validation.prove.identity import EXPERIMENT, Pair, differing_bits, steps

CPU = torch.device("cpu")

pytestmark = pytest.mark.filterwarnings("ignore")


def test_with_b_zero_the_model_equals_its_base_bit_for_bit():
    done = []
    found = EXPERIMENT.run(Setting(device=CPU, quick=True, step=lambda: done.append(1)))
    assert [claim.words for claim in found.claims] == ["holds"] * 5
    assert len(done) == steps(True)


@pytest.mark.parametrize("name", ["lora", "qlora"])
def test_a_nonzero_b_is_detected(name):
    pair = Pair({"name": name}, "float32", CPU)
    pair.fill("lora_B", 1e-3)
    assert differing_bits(pair.logits(), pair.base) > 0


def test_a_nonzero_up_projection_is_detected():
    pair = Pair({"name": "adapter"}, "float32", CPU)
    assert differing_bits(pair.logits(), pair.base) > 0


def test_bits_distinguish_negative_zero_from_zero():
    assert differing_bits(torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0])) == 1
    assert differing_bits(torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.bfloat16)) == 0


def test_the_product_by_hand_shows_that_r_is_not_the_rank():
    claim = by_hand(CPU)
    figures = {figure.key: figure.value for figure in claim.figures}
    assert claim.kind != "does not hold"
    assert (figures["first"], figures["second"]) == pytest.approx((3.045, 7.06))
    assert (figures["at_rank_one_first"], figures["at_rank_one_second"]) == pytest.approx((3.09, 7.12))
    assert figures["rank"] == 1
