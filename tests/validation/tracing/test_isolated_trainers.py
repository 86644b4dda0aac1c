"""Traces of TRL's trainers and of Liger's kernels, each in a process of its own."""

from functools import cache

import pytest

from calculator.common.errors import PlanError
from tests.validation.tracing.test_trainer_step import CONFIG
from validation.reference.trainers.build import check_release
from validation.tracing.isolation import each_alone

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

B, S, H, V, I, LAYERS = 2, 256, 64, 20_000, 160, 3
T = B * S

PLAIN = {"trainer": "transformers"}
LIGER = {"trainer": "transformers", "use_liger_kernel": True}
SFT = {"trainer": "trl-sft"}
HALF = {"trainer": "trl-sft", "completion_tokens": T // 2}


def phases(training):
    from validation.comparison.show import traced_body

    common = {"micro_batch_size": B, "sequence_length": S, "autocast": "bfloat16"}
    body = {"model": {"config": {**CONFIG, "vocab_size": V}}, "method": {"name": "lora", "target_modules": ["q_proj"]}}
    return traced_body({**body, "training": {**common, **dict(training)}}).phases


@cache
def traced():
    """The phases of each recipe."""
    recipes = [tuple(recipe.items()) for recipe in (PLAIN, LIGER, SFT, HALF)]
    return dict(each_alone(phases, recipes, 1))


def peak(recipe):
    return max(traced()[tuple(recipe.items())].values())


def test_a_fused_loss_never_builds_the_logits():
    logits = 4 * T * V
    assert peak(PLAIN) > 3 * logits
    assert peak(LIGER) - peak(PLAIN) < -2.5 * logits
    assert peak(SFT) - peak(PLAIN) < -2 * logits


def test_tokens_without_a_label_take_no_part_in_the_fused_loss():
    tile = 2 * min(T // 2, 4096) * min(V, 32_768)
    assert peak(SFT) - peak(HALF) >= tile


def test_another_release_of_trl_is_refused_with_the_command_that_installs_it():
    check_release("1.16")
    with pytest.raises(PlanError, match=r"pip install --no-deps --target trl-1.9 'trl==1.9"):
        check_release("1.9")
