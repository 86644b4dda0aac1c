"""What `GET /api/v1/validation` answers: published measurements row by row, our own, and the peers' figures."""

from functools import cache
from typing import Any

from app.api.accuracy import results
from app.api.answers.estimate import Answer, described

#: What stands in for a results file that does not exist yet.
NOT_MEASURED = "No measurement on a CUDA device by this project yet."


class SourceAnswer(Answer):
    """A publication."""

    name: str = described("Its name in the rows.", "peft_metamathqa")
    title: str = described("Its title.", "PEFT method comparison")
    licence: str = described("The licence of what was read.", "Apache-2.0")
    remark: str = described("What its figures are.", "Result files of method_comparison/MetaMathQA")
    rows: int = described("How many rows of it are shipped.", 58)


class SummaryAnswer(Answer):
    """The errors of a group of figures that a request says whole."""

    by: str = described("What the group is by: all, source, method, statistic or phase.", "method")
    name: str = described("The group.", "lora")
    figures: int = described("How many figures.", 17)
    configurations: int = described("How many configurations they are of.", 6)
    median_absolute_error: float | None = described("The median of the errors' absolute values.", 0.00381)
    lowest_error: float | None = described("The lowest error; below 0 where the estimate was too low.", -0.01346)
    highest_error: float | None = described("The highest error.", 0.00403)


class PeerSourceAnswer(Answer):
    """A peer's errors on a source's figures that a request says whole and that it answers, and ours on the same."""

    source: str = described("The source, or all.", "peft_metamathqa")
    figures: int = described("How many figures.", 3)
    median_absolute_error: float = described("The peer's median absolute error.", 0.071)
    our_median_absolute_error: float = described("Ours on the same figures.", 0.00113)


class PeerAnswer(Answer):
    """Another calculator, run from its own package."""

    name: str = described("Its package.", "fitcheck-llm")
    version: str = described("The version that was asked.", "0.3.1")
    date: str = described("The day on which it was asked.", "2026-11-25")
    sources: tuple[PeerSourceAnswer, ...] = described("Its errors by source.", [{"source": "all", "figures": 23}])


class AdjustmentAnswer(Answer):
    """What the measured stack is known to hold beside the reference step's tensors."""

    name: str = described("What it is.", "the logits stay alive through the backward pass")
    bytes: int = described("Its bytes, computed from the model.", 1_048_576_000)
    source: str = described("Where that is known from.", "transformers 4.39, models/mistral/modeling_mistral.py")


class PeerFigure(Answer):
    """What a peer says of a row."""

    name: str = described("The peer.", "fitcheck-llm")
    bytes: int | None = described("Its figure; null where it has none.", 23_874_371_584)
    error: float | None = described("Its figure over the measured one, less one.", 0.0709)
    reason: str | None = described("Why it has no figure.", None)


class PublishedRow(Answer):
    """A published figure beside the estimate of the same run."""

    id: str = described("Its id: source, row, and what was read.", "peft_metamathqa/29/max_memory_reserved")
    source: str = described("The source's name.", "peft_metamathqa")
    model: str = described("The model, as the source names it.", "meta-llama/Llama-3.2-3B")
    method: str = described("The method: the contract's name where a request says it, else the source's.", "lora")
    setting: str = described("What else the source calls the row.", "lora/llama-3.2-3B-rank32")
    gpu: str = described("The card, as the source names it.", "NVIDIA L40S")
    statistic: str = described("What was read.", "max_memory_reserved")
    point: str | None = described("The point of the step, of memory_allocated.", None)
    address: str = described("Where the figure stands, at a commit.", "https://github.com/huggingface/peft/blob/...")
    date: str | None = described(
        "When it was measured or written down, where that is told.", "2026-07-15T05:41:18+00:00"
    )
    versions: dict[str, str] = described("The versions that the source names.", {"torch": "2.13.0+cu130"})
    expressed: str = described("Whether a request says the run: whole, in part, or not.", "whole")
    protocol: str | None = described("Which script is followed; null where none is.", "buckets")
    request: dict[str, Any] | None = described("The request; null where there is none.", {"method": {"name": "lora"}})
    adjustments: tuple[AdjustmentAnswer, ...] = described("What the stack holds beside, included in the estimate.", [])
    differs: tuple[str, ...] = described("What the request leaves out or has otherwise.", [])
    unknown: tuple[str, ...] = described("What had to be taken for known.", ["the longest padded sequence"])
    remark: str = described("What is known of why the estimate is off.", "")
    measured_bytes: int | None = described("What was measured; null where the run went out of memory.", 22_292_725_760)
    predicted_bytes: int | None = described("The estimate; null where no request says the run.", 22_317_891_584)
    phase: str | None = described("The phase that the estimate's peak lies in.", "backward")
    error: float | None = described("The estimate over what was measured, less one.", 0.001129)
    peers: tuple[PeerFigure, ...] = described("What peers say of it.", [{"name": "fitcheck-llm"}])


#: What a row of the results file has no value for is left out of it.
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
    "peers": (),
}


class PublishedAnswer(Answer):
    """The results of `python -m validation published`."""

    date: str = described("The day on which they were computed.", "2026-11-25")
    stack: str = described("The stack that the estimates speak of.", "PyTorch 2.13 or later on CUDA")
    sources: tuple[SourceAnswer, ...] = described("Whose measurements they are.", [{"name": "peft_metamathqa"}])
    summary: tuple[SummaryAnswer, ...] = described("The errors, all together and by group.", [{"by": "all"}])
    peers: tuple[PeerAnswer, ...] = described("Other calculators on the same rows.", [{"name": "fitcheck-llm"}])
    rows: tuple[PublishedRow, ...] = described("Every figure.", [{"id": "peft_metamathqa/29/max_memory_reserved"}])


class MeasuredAnswer(Answer):
    """The results of `python -m validation measure` on one CUDA device, as its schema.json describes them."""

    environment: dict[str, Any] = described("The device, driver, versions and date.", {"device": "NVIDIA L40S"})
    layers: tuple[dict[str, Any], ...] = described("Single layers, predicted and measured by moment.", [])
    steps: tuple[dict[str, Any], ...] = described("Training steps, predicted and measured.", [])
    verdicts: tuple[dict[str, Any], ...] = described("Runs just above and below what is required.", [])


class ValidationAnswer(Answer):
    """How far estimates were from measurements."""

    published: PublishedAnswer | None = described(
        "Held against what others published; null in a copy without the results.", {"date": "2026-11-25"}
    )
    measured: tuple[MeasuredAnswer, ...] = described("Held against our own measurements, a device each.", [])
    remark: str | None = described("What is missing.", NOT_MEASURED)


@cache
def validation() -> ValidationAnswer:
    """Everything that is committed."""
    ours = tuple(MeasuredAnswer.model_validate(file) for file in results.measured())
    return ValidationAnswer(published=_published(), measured=ours, remark=None if ours else NOT_MEASURED)


def _published() -> PublishedAnswer | None:
    contents = results.published()
    if contents is None:
        return None
    rows = [{**EMPTY, **row, "peers": [_figure(peer) for peer in row.get("peers", ())]} for row in contents["rows"]]
    return PublishedAnswer.model_validate({**contents, "rows": rows})


def _figure(peer: dict[str, Any]) -> dict[str, Any]:
    return {"bytes": None, "error": None, "reason": None, **peer}
