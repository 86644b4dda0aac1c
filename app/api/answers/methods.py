"""Answer of `GET /api/v1/methods`: the fine-tuning methods and their settings."""

from typing import Any

from app.api.answers.answer import Answer, described


class MethodSetting(Answer):
    """A setting of a method."""

    name: str = described("The field's name, as in PEFT.", "r")
    label: str = described("The name that the pages show.", "Rank")
    help: str = described("What the setting does.", "The rank r of the update.")
    default: Any = described("The default value.", 8)
    minimum: float | None = described("The smallest allowed value; null if there is no limit.", 1)
    maximum: float | None = described("The largest allowed value; null if there is no limit.", 65_536)
    choices: tuple[Any, ...] = described("The allowed values, if they are a fixed list.", [])
    unit: str = described("The unit; empty if there is none.", "")


class MethodAnswer(Answer):
    """A fine-tuning method and its settings."""

    name: str = described("The method's name. Pass it as `method.name` in a request.", "lora")
    label: str = described("The name that the pages show.", "LoRA")
    summary: str = described("What the method is.", "A low-rank update added to frozen weights.")
    trainable: str = described(
        "What the method trains, as a formula.", "r · (in_features + out_features) per adapted matrix"
    )
    inference_overhead: str = described("What the method costs at inference.", "none once merged")
    mergeable: bool | None = described(
        "Whether the trained parameters can be merged into the base weights; null if the method adds none.", True
    )
    best_for: str = described("When to choose the method.", "most fine-tuning")
    source: str = described("Source of these statements.", "Hu et al. 2021, arXiv 2106.09685, section 4.1")
    settings: tuple[MethodSetting, ...] = described("The settings, in order.", [{"name": "r", "default": 8}])


class MethodList(Answer):
    """Every fine-tuning method."""

    methods: tuple[MethodAnswer, ...] = described("Every method.", [{"name": "lora"}])
