"""LoRA+: the optimizer's parameter groups. tests/cases/lora_layers.jsonl has traced steps."""

import pytest

from app.interop.exports import export
from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request


def request(method="lora", device=None, **training):
    return parse_request(
        {
            "model": "meta-llama/Llama-3.2-1B",
            "method": {"name": method},
            "training": {"sequence_length": 64, "loraplus_lr_ratio": 16, **training},
            "device": device or {},
            "reserved": "rule",
        }
    )


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"method": "full"}, "has no B: use lora or qlora"),
        ({"trainer": "transformers"}, "leave the trainer out"),
        ({"device": {"count": 2, "sharding": "ddp"}}, "on one GPU only"),
    ],
    ids=str,
)
def test_loraplus_is_refused_if_its_groups_are_not_modeled(changed, why):
    with pytest.raises(PlanError) as error:
        estimate(request(**changed))
    ((loc, message),) = [(problem.loc, problem.msg) for problem in error.value.problems]
    assert (loc, why in message) == ("training.loraplus_lr_ratio", True)


def test_the_step_has_the_temporaries_of_the_larger_group():
    """AdamW allocates a list for each group: B of q_proj and v_proj has 2,048 and 512 rows, A of both 2,048 columns."""
    peaks = [
        next(phase.peak_bytes for phase in estimate(request(loraplus_lr_ratio=ratio)).memory.phases[2:])
        for ratio in (None, 16)
    ]
    assert peaks[0] - peaks[1] == 16 * 4 * 8 * (2048 + 512)


@pytest.mark.parametrize(
    ("tool", "written"),
    [
        ("peft", "model, torch.optim.AdamW, loraplus_lr_ratio=16, lr=LEARNING_RATE, foreach=True"),
        ("axolotl", "loraplus_lr_ratio: 16"),
        ("llama-factory", "loraplus_lr_ratio: 16"),
    ],
)
def test_exports_have_the_ratio(tool, written):
    content = export(request(), tool).content
    assert written in content
    assert "peft.optimizers import create_loraplus_optimizer" in content or tool != "peft"
