"""The results file: every published figure beside the calculator's, and how far they are apart."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError
from calculator.estimate.remarks import STACK
from validation.published.peers.ask import peers
from validation.published.prediction import predicted
from validation.published.source import sources

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from validation.published.measurement import Measurement

#: Where results are committed.
RESULTS = Path(__file__).parent.parent / "results" / "published.json"

Result = dict[str, Any]

#: What errors are told by.
GROUPS = ("source", "method", "statistic", "phase")


def result(measured: Measurement) -> Result:
    """A figure's line of the results: predicted against measured, or why that can't be."""
    told: Result = {
        "id": measured.id,
        "source": measured.source,
        "model": measured.model,
        "method": measured.method,
        "setting": measured.setting,
        "gpu": measured.gpu,
        "statistic": measured.statistic,
        "point": measured.point,
        "address": measured.address,
        "date": measured.date,
        "versions": dict(measured.versions),
        "expressed": measured.expressed,
        "protocol": measured.run.protocol,
        "request": measured.run.request,
        "adjustments": [],
        "differs": list(measured.run.differs),
        "unknown": list(measured.run.unknown),
        "remark": measured.remark,
        "measured_bytes": measured.bytes,
        "predicted_bytes": None,
        "phase": None,
        "error": None,
        "peers": _of_peers(measured),
    }
    if measured.run.request is None:
        return told
    told["method"] = _named(measured.run.request["method"])
    try:
        prediction = predicted(measured)
    except PlanError as refused:
        reasons = [problem.msg for problem in refused.problems]
        return {**told, "expressed": "not", "differs": [*told["differs"], *reasons]}
    told["adjustments"] = [{"name": a.name, "bytes": a.bytes, "source": a.source} for a in prediction.adjustments]
    told["predicted_bytes"], told["phase"] = prediction.bytes, prediction.phase
    if measured.bytes:
        told["error"] = round(prediction.bytes / measured.bytes - 1, 6)
    return told


def _of_peers(measured: Measurement) -> list[Result]:
    """What each peer answered, with its error, or why it did not."""
    told = []
    for peer in peers():
        answer = peer.answers.get(measured.id)
        if answer and "bytes" in answer and measured.bytes:
            told.append({"name": peer.name, **answer, "error": round(answer["bytes"] / measured.bytes - 1, 6)})
        elif answer:
            told.append({"name": peer.name, **answer})
    return told


def _named(method: dict[str, Any]) -> str:
    """A method of the contract; DoRA goes by its own name."""
    return "dora" if method.get("use_dora") else str(method["name"])


def document(measured: Iterable[Measurement], date: str) -> dict[str, Any]:
    """Everything that the results file says. `date` is the day on which it was computed."""
    rows = [result(each) for each in measured]
    return {
        "format": 1,
        "date": date,
        "stack": STACK,
        "sources": [
            {"name": s.name, "title": s.title, "licence": s.licence, "remark": s.remark, "rows": len(s.rows)}
            for s in sources()
        ],
        "summary": summary(rows),
        "peers": [
            {"name": peer.name, "version": peer.version, "date": peer.date, "sources": beside(rows, peer.name)}
            for peer in peers()
        ],
        "rows": rows,
    }


def summary(rows: Sequence[Result]) -> list[dict[str, Any]]:
    """The errors of the rows that a request says whole, all together and by each of `GROUPS`."""
    whole = [row for row in rows if row["expressed"] == "whole" and row["error"] is not None]
    return [
        _line("all", "all", whole),
        *(line for group in GROUPS for line in _by(group, whole)),
    ]


def beside(rows: Sequence[Result], peer: str) -> list[dict[str, Any]]:
    """A peer's errors by source on the rows that a request says whole and that it answers, and ours on the same."""
    told = []
    for source in ("all", *sorted({row["source"] for row in rows})):
        both = [
            (abs(answer["error"]), abs(row["error"]))
            for row in rows
            if source in ("all", row["source"]) and row["expressed"] == "whole" and row["error"] is not None
            for answer in row["peers"]
            if answer["name"] == peer and "error" in answer
        ]
        if both:
            theirs, ours = zip(*both, strict=True)
            told.append(
                {
                    "source": source,
                    "figures": len(both),
                    "median_absolute_error": round(median(theirs), 6),
                    "our_median_absolute_error": round(median(ours), 6),
                }
            )
    return told


def _by(group: str, rows: Sequence[Result]) -> list[dict[str, Any]]:
    groups: defaultdict[str, list[Result]] = defaultdict(list)
    for row in rows:
        groups[row[group]].append(row)
    return [_line(group, name, groups[name]) for name in sorted(groups)]


def _line(group: str, name: str, rows: Sequence[Result]) -> dict[str, Any]:
    errors = [row["error"] for row in rows]
    return {
        "by": group,
        "name": name,
        "figures": len(rows),
        "configurations": len({configuration(row) for row in rows}),
        "median_absolute_error": round(median(map(abs, errors)), 6) if errors else None,
        "lowest_error": min(errors, default=None),
        "highest_error": max(errors, default=None),
    }


def configuration(row: Result) -> str:
    """What makes two figures of one run, or of equal runs, the same configuration."""
    names = [each["name"] for each in row["adjustments"]]
    return json.dumps([row["source"], row["request"], row["protocol"], names, row["differs"]], sort_keys=True)


def write(told: dict[str, Any], path: Path) -> None:
    """Write results at once or not at all, a row a line, so that a change shows as the rows that it changes.

    What a row has no value for is left out of it.
    """
    said = ({key: value for key, value in row.items() if value not in (None, "", [], {})} for row in told["rows"])
    rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in said)
    head = json.dumps({key: value for key, value in told.items() if key != "rows"}, ensure_ascii=False, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(f'{head[:-2]},\n "rows": [\n{rows}\n ]\n}}\n', encoding="utf-8")
    part.replace(path)
