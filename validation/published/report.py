"""Hold the calculator against peaks that others measured and published, and write the results file.

Errors are told of rows that a request says whole. Rows that it says in part are predicted too, with what differs; of
the others stands why no request says them.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validation.cli.progress import Progress
from validation.published.results import RESULTS, document, write
from validation.published.rules import measurements

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from validation.published.measurement import Measurement
    from validation.published.results import Result

GIB = 1 << 30

#: The error from which a row is worth a line of its own.
WORTH_TELLING = 0.003


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--sources", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--worst", type=int, default=10, metavar="N", help="how many of the worst rows are shown (10)")
    parser.add_argument("--write", type=Path, default=RESULTS, metavar="FILE", help=f"where results go ({RESULTS})")
    parser.add_argument("--date", default=datetime.now(UTC).date().isoformat(), help="the day of the results (today)")


def run(told: argparse.Namespace) -> int:
    """Predict every row, print the tables, write the file; returns 1 where the median error is 1 % or more."""
    chosen = [each for each in measurements() if each.source in (told.sources or [each.source])]
    results = document(_watched(chosen), told.date)
    print("\n".join(lines(results, told.worst)))
    if not told.sources:
        write(results, told.write)
    middle = results["summary"][0]["median_absolute_error"]
    return int(middle is None or middle >= 0.01)


def _watched(chosen: list[Measurement]) -> Iterator[Measurement]:
    progress = Progress(len(chosen), "predicted")
    for each in chosen:
        yield each
        progress.step()
    progress.close()


def lines(results: dict[str, Any], worst: int) -> list[str]:
    """The tables for people; errors are the calculator's figure over the measured one, less one."""
    rows = results["rows"]
    shown = [f"{len(rows)} published figures; {_expressed(rows)}", "", *_errors(results["summary"])]
    shown += ["", *_peers(results["peers"])]
    told = sorted((r for r in rows if r["expressed"] == "whole" and r["error"]), key=lambda row: -abs(row["error"]))
    shown += ["", "The worst of those that a request says whole:"]
    for row in [row for row in told if abs(row["error"]) >= WORTH_TELLING][:worst]:
        shown += [f"  {_row(row)}", f"      {row['remark']}" if row["remark"] else "      no reason is known"]
    shown += ["", "Said in part, with what differs:"]
    shown += [f"  {line}" for line in _reasons(rows, "in part")]
    shown += ["", "Said by no request:"]
    return shown + [f"  {line}" for line in _reasons(rows, "not")]


def _expressed(rows: list[Result]) -> str:
    counts = Counter(row["expressed"] for row in rows)
    return f"a request says {counts['whole']} whole, {counts['in part']} in part, and not {counts['not']}"


def _errors(summary: list[dict[str, Any]]) -> Iterator[str]:
    yield f"{'':38} figures  configurations  median    lowest   highest"
    for line in summary:
        if line["median_absolute_error"] is None:
            continue
        name = line["name"] if line["by"] == "all" else f"{line['by']}: {line['name']}"
        errors = f"{line['median_absolute_error']:8.3%} {line['lowest_error']:+9.3%} {line['highest_error']:+9.3%}"
        yield f"{name:38} {line['figures']:7} {line['configurations']:15} {errors}"


def _peers(peers: list[dict[str, Any]]) -> Iterator[str]:
    yield f"{'Median errors of peers, where they answer':55} figures    theirs   ours"
    for peer in peers:
        for line in peer["sources"]:
            name = f"{peer['name']} {peer['version']}, {line['source']}"
            errors = f"{line['median_absolute_error']:8.1%} {line['our_median_absolute_error']:8.3%}"
            yield f"{name:55} {line['figures']:7} {errors}"


def _row(row: Result) -> str:
    sizes = f"{row['predicted_bytes'] / GIB:.3f} of {row['measured_bytes'] / GIB:.3f} GiB"
    return f"{row['error']:+.3%}  {row['id']}: {row['method']}, {row['setting']}: {sizes}"


def _reasons(rows: list[Result], expressed: str) -> Iterator[str]:
    """Each source's figures of a kind, and how many of them each difference concerns."""
    chosen = [row for row in rows if row["expressed"] == expressed]
    for source in sorted({row["source"] for row in chosen}):
        own = [row for row in chosen if row["source"] == source]
        errors = [row["error"] for row in own if row["error"] is not None]
        yield f"{source}: {len(own)} figures" + (f", {min(errors):+.1%} to {max(errors):+.1%}" if errors else "")
        for reason, count in Counter(reason for row in own for reason in row["differs"]).most_common():
            yield f"  {count:4} {reason}"
