"""Trace a short step of every model type of transformers that the calculator does not model, and write the table.

Each type's default config is traced in full fine-tuning, in a process with limits: with four layers, or whole where
that fails, or else a model of the catalogue with four layers. Default configs are often not valid; a published
config.json may be answered where they are not. Types with an outcome in the written table are not traced again. Results
are kept line by line, and a later run goes on where one ended. Prints how many types are answered, and by which engine.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError
from calculator.estimation.request import parse_request
from calculator.estimation.traced.grade import grade_of
from calculator.families import FAMILIES
from validation.cli.progress import Progress
from validation.reference.heads import MAPPINGS, head_of
from validation.traced.census.mappings import model_types, tasks_of
from validation.traced.document import LIBRARIES
from validation.traced.operations import unchecked
from validation.tracing.silence import silence_libraries

if TYPE_CHECKING:
    import argparse
    from multiprocessing.connection import Connection

#: Tokens of the traced sequence: the least learned positions of a model are more.
TOKENS = 64

#: The outcome of a type that has no result yet.
NOT_TRIED: dict[str, Any] = {"engine": None, "why": "its default config has not been traced yet"}

#: The outcome of a type whose step the calculator models.
MODELED: dict[str, Any] = {"engine": "calculator", "why": None}

#: The committed table.
TABLE = Path(__file__).parents[2] / "results" / "model_types.json"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--types", nargs="*", choices=model_types(), metavar="TYPE", help="only these model types")
    parser.add_argument("--seconds", type=int, default=100, metavar="N", help="the most CPU time of a trace (100)")
    parser.add_argument("--results", type=Path, default=Path("build/census.jsonl"), help="the file of results")
    parser.add_argument("--again", action="store_true", help="trace types again that were refused before")
    parser.add_argument("--write", action="store_true", help=f"write the table, {TABLE.name}")


def run(args: argparse.Namespace) -> int:
    """Trace what has no result yet, and print how many types are answered."""
    silence_libraries()
    args.results.parent.mkdir(parents=True, exist_ok=True)
    answers = written() | results(args.results)
    if args.again:
        answers = {name: row for name, row in answers.items() if row["engine"]}
    wanted = [name for name in args.types or model_types() if name not in answers and not modeled(name)]
    progress = Progress(len(wanted), "types")
    for name in wanted:
        answers[name] = row(name, args.seconds)
        with args.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(answers[name]) + "\n")
        progress.step()
    progress.close()
    table = document(answers)
    print("\n".join(summary(table["types"])))
    if args.write:
        TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    return 0


def written() -> dict[str, dict[str, Any]]:
    """Return the outcomes in the committed table by model type, without those that a census has not tried."""
    rows = json.loads(TABLE.read_text(encoding="utf-8"))["types"] if TABLE.exists() else []
    return {listed["model_type"]: listed for listed in rows if listed["why"] != NOT_TRIED["why"]}


def results(path: Path) -> dict[str, dict[str, Any]]:
    """Return the results of a file by model type; the last one of a type counts."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {listed["model_type"]: listed for listed in map(json.loads, lines)}


def modeled(model_type: str) -> bool:
    """Return whether the calculator models the step of a type."""
    family = FAMILIES.get(model_type)
    return family is not None and family.forward is not None


def document(answers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the table of every type."""
    rows = []
    for name in model_types():
        answer = MODELED if modeled(name) else answers.get(name, NOT_TRIED)
        rows.append({"model_type": name, "tasks": tasks_of(name), **graded(answer)})
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in LIBRARIES},
        "command": "python -m validation census --write",
        "types": sorted(rows, key=lambda listed: str(listed["model_type"])),
    }


def graded(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an outcome with its grade, by the operations that are validated now."""
    if answer["engine"] != "traced":
        return {**answer, "grade": "modelled" if answer["engine"] else None}
    left = unchecked(answer["unchecked_operations"])
    grade = grade_of(kernel_packages=answer["kernel_packages"], unchecked=left)
    return {**answer, "unchecked_operations": left, "grade": grade}


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """Return how many types of each task are answered, and by which engine."""
    lines = []
    for task in dict.fromkeys(task for name in model_types() for task in tasks_of(name)):
        task_rows = [listed for listed in rows if task in listed["tasks"]]
        calculated, traced = (
            sum(listed["engine"] == name for listed in task_rows) for name in ("calculator", "traced")
        )
        lines.append(
            f"{task:24} {len(task_rows):4} types: {calculated} modeled, {traced} traced,"
            f" {len(task_rows) - calculated - traced} refused"
        )
    return lines


def row(model_type: str, seconds: int) -> dict[str, Any]:
    """Trace a type in a process of its own."""
    if head_of(model_type) is None:
        why = f"none of {', '.join(MAPPINGS)} has this type, and a step needs a loss over tokens"
        return {"model_type": model_type, "engine": None, "why": why}
    context = get_context("forkserver")
    context.set_forkserver_preload(["validation.traced.engine", "validation.traced.census.configs"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=traced, args=(theirs, model_type, seconds))
    process.start()
    theirs.close()
    try:
        answer: dict[str, Any] = ours.recv()
    except EOFError:
        answer = {"engine": None, "why": f"the trace takes more than {seconds} s of CPU time or 4 GiB"}
    process.join()
    return {"model_type": model_type, **answer}


def traced(connection: Connection, model_type: str, seconds: int) -> None:
    """Trace a type's short config, and send the outcome."""
    from validation.traced import engine, limits  # noqa: PLC0415  (takes seconds to import)
    from validation.traced.census.configs import catalogued_config, default_config, short_config  # noqa: PLC0415

    silence_libraries()
    limits.limit(seconds)

    def outcome(config: dict[str, Any]) -> dict[str, Any]:
        start = time.process_time()
        body = {"model": {"config": config}, "method": {"name": "full"}, "training": {"sequence_length": TOKENS}}
        answer = engine.answer(parse_request(body))
        return {
            "engine": "traced",
            "why": None,
            "seconds": round(time.process_time() - start, 1),
            "unchecked_operations": answer.unchecked,
            "kernel_packages": answer.kernel_packages,
            "guesses": answer.guesses,
        }

    answer: dict[str, Any] = {}
    for config_of in (short_config, default_config, catalogued_config):
        try:
            answer = outcome(config_of(model_type))
        except PlanError as error:
            answer = answer or {"engine": None, "why": error.problems[0].msg}
        except Exception as error:  # noqa: BLE001  default configs fail in many ways
            reason = " ".join(str(error).split())[:300]
            answer = answer or {"engine": None, "why": f"its default config is not valid: {reason}"}
        if answer["engine"]:
            break
    connection.send(answer)
