"""The training loops that a request can name. A loop is registered by its place in `TRAINERS`."""

from typing import get_args

from calculator.common.names import TrainerName
from calculator.inputs.training import Training
from calculator.trainers.loop import Loop
from calculator.trainers.reference.loop import Reference
from calculator.trainers.torchtune.loop import Torchtune
from calculator.trainers.transformers.loop import Transformers
from calculator.trainers.trl_dpo.loop import TrlDpo
from calculator.trainers.trl_grpo.loop import TrlGrpo
from calculator.trainers.trl_kto.loop import TrlKto
from calculator.trainers.trl_orpo.loop import TrlOrpo
from calculator.trainers.trl_reward.loop import TrlReward
from calculator.trainers.trl_rloo.loop import TrlRloo
from calculator.trainers.trl_sft.loop import TrlSft
from calculator.trainers.unsloth.loop import Unsloth

#: Every training loop by the name that a request gives. None is the reference step.
TRAINERS: dict[TrainerName | None, Loop] = {
    loop.name: loop
    for loop in (
        Reference(),
        Transformers(),
        TrlSft(),
        TrlDpo(),
        TrlKto(),
        TrlOrpo(),
        TrlReward(),
        TrlGrpo(),
        TrlRloo(),
        Unsloth(),
        Torchtune(),
    )
}

if set(TRAINERS) != {None, *get_args(TrainerName)}:
    raise AssertionError("every trainer that a request may name has its loop")


def trainer_of(training: Training) -> Loop:
    """Return the training loop that the settings name."""
    return TRAINERS[training.trainer]


__all__ = ["TRAINERS", "Loop", "trainer_of"]
