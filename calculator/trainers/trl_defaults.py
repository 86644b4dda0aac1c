"""The defaults that TRL's trainers share.

Source: trl/trainer/base_config.py; trl/trainer/utils.py, create_model_from_path.
"""

from calculator.trainers.facts import TrainerDefault
from calculator.trainers.transformers.facts import OPTIMIZER

_CONFIG = "TRL 1.16, trainer/base_config.py"

DEFAULTS = (
    TrainerDefault(path="training.autocast", value="bfloat16", source=f"{_CONFIG}, bf16"),
    TrainerDefault(path="training.gradient_checkpointing", value=True, source=f"{_CONFIG}, gradient_checkpointing"),
    TrainerDefault(
        path="training.dtype",
        value="float32",
        source="a model given by its name: TRL 1.16, trainer/utils.py, create_model_from_path",
    ),
    TrainerDefault(
        path="method.prepare_model_for_kbit_training", value=False, source="TRL 1.16, trainer/sft_trainer.py, __init__"
    ),
    OPTIMIZER,
)


def least_rows(source: str) -> TrainerDefault:
    """Return that a micro-batch has 2 rows or more."""
    return TrainerDefault(path="training.micro_batch_size", value=2, source=source, is_least=True)
