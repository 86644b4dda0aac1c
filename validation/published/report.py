"""Compare the calculator with memory figures that others measured and published, and write the results file.

Errors are summarized over the rows that a request expresses as a whole. Rows that a request expresses in part are
predicted too, with a list of the differences. Each other row has the reason why no request expresses it.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validation.published.computing import JOURNAL, computed
from validation.published.records import record_measurements, resident_line
from validation.published.results import RESULTS, document, result, with_other_rows, write
from validation.published.rules import measurements

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from validation.published.results import Result

GIB = 1 << 30

#: The smallest error of a row that is printed among the worst.
LEAST_PRINTED_ERROR = 0.003


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    names = sorted({measurement.source for measurement in measurements()})
    parser.add_argument("--sources", nargs="+", choices=names, metavar="NAME", help="only these sources")
    parser.add_argument(
        "--records",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="compare records of validation.runtime.MemoryCheck, and nothing else",
    )
    parser.add_argument("--worst", type=int, default=10, metavar="N", help="the number of worst rows to print (10)")
    parser.add_argument(
        "--write",
        nargs="?",
        type=Path,
        const=RESULTS,
        metavar="FILE",
        help=f"write the results file ({RESULTS}); rows of sources that --sources leaves out stay",
    )
    parser.add_argument(
        "--journal", type=Path, default=JOURNAL, metavar="FILE", help=f"rows of an interrupted run ({JOURNAL})"
    )
    parser.add_argument("--processes", type=int, default=cpu_count(), metavar="N", help="default: one for each core")
    parser.add_argument("--date", default=datetime.now(UTC).date().isoformat(), help="the date of the results (today)")


def run(args: argparse.Namespace) -> int:
    """Predict every row, print the tables, write the file if asked to; returns 1 if the median error is 1 % or more."""
    if args.records:
        print("\n".join(record_lines(args.records)))
        return 0
    selected = [
        measurement for measurement in measurements() if measurement.source in (args.sources or [measurement.source])
    ]
    rows = computed(selected, args.journal, args.processes)
    results = document(rows, args.date)
    print("\n".join(lines(results, args.worst)))
    if args.write:
        write(document(with_other_rows(rows, args.write), args.date), args.write)
    middle = results["summary"][0]["median_absolute_error"]
    return int(middle is None or middle >= 0.01)


def record_lines(paths: list[Path]) -> Iterator[str]:
    """Yield a line for each figure of each record."""
    for path in paths:
        resident = resident_line(path)
        if resident is not None:
            yield resident
        for row in map(result, record_measurements(path)):
            if row["error"] is not None:
                yield _row(row)
            else:
                yield f"{row['id']}: {'; '.join(row['differs']) or 'nothing measured'}"


def lines(results: dict[str, Any], worst: int) -> list[str]:
    """Return the tables as lines of text; an error is the predicted figure divided by the measured one, minus 1."""
    rows = results["rows"]
    shown = [f"{len(rows)} published figures; {_expressed(rows)}", "", *_errors(results["summary"])]
    shown += ["", *_process_memory(results["process_memory"]), "", *_verdicts(results)]
    shown += ["", *_peers(results["peers"])]
    whole = sorted((r for r in rows if r["expressed"] == "whole" and r["error"]), key=lambda row: -abs(row["error"]))
    shown += ["", "The largest errors of the rows that a request expresses as a whole:"]
    for row in [row for row in whole if abs(row["error"]) >= LEAST_PRINTED_ERROR][:worst]:
        shown += [f"  {_row(row)}", f"      {row['remark']}" if row["remark"] else "      no reason is known"]
    shown += ["", "Expressed in part, with the differences:"]
    shown += [f"  {line}" for line in _reasons(rows, "in part")]
    shown += ["", "Expressed by no request:"]
    return shown + [f"  {line}" for line in _reasons(rows, "not")]


def _expressed(rows: list[Result]) -> str:
    counts = Counter(row["expressed"] for row in rows)
    return (
        f"a request expresses {counts['whole']} as a whole, {counts['in part']} in part, and {counts['not']} not at all"
    )


def _errors(summary: list[dict[str, Any]]) -> Iterator[str]:
    yield f"{'':38} figures  configurations  median    lowest   highest  with device.type cuda: other figures, median"
    for line in summary:
        if line["median_absolute_error"] is None:
            continue
        name = line["name"] if line["by"] == "all" else f"{line['by']}: {line['name']}"
        errors = f"{line['median_absolute_error']:8.3%} {line['lowest_error']:+9.3%} {line['highest_error']:+9.3%}"
        on_cuda = f"{line['cuda_figures']:38} {line['cuda_median_absolute_error']:8.3%}"
        yield f"{name:38} {line['figures']:7} {line['configurations']:15} {errors} {on_cuda}"


def _process_memory(lines: list[dict[str, Any]]) -> Iterator[str]:
    yield f"{'Process memory: errors':46} figures   by replay: median, range       by rule: median, range"
    for line in lines:
        shown = "    ".join(_range(line[way]) for way in ("replay", "rule"))
        yield f"{line['source'] + ', ' + line['method']:46} {line['figures']:7}   {shown}"


def _range(errors: dict[str, float]) -> str:
    low, high = errors["lowest_error"], errors["highest_error"]
    return f"{errors['median_absolute_error']:8.2%} {low:+8.2%} {high:+8.2%}"


def _verdicts(results: dict[str, Any]) -> Iterator[str]:
    counted = ", ".join(f"{number} {name}" for name, number in results["verdicts"].items())
    yield f"Verdicts on the runs' own GPUs; every run ran: {counted}"
    yield f"Runs that used, or need at least, {results['near_limit']['share']:.0%} of their GPU:"
    rows = {row["id"]: row for row in results["rows"]}
    for row in map(rows.__getitem__, results["near_limit"]["rows"]):
        least = row["minimum_bytes"]
        needs = "by the rule" if least is None else f"needs at least {least / GIB:.2f} GiB"
        yield f"  {row['verdict']}: {_row(row)}, {row['usable_bytes'] / GIB:.2f} GiB usable, {needs}"


def _peers(peers: list[dict[str, Any]]) -> Iterator[str]:
    yield f"{'Median errors of peers, on the rows that they answer':55} figures    theirs   ours"
    for peer in peers:
        for line in peer["sources"]:
            name = f"{peer['name']} {peer['version']}, {line['source']}"
            errors = f"{line['median_absolute_error']:8.1%} {line['our_median_absolute_error']:8.3%}"
            yield f"{name:55} {line['figures']:7} {errors}"


def _row(row: Result) -> str:
    sizes = f"{row['predicted_bytes'] / GIB:.3f} of {row['measured_bytes'] / GIB:.3f} GiB"
    return f"{row['error']:+.3%}  {row['id']}: {row['method']}, {row['setting']}: {sizes}"


def _reasons(rows: list[Result], expressed: str) -> Iterator[str]:
    """Yield each source's number of figures of a kind, and the number of figures with each difference."""
    selected = [row for row in rows if row["expressed"] == expressed]
    for source in sorted({row["source"] for row in selected}):
        source_rows = [row for row in selected if row["source"] == source]
        errors = [row["error"] for row in source_rows if row["error"] is not None]
        yield f"{source}: {len(source_rows)} figures" + (
            f", {min(errors):+.1%} to {max(errors):+.1%}" if errors else ""
        )
        for reason, count in Counter(reason for row in source_rows for reason in row["differs"]).most_common():
            yield f"  {count:4} {reason}"
