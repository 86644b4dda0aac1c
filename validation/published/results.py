"""The results file: every published figure with the calculator's prediction and its error."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError
from calculator.inputs.stack import DEFAULT_STACK
from calculator.stack.sentences import named
from validation.published import verdicts
from validation.published.peers.ask import peers
from validation.published.prediction import predicted
from validation.published.rules import measurements
from validation.published.source import sources

if TYPE_CHECKING:
    from collections.abc import Sequence

    from validation.published.measurement import Measurement

#: The committed results file.
RESULTS = Path(__file__).parent.parent / "results" / "published.json"

Result = dict[str, Any]

#: The values that `write` omits, of the fields that summaries and tables read.
EMPTY: Result = {
    **dict.fromkeys(("request", "protocol", "point", "phase", "measured_bytes", "error", "cuda_error")),
    **dict.fromkeys(("differs", "unknown", "peers"), ()),
    "remark": "",
}

#: The fields by which errors are grouped.
GROUPS = ("source", "method", "statistic", "phase")


def result(measured: Measurement) -> Result:
    """Return a figure's row of the results: predicted and measured bytes, or the reasons why it has no prediction."""
    row: Result = {
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
        "differs": list(measured.run.differs),
        "unknown": list(measured.run.unknown),
        "remark": measured.remark,
        "measured_bytes": measured.bytes,
        "predicted_bytes": None,
        "phase": None,
        "error": None,
        "blocks_bytes": None,
        "blocks_error": None,
        "cuda_bytes": None,
        "cuda_error": None,
        "peers": _peer_answers(measured),
    }
    if measured.run.request is None:
        return row
    row["method"] = _named(measured.run.request["method"])
    try:
        prediction = predicted(measured)
    except PlanError as refused:
        reasons = [problem.msg for problem in refused.problems]
        return {**row, "expressed": "not", "differs": [*row["differs"], *reasons]}
    row["predicted_bytes"], row["phase"] = prediction.bytes, prediction.phase
    if measured.bytes:
        row["error"] = round(prediction.bytes / measured.bytes - 1, 6)
        if prediction.blocks is not None:
            row["blocks_bytes"] = prediction.blocks
            row["blocks_error"] = round(prediction.blocks / measured.bytes - 1, 8)
        on_cuda = predicted(measured, "cuda").bytes
        if on_cuda != prediction.bytes:
            row["cuda_bytes"], row["cuda_error"] = on_cuda, round(on_cuda / measured.bytes - 1, 6)
    return {**row, **verdicts.run_verdict(measured)}


def _peer_answers(measured: Measurement) -> list[Result]:
    """Return each peer's answer with its error, or its reason for not answering."""
    answers = []
    for peer in peers():
        answer = peer.answers.get(measured.id)
        if answer and "bytes" in answer and measured.bytes:
            answers.append({"name": peer.name, **answer, "error": round(answer["bytes"] / measured.bytes - 1, 6)})
        elif answer:
            answers.append({"name": peer.name, **answer})
    return answers


def _named(method: dict[str, Any]) -> str:
    """Return the method's name in the JSON API, or `dora` for LoRA with DoRA."""
    return "dora" if method.get("use_dora") else str(method["name"])


def document(rows: Sequence[Result], date: str) -> dict[str, Any]:
    """Return the content of the results file; `date` is the day on which it was computed."""
    return {
        "format": 1,
        "date": date,
        "stack": named(DEFAULT_STACK),
        "sources": [
            {"name": s.name, "title": s.title, "licence": s.licence, "remark": s.remark, "rows": len(s.rows)}
            for s in sources()
        ],
        "summary": summary(rows),
        "process_memory": verdicts.process_memory(rows),
        "verdicts": verdicts.counts(rows),
        "near_limit": {"share": verdicts.NEAR, "rows": [row["id"] for row in verdicts.near_limit(rows)]},
        "peers": [
            {"name": peer.name, "version": peer.version, "date": peer.date, "sources": peer_errors(rows, peer.name)}
            for peer in peers()
        ],
        "rows": rows,
    }


def summary(rows: Sequence[Result]) -> list[dict[str, Any]]:
    """Return the errors of the rows that a request expresses as a whole, in total and by each of `GROUPS`."""
    whole = [row for row in rows if row["expressed"] == "whole" and row["error"] is not None]
    return [
        _line("all", "all", whole),
        *(line for group in GROUPS for line in _grouped_by(group, whole)),
    ]


def peer_errors(rows: Sequence[Result], peer: str) -> list[dict[str, Any]]:
    """By source, a peer's errors and ours on the rows that it answers and that a request expresses as a whole."""
    by_source = []
    for source in ("all", *sorted({row["source"] for row in rows})):
        pairs = [
            (abs(answer["error"]), abs(row["error"]))
            for row in rows
            if source in ("all", row["source"]) and row["expressed"] == "whole" and row["error"] is not None
            for answer in row["peers"]
            if answer["name"] == peer and "error" in answer
        ]
        if pairs:
            theirs, ours = zip(*pairs, strict=True)
            by_source.append(
                {
                    "source": source,
                    "figures": len(pairs),
                    "median_absolute_error": round(median(theirs), 6),
                    "our_median_absolute_error": round(median(ours), 6),
                }
            )
    return by_source


def _grouped_by(group: str, rows: Sequence[Result]) -> list[dict[str, Any]]:
    groups: defaultdict[str, list[Result]] = defaultdict(list)
    for row in rows:
        groups[row[group]].append(row)
    return [_line(group, name, groups[name]) for name in sorted(groups)]


def _line(group: str, name: str, rows: Sequence[Result]) -> dict[str, Any]:
    errors = [row["error"] for row in rows]
    on_cuda = [row["error"] if row["cuda_error"] is None else row["cuda_error"] for row in rows]
    return {
        "by": group,
        "name": name,
        "figures": len(rows),
        "configurations": len({configuration(row) for row in rows}),
        "median_absolute_error": round(median(map(abs, errors)), 6) if errors else None,
        "lowest_error": min(errors, default=None),
        "highest_error": max(errors, default=None),
        "cuda_figures": sum(row["cuda_error"] is not None for row in rows),
        "cuda_median_absolute_error": round(median(map(abs, on_cuda)), 6) if errors else None,
    }


def configuration(row: Result) -> str:
    """Return a key that is equal for two figures of the same run, or of runs with equal settings."""
    return json.dumps([row["source"], row["request"], row["protocol"], row["differs"]], sort_keys=True)


def read(path: Path) -> list[Result]:
    """Return the rows of a results file, with the empty values that `write` omits; none if there is no file."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    return [row | {key: value for key, value in EMPTY.items() if key not in row} for row in rows]


def with_other_rows(rows: Sequence[Result], path: Path) -> list[Result]:
    """Return rows, and those that a results file has for figures of other sources, in the order of all figures."""
    new = {row["id"]: row for row in rows}
    computed = {row["source"] for row in rows}
    others = {row["id"]: row for row in read(path) if row["source"] not in computed}
    figures = others | new
    return [figures[figure.id] for figure in measurements() if figure.id in figures]


def write(results: dict[str, Any], path: Path) -> None:
    """Write the results atomically, one row per line, so that a diff shows the rows that change.

    Empty values are omitted.
    """
    rows = ",\n".join(f"  {json.dumps(_filled(row), ensure_ascii=False)}" for row in results["rows"])
    head = json.dumps({key: value for key, value in results.items() if key != "rows"}, ensure_ascii=False, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(f'{head[:-2]},\n "rows": [\n{rows}\n ]\n}}\n', encoding="utf-8")
    part.replace(path)


def _filled(row: Result) -> Result:
    return {key: value for key, value in row.items() if value not in (None, "", (), [], {})}
