"""The part of `GET /api/v1/validation` about speeds: published runs, and the intervals that other sources give them."""

from typing import Any

from app.api.answers.answer import Answer, described
from calculator.speed.interval import coverage
from calculator.speed.prediction import LEVEL
from calculator.speed.published import Kind, PublishedRun, published_runs


class SpeedRunAnswer(Answer):
    """A published run with its speed."""

    source: str = described("The name of the publication.", "fms_acceleration")
    place: str = described("Where in it the figure is.", "Mistral-7B-v0.1, lora, batch 4")
    address: str = described("Its URL.", "https://github.com/foundation-model-stack/fms-acceleration")
    date: str = described("When it was published.", "2025-02-07")
    gpu: str = described("The GPU.", "a100-sxm4-80gb")
    kind: Kind = described("The kind of the run.", "frozen in 16 bits")
    request: dict[str, Any] = described("The request that describes it.", {"model": "mistralai/Mistral-7B-v0.1"})
    tokens_per_second: float = described("The published speed.", 3324.155)
    efficiency: float = described(
        "The cost of the run at its GPU's rated speeds, divided by the time that it took. Above 1, a part of its"
        " description is wrong, and it counts nowhere.",
        0.499,
    )
    differs: tuple[str, ...] = described("Where the request differs from the run.", ["torch.compile is on"])
    left_out: str = described("Why runs of the source count in no interval; empty if they do.", "")


class SpeedCoverageAnswer(Answer):
    """How many published speeds of a source are in the intervals that the other sources give."""

    source: str = described("The source that is left out; empty for all, one after the other.", "qwen")
    title: str = described("Its title; empty for all.", "Qwen's profiling of memory and speed")
    runs: int = described("Runs with an interval.", 14)
    covered: int = described("Those whose speed is in it.", 5)
    refused: int = described("Runs without one, because no other three sources have a run near them.", 4)
    width: float | None = described("The median of the most over the least of the intervals; null without any.", 3.3)
    sources: int = described("The sources with an interval.", 1)
    share: float | None = described(
        "The covered share of the runs of each source, averaged over the sources; null without any.", 0.8
    )


class SpeedsAnswer(Answer):
    """Published speeds, and how intervals of speed compare with them."""

    level: float = described("The share of further sources whose speed an interval is made to contain.", 0.8)
    coverage: tuple[SpeedCoverageAnswer, ...] = described("All sources that count first, then each.", [{"covered": 20}])
    runs: tuple[SpeedRunAnswer, ...] = described("The published runs.", [{"tokens_per_second": 3324.155}])


def speeds() -> SpeedsAnswer:
    """Return the published speeds, and the coverage of the intervals."""
    titles = {run.source.name: run.source.title for run in published_runs()}
    return SpeedsAnswer(
        level=LEVEL,
        coverage=tuple(
            SpeedCoverageAnswer(
                source=source.source,
                title=titles.get(source.source, ""),
                runs=source.runs,
                covered=source.covered,
                refused=source.refused,
                width=source.width,
                sources=source.sources,
                share=source.share,
            )
            for source in coverage()
        ),
        runs=tuple(map(_run, published_runs())),
    )


def _run(run: PublishedRun) -> SpeedRunAnswer:
    return SpeedRunAnswer(
        source=run.source.name,
        place=run.place,
        address=run.source.address,
        date=run.source.date,
        gpu=run.card,
        kind=run.kind,
        request=run.request,
        tokens_per_second=run.tokens_per_second,
        efficiency=run.efficiency,
        differs=run.differs,
        left_out=run.source.left_out,
    )
