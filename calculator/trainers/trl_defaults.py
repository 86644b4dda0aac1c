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
    """Return the default that a micro-batch has at least 2 rows."""
    return TrainerDefault(path="training.micro_batch_size", value=2, source=source, is_least=True)


def generation_defaults(config: str) -> tuple[TrainerDefault, ...]:
    """Return the defaults of a trainer that generates completions. `config` is the module of its arguments."""
    source = f"TRL 1.16, trainer/{config}"
    length = TrainerDefault(path="training.max_completion_length", value=512, source=f"{source}, max_completion_length")
    return (*DEFAULTS, least_rows(f"{source}, num_generations: 2 completions of a prompt or more"), length)
