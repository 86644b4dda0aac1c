"""Answers of `GET /api/v1/cards` and `GET /api/v1/cards/{id}`: what GPUs can train."""

from typing import Any

from app.api.answers.answer import Answer, described
from calculator.cards.card import card_rows
from calculator.cards.overview import CardSummary, overview
from calculator.cards.query import CardQuery, matching
from calculator.cards.settings import BATCHES, LENGTHS, SETTINGS, CardMethod
from calculator.cards.table import missing
from calculator.devices import GPU, caveats, usable


class LargestModel(Answer):
    """The largest model that a method trains on a GPU."""

    id: str = described("The hub id.", "meta-llama/Llama-3.1-8B")
    parameters: int = described("Its number of parameters.", 8_030_261_248)


class MethodOnCardAnswer(Answer):
    """One method on a GPU."""

    method: CardMethod = described("The method.", "qlora")
    models: int = described("How many models of the catalogue fit.", 160)
    largest: LargestModel | None = described(
        "The model with the most parameters that fits; null if none does.", {"id": "meta-llama/Llama-3.1-8B"}
    )


class CardSummaryAnswer(Answer):
    """A summary of a GPU."""

    id: str = described("The catalogue id.", "rtx-4090")
    name: str = described("The product name.", "GeForce RTX 4090")
    usable_bytes: int = described("Bytes that a process can use.", 25_250_758_656)
    methods: tuple[MethodOnCardAnswer, ...] = described("What each method trains on it.", [{"method": "qlora"}])


class CardList(Answer):
    """A summary of every GPU."""

    settings: str = described("The settings of every run.", SETTINGS)
    cards: tuple[CardSummaryAnswer, ...] = described("The GPUs, the smallest first.", [{"id": "rtx-4090"}])


class CardRowAnswer(Answer):
    """One model and method on a GPU."""

    model: str = described("The hub id of the model.", "meta-llama/Llama-3.1-8B")
    parameters: int = described("Its number of parameters.", 8_030_261_248)
    method: CardMethod = described("The method.", "qlora")
    changes: dict[str, Any] = described(
        "What differs from `settings`, by its path in a request.", {"method.target_modules": ["q_proj", "v_proj"]}
    )
    refusal: str = described("Why the model is not trained with the method; empty if it is.", "")
    fits: bool = described(
        "Whether any run of the row has the verdict `fits`. Tight runs do not count.",
        True,
    )
    required_bytes: int | None = described(
        "What a run with a micro-batch of 1 and the shortest of `sequence_lengths` requires; null if it is refused.",
        11_418_992_640,
    )
    sequence_length: int | None = described(
        "The longest of `sequence_lengths` that fits with a micro-batch of 1, or that of images or audio; null if none"
        " does.",
        8192,
    )
    is_longest_tried: bool = described(
        "Whether no longer sequence was tried: the model's context or the list ends there.",
        False,
    )
    micro_batch_size: int | None = described(
        "The largest micro-batch that fits with `batch_sequence_length`: 1 or one of `micro_batch_sizes`; null if none"
        " does.",
        4,
    )
    is_largest_tried: bool = described(
        "Whether no larger micro-batch was tried.",
        False,
    )
    batch_sequence_length: int | None = described(
        "The sequence length of the micro-batches: 2048, the longest one of the list that a shorter context allows, or"
        " that of images or audio.",
        2048,
    )
    request: dict[str, Any] | None = described(
        "The body of an estimate with the longest sequence that fits, or with the shortest if none does; null if it is"
        " refused.",
        {"model": "meta-llama/Llama-3.1-8B", "method": {"name": "qlora"}},
    )


class CardAnswer(Answer):
    """The models and methods that a GPU can train."""

    id: str = described("The catalogue id.", "rtx-4090")
    name: str = described("The product name.", "GeForce RTX 4090")
    usable_bytes: int = described("Bytes that a process can use.", 25_250_758_656)
    settings: str = described("The settings of every run.", SETTINGS)
    sequence_lengths: tuple[int, ...] = described(
        "The sequence lengths that are tried. Images and audio have the one that the model's config determines.",
        [256, 512],
    )
    micro_batch_sizes: tuple[int, ...] = described("The micro-batch sizes that are tried in addition to 1.", [2, 3])
    assumptions: tuple[str, ...] = described("What the figures assume.", ["A process can use 24,081 MiB"])
    warnings: tuple[str, ...] = described("How the GPU differs from what the figures assume.", [])
    missing: tuple[str, ...] = described(
        "Models of the catalogue that are not in the table: the newest ones, and those that only a trace supports.", []
    )
    total: int = described("How many rows match the filters.", 412)
    rows: tuple[CardRowAnswer, ...] = described("The rows from `offset` on, at most `limit`.", [{"method": "qlora"}])


def card_answer(card: GPU, query: CardQuery) -> CardAnswer:
    """Return the models and methods that a GPU can train: the rows that match a query."""
    rows = matching(card_rows(card), query)
    return CardAnswer.model_validate(
        {
            "id": card.id,
            "name": card.name,
            "usable_bytes": card.usable_bytes,
            "settings": SETTINGS,
            "sequence_lengths": LENGTHS,
            "micro_batch_sizes": BATCHES,
            "assumptions": (usable(card).assumption,),
            "warnings": caveats(card),
            "missing": missing(),
            "total": len(rows),
            "rows": rows[query.offset : query.offset + query.limit],
        },
        from_attributes=True,
    )


def card_list(q: str = "") -> CardList:
    """Return the GPUs whose name, id, aliases or architecture have all words of a search text."""
    words = q.lower().split()
    return CardList(settings=SETTINGS, cards=tuple(_summary(card) for card in overview() if _has(card.card, words)))


def _has(card: GPU, words: list[str]) -> bool:
    searched = " ".join((card.id, card.name, *card.aliases, card.vendor, card.architecture, card.segment)).lower()
    return all(word in searched for word in words)


def _summary(summary: CardSummary) -> CardSummaryAnswer:
    return CardSummaryAnswer(
        id=summary.card.id,
        name=summary.card.name,
        usable_bytes=summary.card.usable_bytes,
        methods=tuple(MethodOnCardAnswer.model_validate(method) for method in summary.methods),
    )
