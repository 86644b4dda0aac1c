"""List what a GPU can train: models and methods, the longest sequence and the largest micro-batch that fit.

python -m app cards "RTX 4090" --q llama --method qlora
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.api.answers.cards import card_answer, card_list
from app.cli import options, request
from app.cli.table import table
from app.forms.card_query import CARD_QUERY, query_of
from app.presentation import card_text
from app.presentation.format import gib, number, parameters
from calculator.cards.settings import CARD_METHODS, SETTINGS
from calculator.common.errors import PlanError, refusal
from calculator.devices import gpu
from calculator.devices.gpus import INSTEAD
from calculator.methods import METHODS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from app.api.answers.cards import CardAnswer, CardList
    from calculator.devices import GPU


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("card", metavar="GPU", nargs="?", help="an id, name or alias; without one, all GPUs are listed")
    parser.add_argument("--json", action="store_true", help="print the answer of the JSON API")
    options.add_fields(parser, CARD_QUERY.values())


def run(args: argparse.Namespace) -> int:
    """Print the rows; return 1 if none matches."""
    query = query_of(options.body_of(args, CARD_QUERY.values()))
    if args.card is None:
        cards = card_list(query.q)
        request.print_answer(args, cards, "\n".join(_overview(cards)))
        return int(not cards.cards)
    answer = card_answer(_card(args.card), query)
    request.print_answer(args, answer, "\n".join(_lines(answer)))
    return int(not answer.rows)


def _card(name: str) -> GPU:
    """Return the GPU with a name.

    Raises:
        PlanError: if the catalogue lacks it.
    """
    try:
        return gpu(name, "GPU")
    except PlanError as error:
        message = error.problems[0].msg.replace(INSTEAD, "leave it out to list all GPUs")
        raise refusal("GPU", message, name) from error


def _overview(answer: CardList) -> Iterator[str]:
    yield table(
        ("GPU", "GiB", *(METHODS[name].facts.label for name in CARD_METHODS)),
        [
            (
                card.name,
                f"{gib(card.usable_bytes):,.2f}",
                *(f"{method.models:,} models" if method.models else "none" for method in card.methods),
            )
            for card in answer.cards
        ],
    )
    yield f"\n{SETTINGS}"


def _lines(answer: CardAnswer) -> Iterator[str]:
    yield f"{answer.name}: a process can use {gib(answer.usable_bytes):,.2f} GiB"
    yield card_text.count(answer)
    yield ""
    if answer.rows:
        yield table(
            ("Model", "Method", "Parameters", "GiB, least", "Sequence length", "Micro-batch", "Differs in"),
            [
                (
                    row.model,
                    METHODS[row.method].facts.label,
                    parameters(row.parameters),
                    "" if row.required_bytes is None else f"{gib(row.required_bytes):,.2f}",
                    "" if row.sequence_length is None else number(row.sequence_length),
                    card_text.batch(row),
                    row.refusal or card_text.changes(row),
                )
                for row in answer.rows
            ],
            left=2,
            remarks=True,
        )
        yield ""
    yield answer.settings
    yield from (f"- {sentence}" for sentence in (*answer.warnings, *answer.assumptions))
