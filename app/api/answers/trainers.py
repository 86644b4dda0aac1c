"""Answer of `GET /api/v1/trainers`: trainers and tools, and their defaults."""

from typing import Any

from app.api.answers.answer import Answer, described


class DefaultAnswer(Answer):
    """A default of a trainer or tool."""

    path: str = described("The setting's path in a request.", "training.autocast")
    value: Any = described("The default value.", "bfloat16")
    source: str = described("Where the default is written.", "TRL 1.16, trainer/base_config.py, bf16")
    trains_base: bool | None = described(
        "Whether the default is only for methods that train the base weights (true), or only for the others (false);"
        " null if it is for all.",
        None,
    )
    is_least: bool = described(
        "Whether the value is the least that the trainer accepts, so that a request with more keeps its own.", False
    )


class TrainerAnswer(Answer):
    """A trainer, or a tool that runs one."""

    name: str = described("Its name; `reference` is the reference step.", "trl-sft")
    label: str = described("The name that the pages show.", "TRL SFTTrainer")
    trainer: str | None = described(
        "The trainer whose step it runs. Pass it as `training.trainer` in a request; null is the reference step.",
        "trl-sft",
    )
    summary: str = described("What the choice changes.", "The loss depends on TRL's release.")
    source: str = described("Where its step is written.", "trl/trainer/sft_trainer.py")
    defaults: tuple[DefaultAnswer, ...] = described(
        "Its own defaults. A run that leaves a setting out has these.",
        [{"path": "training.autocast", "value": "bfloat16"}],
    )
    not_modelled: str = described("What is not modeled of it; empty if its full step is.", "")


class TrainerList(Answer):
    """Every trainer and tool."""

    trainers: tuple[TrainerAnswer, ...] = described("Every trainer and tool.", [{"name": "trl-sft"}])
