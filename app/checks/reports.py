"""Reports of checked files: text, a Markdown summary, and SARIF 2.1.0."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

from app.presentation.format import size
from app.resources import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.checks.checked import Checked, Outcome

#: The words of each outcome.
WORDS: dict[Outcome, str] = {
    "fits": "fits",
    "tight": "tight",
    "does_not_fit": "does not fit",
    "estimated": "no GPU given",
    "invalid": "invalid",
}

Level = Literal["error", "warning", "note"]

#: The SARIF rule and level of each outcome that is a result. https://docs.oasis-open.org/sarif/sarif/v2.1.0/
RULES: dict[Outcome, tuple[Level, str]] = {
    "does_not_fit": ("error", "The run ends out of memory on the GPU"),
    "tight": ("warning", "The run fits only if the allocator frees cached blocks"),
    "invalid": ("error", "The file is not a request, or its request is refused"),
}

#: The rule for features of a file that a request cannot express.
NOT_MODELED = "not_modelled"


def text(files: Sequence[Checked]) -> str:
    """Return a paragraph for each file."""
    return "\n".join(
        "\n".join(
            (
                f"{file.path}: {WORDS[file.outcome]}",
                *(f"  {sentence}" for sentence in file.sentences),
                *(f"  Warning: {warning}" for warning in file.warnings),
            )
        )
        for file in files
    )


def markdown(files: Sequence[Checked]) -> str:
    """Return a table of the files, and remarks on each."""
    lines = [
        "### GPU memory of fine-tuning runs",
        "",
        "| file | verdict | required | usable |",
        "|---|---|---:|---:|",
        *(_row(file) for file in files),
    ]
    for file in files:
        notes = [*(file.sentences if file.outcome != "fits" else ()), *file.warnings]
        if notes:
            lines += ["", f"`{file.path}`", "", *(f"- {_escaped(note)}" for note in notes)]
    return "\n".join(lines)


def _row(checked: Checked) -> str:
    required = usable = ""
    if checked.estimate is not None:
        required = size(checked.estimate.memory.required_bytes)
        usable = size(checked.estimate.fit.usable_bytes) if checked.estimate.fit is not None else ""
    return f"| `{checked.path.replace('|', '&#124;')}` | {WORDS[checked.outcome]} | {required} | {usable} |"


def _escaped(note: str) -> str:
    """Escape a sentence, so that it neither starts HTML nor ends its list item."""
    return note.replace("\n", " ").replace("<", "&lt;")


def sarif(files: Sequence[Checked]) -> str:
    """Return a SARIF log of the runs that do not fit, are tight, are invalid or are not modeled."""
    rules: list[dict[str, Any]] = [
        {"id": name, "shortDescription": {"text": sentence}, "defaultConfiguration": {"level": level}}
        for name, (level, sentence) in RULES.items()
    ]
    rules.append(
        {
            "id": NOT_MODELED,
            "shortDescription": {"text": "The estimate is for a run that differs from the file's"},
            "defaultConfiguration": {"level": "note"},
        }
    )
    driver = {"name": "Headroom", "version": VERSION, "rules": rules}
    results = [result for file in files for result in _results(file)]
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }
    return json.dumps(log, indent=2)


def _results(checked: Checked) -> list[dict[str, Any]]:
    results = []
    if checked.outcome in RULES:
        results.append(_result(checked, checked.outcome, RULES[checked.outcome][0], " ".join(checked.sentences)))
    results += [_result(checked, NOT_MODELED, "note", warning) for warning in checked.warnings]
    return results


def _result(checked: Checked, rule: str, level: Level, message: str) -> dict[str, Any]:
    location = {"artifactLocation": {"uri": PurePath(checked.path).as_posix()}, "region": {"startLine": 1}}
    return {
        "ruleId": rule,
        "level": level,
        "message": {"text": message},
        "locations": [{"physicalLocation": location}],
    }


#: Each report that the command prints.
REPORTS: dict[str, Callable[[Sequence[Checked]], str]] = {"text": text, "markdown": markdown, "sarif": sarif}
