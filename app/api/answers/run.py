"""Answer of `POST /api/v1/run`: every phase of a run, the files of a checkpoint, and the verdict."""

from dataclasses import asdict
from typing import Any

from pydantic import model_validator

from app.api.answers.answer import Answer, described
from app.api.answers.estimate import ModelSummary, settings
from app.api.answers.interval import IntervalAnswer
from app.api.answers.memory import Row
from app.presentation import run_text, speed_text
from calculator.devices import Verdict
from calculator.run.answer import Resource, RunPhaseName, WholeRun
from calculator.run.time import RunTime


class RunPhaseAnswer(Answer):
    """A phase of a run. Sizes are whole bytes."""

    name: RunPhaseName = described("The phase.", "evaluation")
    gpu_bytes: int = described(
        "The live tensors at the phase's peak; each is rounded up to a multiple of 512 bytes.", 37_712_229_888
    )
    operation: str = described("What runs at the peak.", "loss: total weight")
    resident_bytes: int = described(
        "The part of gpu_bytes that the phase finds: weights, optimizer states, the last batch.", 16_563_891_200
    )
    rows: tuple[Row, ...] = described(
        "What the phase adds at its peak. Empty for training steps, whose rows an estimate has.",
        [{"name": "logits in float32", "bytes": 8_405_385_216}],
    )
    required_bytes: int = described(
        "Reserved memory and the CUDA context. For phases other than the training step, live tensors and workspaces"
        " rounded up to whole segments.",
        38_168_166_400,
    )
    host_bytes: int = described(
        "What the phase adds to the resident set (RSS) of the process, mapped files included.", 16_060_522_496
    )
    host_high_bytes: int = described(
        "The most that host_bytes can be. It is larger only if experts' weights are cast while they are loaded:"
        " glibc's malloc may keep what is freed of them.",
        16_060_522_496,
    )
    host_file_bytes: int = described(
        "The part of host_bytes that is mapped files, which the system drops if it needs memory.", 16_060_522_496
    )
    host: str = described("Where host_bytes come from.", "The mapped files, which are read and copied to the GPU.")
    disk_bytes: int = described(
        "The most bytes on the disk in the phase: checkpoints and a merged model.", 1_007_645_222
    )
    verdict: Verdict | None = described("The verdict on the GPU; null without a device.", "does_not_fit")
    ends_by: Resource | None = described("What the run runs out of in this phase; null if nothing.", "gpu")
    may_end_by: Resource | None = described(
        "The host, if its limit has room for host_bytes and not for host_high_bytes; the verdict is tight then.", None
    )


class SavedFileAnswer(Answer):
    """A file that the run writes."""

    name: str = described("The name of the file.", "adapter_model.safetensors")
    bytes: int = described("Its exact size.", 167_832_240)
    source: str = described("What it consists of.", "safetensors: an 8-byte length, a JSON header, and the tensors")


class ListCostAnswer(Answer):
    """The cost of the run at a cloud's list price."""

    cloud: str = described("The cloud.", "Modal")
    price_per_hour: float = described("Its price for an hour of one GPU.", 2.4984)
    currency: str = described("The currency.", "USD")
    date: str = described("The day on which the price was read.", "2026-05-07")
    source: str = described("Who read it, and where.", "https://techbytes.app/posts/serverless-gpu-pricing-matrix")
    cost: IntervalAnswer = described("The cost of the training steps.", {"low": 3.1, "high": 6.4})


class PublishedSpeedAnswer(Answer):
    """A published run that is near this one."""

    source: str = described("The publication.", "fms-acceleration benchmarks")
    place: str = described("Where in it the figure is.", "Mistral-7B-v0.1, lora, batch 4")
    address: str = described("Its URL.", "https://github.com/foundation-model-stack/fms-acceleration")
    tokens_per_second: float = described("The published speed.", 3324.155)
    efficiency: float = described("What it reached of its GPU's rated speed.", 0.499)


class RunTimeAnswer(Answer):
    """The time and the cost of the training steps, without loading, evaluation, checkpoints and merging."""

    tokens_per_second: IntervalAnswer = described("The speed of the steps.", {"low": 1424.7, "high": 3353.8})
    seconds_per_step: IntervalAnswer = described("The time of one optimizer step.", {"low": 0.61, "high": 1.44})
    hours: IntervalAnswer = described("The time of all steps.", {"low": 0.17, "high": 0.4})
    efficiency: IntervalAnswer = described(
        "What a run of a further source reaches of its GPU's rated speed, with a probability of 80 %.",
        {"low": 0.24, "high": 0.55},
    )
    steps: int = described("The optimizer steps of the run.", 1000)
    cost: IntervalAnswer | None = described(
        "The cost at device.price_per_hour, in its currency; null without a price.", {"low": 0.42, "high": 1.0}
    )
    list_costs: tuple[ListCostAnswer, ...] = described(
        "The cost at list prices of some clouds, each with its date; empty if none lists the GPU.",
        [{"cloud": "Modal"}],
    )
    published: tuple[PublishedSpeedAnswer, ...] = described(
        "The published runs that the interval comes from.", [{"efficiency": 0.499}]
    )
    accuracy: str = described(
        "How such intervals compare with speeds of a source that is left out.",
        "Of 57 published speeds, the interval that the other sources give contains 23.",
    )


class UnansweredPhaseAnswer(Answer):
    """A phase of the run without figures."""

    name: RunPhaseName = described("The phase.", "evaluation")
    reason: str = described(
        "Why it has none.", "TRL GRPOTrainer generates completions of the evaluation set and scores them."
    )


class RunAnswer(Answer):
    """Every phase of a run, and the verdict on the whole."""

    model: ModelSummary = described("The model that is trained.", {"id": "meta-llama/Llama-3.1-8B"})
    method: dict[str, Any] = described("The method with every setting.", {"name": "lora", "r": 16})
    run: dict[str, Any] = described("The settings of the run.", {"per_device_eval_batch_size": 8})
    phases: tuple[RunPhaseAnswer, ...] = described("The phases, in order.", [{"name": "load"}])
    unanswered: tuple[UnansweredPhaseAnswer, ...] = described(
        "Phases of the run without figures, which the verdict does not count; mostly empty.", [{"name": "evaluation"}]
    )
    verdict: Verdict | None = described(
        "The verdict on the run: the worst of the phases with figures; null without a device and without limits.",
        "does_not_fit",
    )
    ended_in: RunPhaseName | None = described("The phase that ends the run; null if none does.", "evaluation")
    sentence: str = described("The verdict in words.", "The run ends in the evaluation: it needs 35.55 GiB of the GPU.")
    files: tuple[SavedFileAnswer, ...] = described(
        "The large files of one checkpoint; empty if none is written.", [{"name": "optimizer.pt", "bytes": 335_990_371}]
    )
    checkpoint_bytes: int = described("The size of one checkpoint.", 503_822_611)
    checkpoints_on_disk: int = described(
        "The most checkpoints on the disk at once; a new one is complete before an older one is deleted.", 3
    )
    merged_files: tuple[SavedFileAnswer, ...] = described(
        "The files of the merged model; empty if nothing is merged.", [{"name": "model.safetensors"}]
    )
    time: RunTimeAnswer | None = described(
        "How long the training steps take, and what they cost; null if no published run is near, or the GPU's speed is"
        " not known.",
        {"hours": {"low": 0.17, "high": 0.4}},
    )
    time_refusal: str = described("Why time is null; empty if it is not.", "")
    assumptions: tuple[str, ...] = described("What the figures assume.", ["PyTorch 2.14, transformers 5.24, peft 0.21"])
    warnings: tuple[str, ...] = described("Risks worth knowing.", [])

    @model_validator(mode="before")
    @classmethod
    def _with_settings(cls, value: Any) -> Any:
        if not isinstance(value, WholeRun):
            return value
        ended = value.ended_in
        return {
            "model": value.estimate.model,
            "method": settings(value.estimate.method),
            "run": asdict(value.run),
            "phases": [_phase(phase) for phase in value.phases],
            "unanswered": [{"name": phase.name, "reason": phase.reason} for phase in value.unanswered],
            "verdict": value.verdict,
            "ended_in": ended and ended.name,
            "sentence": run_text.sentence(value),
            "files": value.files,
            "checkpoint_bytes": value.checkpoint_bytes,
            "checkpoints_on_disk": value.run.checkpoints_on_disk,
            "merged_files": value.merged_files,
            "time": value.time and _time(value.time),
            "time_refusal": value.time_refusal,
            "assumptions": value.assumptions,
            "warnings": value.warnings,
        }


def _time(time: RunTime) -> dict[str, Any]:
    speed = time.speed
    return {
        "tokens_per_second": speed.tokens_per_second,
        "seconds_per_step": speed.seconds_per_step,
        "hours": time.hours,
        "efficiency": speed.efficiency,
        "steps": time.steps,
        "cost": time.cost,
        "list_costs": [
            {
                "cloud": cost.price.cloud,
                "price_per_hour": cost.price.per_hour,
                "currency": cost.price.currency,
                "date": cost.price.date,
                "source": f"{cost.price.source}: {cost.price.address}",
                "cost": cost.cost,
            }
            for cost in time.list_costs
        ],
        "published": [
            {
                "source": run.source.title,
                "place": run.place,
                "address": run.source.address,
                "tokens_per_second": run.tokens_per_second,
                "efficiency": run.efficiency,
            }
            for run in speed.runs
        ],
        "accuracy": speed_text.accuracy(),
    }


def _phase(phase: Any) -> dict[str, Any]:
    names = RunPhaseAnswer.model_fields.keys() - {"verdict"}
    return {**{name: getattr(phase, name) for name in names}, "verdict": phase.fit and phase.fit.verdict}
