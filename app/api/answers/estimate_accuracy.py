"""How far similar estimates were from measurements, in an answer."""

from typing import ClassVar

from app.api.answers.answer import Answer, described


class StatisticErrors(Answer):
    """Errors of the estimates of one statistic. An error is estimate divided by measurement, minus one."""

    statistic: str = described(
        "The measured statistic: max_memory_allocated, memory_allocated (at a point of a step),"
        " max_memory_reserved or nvidia_smi.",
        "max_memory_allocated",
    )
    figures: int = described("Number of measurements.", 5)
    configurations: int = described("Number of configurations that were measured.", 4)
    lowest_error: float = described("The lowest error; negative if the estimate is too low.", -0.005194)
    highest_error: float = described("The highest error.", -0.005045)
    median_absolute_error: float = described("The median of the absolute errors.", 0.00517)


class Interval(Answer):
    """The range in which required_bytes of such runs was measured."""

    lowest_bytes: int = described("required_bytes corrected by the highest error.", 9_640_607_744)
    highest_bytes: int = described("required_bytes corrected by the lowest error.", 9_740_607_744)


class Accuracy(Answer):
    """How far estimates of this method were from measurements. See GET /api/v1/validation for every row."""

    keeps_json: ClassVar[bool] = True

    method: str = described("The method that was measured. DoRA is listed under its own name.", "lora")
    sentence: str = described("A summary.", "Estimates of LoRA were compared with 17 measurements: ...")
    errors: tuple[StatisticErrors, ...] = described("The errors per statistic; empty if nothing was measured.", [])
    interval: Interval | None = described(
        "required_bytes corrected by the errors of measured nvidia-smi figures. Null if there are none, or if"
        " peak_reserved_bytes is by the rule: the measurements were compared with replays.",
        None,
    )
