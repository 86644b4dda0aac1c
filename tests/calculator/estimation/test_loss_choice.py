"""The error for a loss that no trainer has lists the losses of the trainer that the request names."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.loss_choice import parse_settings
from calculator.planning import trainer_settings


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        (None, "the reference step has no such setting: set training.trainer, or leave it out"),
        ("transformers", "transformers Trainer has no loss_type: leave it out"),
        ("trl-sft", "must be one of 'nll', 'chunked_nll', 'dft' or null"),
        ("trl-kto", "must be one of 'kto', 'apo_zero_unpaired' or null"),
    ],
)
@pytest.mark.parametrize("parse", [parse_settings, trainer_settings.parse_training])
def test_the_losses_are_those_of_the_trainer(parse, trainer, expected):
    with pytest.raises(PlanError) as error:
        parse({"trainer": trainer, "loss_type": "focal"})
    assert [(p.loc, p.msg, p.input) for p in error.value.problems] == [("training.loss_type", expected, "focal")]


def test_other_problems_are_as_they_are():
    with pytest.raises(PlanError) as error:
        parse_settings({"trainer": "trl-sft", "loss_type": "focal", "micro_batch_size": 0})
    assert {p.loc for p in error.value.problems} == {"training.loss_type", "training.micro_batch_size"}
    with pytest.raises(PlanError, match="must be one of 'transformers'"):
        parse_settings({"trainer": "trl", "loss_type": "focal"})
