"""Sentences about the models that a GPU can train."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.presentation.format import number

if TYPE_CHECKING:
    from app.api.answers.cards import CardAnswer, CardRowAnswer


def count(answer: CardAnswer) -> str:
    """Say how many rows match, and which of them are shown."""
    if not answer.total:
        return "No model and method matches these filters."
    shown = "" if len(answer.rows) == answer.total else f"; {len(answer.rows):,} of them are shown"
    return f"{answer.total:,} {'row matches' if answer.total == 1 else 'rows match'}{shown}."


def batch(row: CardRowAnswer) -> str:
    """Say which micro-batch fits, and with which sequence length."""
    if row.micro_batch_size is None or row.batch_sequence_length is None:
        return ""
    return f"{number(row.micro_batch_size)} × {number(row.batch_sequence_length)}"


def changes(row: CardRowAnswer) -> str:
    """Say what differs from the settings of the table."""
    return "; ".join(f"{path.split('.')[1]} {_value(value)}" for path, value in row.changes.items())


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(value) if isinstance(value, list | tuple) else str(value)
