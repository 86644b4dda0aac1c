"""Answer of `GET /api/v1/validation`: published measurements, our own measurements, and other calculators."""

from functools import cache
from typing import Any

from app.api.accuracy import results
from app.api.answers.answer import Answer, described
from app.api.answers.speeds import SpeedsAnswer, speeds

#: The remark of an answer without our own measurements.
NOT_MEASURED = "No measurement on a CUDA device by this project yet."


class SourceAnswer(Answer):
    """A publication."""

    name: str = described("The name that the rows use.", "peft_metamathqa")
    title: str = described("The title.", "PEFT method comparison")
    licence: str = described("The licence of the publication's data.", "Apache-2.0")
    remark: str = described("What the figures are.", "Result files of method_comparison/MetaMathQA")
    rows: int = described("Number of rows from this publication.", 58)


class SummaryAnswer(Answer):
    """The errors of a group of figures whose run a request describes completely."""

    by: str = described("How the group is formed: all, source, method, statistic or phase.", "method")
    name: str = described("The name of the group.", "lora")
    figures: int = described("Number of figures.", 17)
    configurations: int = described("Number of configurations that were measured.", 6)
    median_absolute_error: float | None = described("The median of the absolute errors.", 0.00381)
    lowest_error: float | None = described("The lowest error; negative if the estimate is too low.", -0.01346)
    highest_error: float | None = described("The highest error.", 0.00403)
    cuda_figures: int = described("How many of their estimates differ with device.type cuda.", 8)
    cuda_median_absolute_error: float | None = described(
        "The median of the absolute errors with device.type cuda.", 0.00379
    )


class ErrorRange(Answer):
    """The errors of some figures."""

    median_absolute_error: float = described("The median of the absolute errors.", 0.0021)
    lowest_error: float = described("The lowest error; negative if the figure is too low.", -0.0322)
    highest_error: float = described("The highest error.", 0.0236)


class ProcessMemoryAnswer(Answer):
    """The errors of process memory of one source and method, by both ways to compute reserved memory."""

    source: str = described("The source's name.", "peft_metamathqa")
    method: str = described("The method, or all.", "lora")
    figures: int = described("Number of figures.", 2)
    replay: ErrorRange = described("By a replay of the allocator, the default.", {"median_absolute_error": 0.0003})
    rule: ErrorRange = described("By the rule of sweeps.", {"median_absolute_error": 0.0823})


class NearLimitAnswer(Answer):
    """The runs that nearly filled their GPU."""

    share: float = described("The least share of the GPU that such a run used, or needs at least.", 0.9)
    rows: tuple[str, ...] = described(
        "The ids of their figures, the nearest to the limit first.", ["fms_acceleration/8/nvidia_smi"]
    )


class PeerSourceAnswer(Answer):
    """The errors of another calculator on the figures of one source, and ours on the same figures."""

    source: str = described("The source's name, or all.", "peft_metamathqa")
    figures: int = described("Number of figures.", 3)
    median_absolute_error: float = described("The other calculator's median absolute error.", 0.071)
    our_median_absolute_error: float = described("Our median absolute error on the same figures.", 0.00113)


class PeerAnswer(Answer):
    """Another calculator, run from its published package."""

    name: str = described("The package name.", "fitcheck-llm")
    version: str = described("The version that was run.", "0.3.1")
    date: str = described("The date of the run.", "2026-11-25")
    sources: tuple[PeerSourceAnswer, ...] = described("The errors per source.", [{"source": "all", "figures": 23}])


class AdjustmentAnswer(Answer):
    """Tensors that the measured software keeps in addition to those of the reference step."""

    name: str = described("What the tensors are.", "the logits stay alive through the backward pass")
    bytes: int = described("Their size, computed from the model.", 1_048_576_000)
    source: str = described("Source of this statement.", "transformers 4.39, models/mistral/modeling_mistral.py")


class PeerFigure(Answer):
    """Another calculator's figure for a row."""

    name: str = described("The calculator's package name.", "fitcheck-llm")
    bytes: int | None = described("The figure; null if the calculator has none.", 23_874_371_584)
    error: float | None = described("The figure divided by the measurement, minus one.", 0.0709)
    reason: str | None = described("Why there is no figure; null if there is one.", None)


class PublishedRow(Answer):
    """A published measurement and the estimate of the same run."""

    id: str = described("The id: source, row and statistic.", "peft_metamathqa/29/max_memory_reserved")
    source: str = described("The source's name.", "peft_metamathqa")
    model: str = described("The model, as the source names it.", "meta-llama/Llama-3.2-3B")
    method: str = described("The method, as a request names it; as the source names it if no request does.", "lora")
    setting: str = described("The source's name for the configuration.", "lora/llama-3.2-3B-rank32")
    gpu: str = described("The GPU, as the source names it.", "NVIDIA L40S")
    statistic: str = described("The measured statistic.", "max_memory_reserved")
    point: str | None = described(
        "The point of the step at which memory_allocated was read; null for other statistics.", None
    )
    address: str = described("The URL of the figure, at a commit.", "https://github.com/huggingface/peft/blob/...")
    date: str | None = described("When it was measured or published; null if unknown.", "2026-07-15T05:41:18+00:00")
    versions: dict[str, str] = described("The versions that the source names.", {"torch": "2.13.0+cu130"})
    expressed: str = described("How much of the run a request describes: whole, in part, or not.", "whole")
    protocol: str | None = described("The script that the run follows; null if there is none.", "buckets")
    request: dict[str, Any] | None = described(
        "The request that describes the run; null if there is none.", {"method": {"name": "lora"}}
    )
    adjustments: tuple[AdjustmentAnswer, ...] = described(
        "Additional tensors of the measured software, included in the estimate.", []
    )
    differs: tuple[str, ...] = described("Where the request differs from the run.", [])
    unknown: tuple[str, ...] = described(
        "What the source does not state and we had to assume.", ["the longest padded sequence"]
    )
    remark: str = described("Why the estimate deviates, as far as known.", "")
    measured_bytes: int | None = described("The measurement; null if the run ended out of memory.", 22_292_725_760)
    predicted_bytes: int | None = described("The estimate; null if no request describes the run.", 22_317_891_584)
    phase: str | None = described("The phase of the estimated peak.", "backward")
    error: float | None = described("The estimate divided by the measurement, minus one.", 0.001129)
    blocks_bytes: int | None = described(
        "Of an allocated peak, the same with each block counted whole, as max_memory_allocated counts it, by replay.",
        None,
    )
    blocks_error: float | None = described("The error of blocks_bytes.", None)
    cuda_bytes: int | None = described("The estimate with device.type cuda; null if it is predicted_bytes.", None)
    cuda_error: float | None = described("The error of cuda_bytes.", None)
    verdict: str | None = described(
        "The verdict on the run's own GPU, on which it ran; null without a request or a known GPU.", "fits"
    )
    usable_bytes: int | None = described("What that GPU offers a process.", 47_670_951_936)
    minimum_bytes: int | None = described("The smallest such memory on which the run was found to run.", 22_808_625_152)
    retries_per_step: int | None = described("How often cached blocks are freed for a request in a step.", 0)
    rule_bytes: int | None = described("The figure of process memory by the rule of sweeps.", 24_113_053_696)
    peers: tuple[PeerFigure, ...] = described("Figures of other calculators.", [{"name": "fitcheck-llm"}])


#: Values of the fields that a row of the results file omits.
EMPTY: dict[str, Any] = {
    "setting": "",
    "point": None,
    "date": None,
    "versions": {},
    "protocol": None,
    "request": None,
    "adjustments": (),
    "differs": (),
    "unknown": (),
    "remark": "",
    "measured_bytes": None,
    "predicted_bytes": None,
    "phase": None,
    "error": None,
    "blocks_bytes": None,
    "blocks_error": None,
    "cuda_bytes": None,
    "cuda_error": None,
    "verdict": None,
    "usable_bytes": None,
    "minimum_bytes": None,
    "retries_per_step": None,
    "rule_bytes": None,
    "peers": (),
}


class PublishedAnswer(Answer):
    """The results of `python -m validation published`."""

    date: str = described("The date on which the estimates were computed.", "2026-11-25")
    stack: str = described("The software that the estimates describe.", "PyTorch 2.14 on CUDA")
    sources: tuple[SourceAnswer, ...] = described("The publications.", [{"name": "peft_metamathqa"}])
    summary: tuple[SummaryAnswer, ...] = described("The errors, in total and per group.", [{"by": "all"}])
    process_memory: tuple[ProcessMemoryAnswer, ...] = described(
        "The errors of process memory (nvidia-smi, reserved peak), by source and method.",
        [{"source": "peft_metamathqa"}],
    )
    verdicts: dict[str, int] = described(
        "How many runs have each verdict on their own GPU. All of them ran.",
        {"fits": 66, "tight": 0, "does_not_fit": 0},
    )
    near_limit: NearLimitAnswer = described("Which of the runs were near that limit.", {"share": 0.9})
    peers: tuple[PeerAnswer, ...] = described("Other calculators on the same rows.", [{"name": "fitcheck-llm"}])
    rows: tuple[PublishedRow, ...] = described(
        "Every published figure.", [{"id": "peft_metamathqa/29/max_memory_reserved"}]
    )


class MeasuredAnswer(Answer):
    """The results of `python -m validation measure` on one CUDA device, as its schema.json describes them."""

    environment: dict[str, Any] = described("The device, driver, versions and date.", {"device": "NVIDIA L40S"})
    layers: tuple[dict[str, Any], ...] = described("Single layers: estimates and measurements at several moments.", [])
    steps: tuple[dict[str, Any], ...] = described("Training steps: estimates and measurements.", [])
    verdicts: tuple[dict[str, Any], ...] = described(
        "Runs with slightly more and slightly less memory than required.", []
    )


class ValidationAnswer(Answer):
    """How far estimates were from measurements."""

    published: PublishedAnswer | None = described(
        "Comparison with published measurements; null if the results are not installed.", {"date": "2026-11-25"}
    )
    measured: tuple[MeasuredAnswer, ...] = described("Comparison with our own measurements, one entry per device.", [])
    remark: str | None = described("What is missing; null if nothing is.", NOT_MEASURED)
    speeds: SpeedsAnswer = described("Published speeds, and how intervals compare with them.", {"coverage": []})


@cache
def validation() -> ValidationAnswer:
    """Return every committed result."""
    ours = tuple(MeasuredAnswer.model_validate(file) for file in results.measured())
    return ValidationAnswer(
        published=_published(), measured=ours, remark=None if ours else NOT_MEASURED, speeds=speeds()
    )


def _published() -> PublishedAnswer | None:
    contents = results.published()
    if contents is None:
        return None
    rows = [{**EMPTY, **row, "peers": [_figure(peer) for peer in row.get("peers", ())]} for row in contents["rows"]]
    return PublishedAnswer.model_validate({**contents, "rows": rows})


def _figure(peer: dict[str, Any]) -> dict[str, Any]:
    return {"bytes": None, "error": None, "reason": None, **peer}
