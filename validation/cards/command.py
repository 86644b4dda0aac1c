"""Compute the table of what GPUs can train, which /cards reads: calculator/catalogue/cards.json.

It replays about 40,000 runs, which takes minutes on four cores. --model computes the rows of some models again, and
--missing those of models that the table lacks; both leave the others. The file is written after each model.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calculator import catalogue
from calculator.cards.build import groups, rows
from calculator.cards.table import FILE
from calculator.estimation.traced.check import modeled_models
from validation.cli.progress import Progress

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

#: Where the table is.
TABLE = Path(catalogue.__file__).parent / FILE


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--model", nargs="+", default=[], metavar="ID", help="models whose rows are computed again")
    chosen.add_argument("--missing", action="store_true", help="compute the rows of models that the table lacks")
    chosen.add_argument("--list", action="store_true", help="print these models; the status is 1 if there are any")
    parser.add_argument("--output", type=Path, default=TABLE, metavar="FILE", help="default: the table of the package")
    parser.add_argument("--processes", type=int, default=cpu_count(), metavar="N", help="default: one for each core")


def run(args: argparse.Namespace) -> int:
    """Write the table, or print the models that it lacks."""
    published = catalogue.read(FILE)["rows"]
    lacking = [entry.id for entry in modeled_models() if not _rows_of_model(entry.id, published)]
    if args.list:
        sys.stdout.write("".join(f"{model}\n" for model in lacking))
        return int(bool(lacking))
    some = lacking if args.missing else [catalogue.model(name, "--model").id for name in args.model]
    ids = some if args.missing or args.model else [entry.id for entry in modeled_models()]
    rows_of = {entry.id: _rows_of_model(entry.id, published) for entry in modeled_models()}
    for model, computed in zip(ids, _computed(ids, args.processes), strict=True):
        rows_of[model] = computed
        args.output.write_text(text(row for model_rows in rows_of.values() for row in model_rows), encoding="utf-8")
    return 0


def text(table: Iterable[dict[str, Any]]) -> str:
    """Return the text of the file: a line for each row."""
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in table)
    return f'{{"groups": {json.dumps([*groups()])},\n"rows": [\n{lines}\n]}}\n'


def _rows_of_model(model: str, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["model"] == model]


def _computed(ids: list[str], processes: int) -> Iterator[list[dict[str, Any]]]:
    progress = Progress(len(ids), "models")
    with ProcessPoolExecutor(processes) as pool:
        for result in pool.map(_rows, ids):
            progress.step()
            yield result
    progress.close()


def _rows(model: str) -> list[dict[str, Any]]:
    return [*rows(catalogue.model(model))]
