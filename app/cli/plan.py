"""From models, cards and needs to the configurations that fit, best first, with what speaks for and against each.

python -m app plan --model meta-llama/Llama-3.1-70B --gpu "A100 80GB" --tasks 20 --switch_per_request
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.api.answers.plan import answer_of
from app.cli import files, options, request
from app.cli.table import table
from app.forms.fields import DEVICE
from app.pages.estimate.view import changed
from app.pages.plan import view as plan_view
from app.presentation.format import gib, number, sentence, signed, size
from calculator.common.errors import refusal
from calculator.plan.nearest_miss import AMONG
from calculator.plan.plan import plan
from calculator.plan.request import parse_plan

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from calculator.plan.nearest_miss import NearestMiss
    from calculator.plan.plan import Configuration, DevicePlan, Plan

FIELDS = (*plan_view.NEEDS, *DEVICE)

#: Parts of a request of which it takes one: what the options say of either replaces both.
RIVALS = (("model", "models"), ("device", "devices"))

HEAD = ("", "Configuration", "Optimizer", "Checkpointing", "Batch", "Required GiB", "To spare", "Step cost")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--request", metavar="FILE", help="a JSON request to start from; - reads standard input")
    parser.add_argument("--json", action="store_true", help="print the API's answer")
    parser.add_argument("--model", metavar="ID,...", help="a catalogue id or hub URL, or several with commas between")
    parser.add_argument("--config", metavar="FILE", help="a config.json, where the catalogue lacks the model")
    parser.add_argument("--gpus", metavar="NAME,...", help="cards to plan for beside --gpu, with commas between")
    options.declare(parser, FIELDS)


def run(args: argparse.Namespace) -> int:
    """Print what fits; 1 where nothing does."""
    answer = plan(parse_plan(_body(args)))
    request.shown(args, answer_of(answer), "\n".join(_lines(answer)))
    return int(not any(part.configurations for part in answer.plans))


def _body(args: argparse.Namespace) -> Any:
    """The request: its file, with what the options say laid over it."""
    given = {**options.given(args, FIELDS), **_models(args)}
    more = options.several("--gpus", args.gpus or "")
    if more:
        one = [given.pop("device")] if "device" in given else []
        given["devices"] = [*one, *({"gpu": name} for name in more)]
    if args.request is None:
        return given
    stated = request.stated(args)
    replaced = {name for rivals in RIVALS if given.keys() & set(rivals) for name in rivals}
    return options.merged({name: value for name, value in stated.items() if name not in replaced}, given)


def _models(args: argparse.Namespace) -> dict[str, Any]:
    if args.config is not None:
        if args.model is not None:
            raise refusal("model", "give either --model or --config, not both", args.model)
        return {"model": {"config": files.json("--config", args.config)}}
    if args.model is None:
        return {}
    named = options.several("--model", args.model)
    return {"models": named} if len(named) > 1 else {"model": named[0] if named else args.model}


def _lines(answer: Plan) -> Iterator[str]:
    for part in answer.plans:
        yield plan_view.sentence(part)
        yield from (f"! {line}" for line in part.warnings)
        yield ""
        if part.configurations:
            rows = [_row(f"{rank}.", each) for rank, each in enumerate(part.configurations, start=1)]
            yield table(HEAD, rows, left=4)
        for rank, each in enumerate(part.configurations, start=1):
            yield f"\n{rank}. {each.label}"
            yield from (f"   ! {line}" for line in part.warnings_of(each))
            for sign, stance in (("+", "for"), ("-", "against")):
                yield from (f"   {sign} {line.sentence}" for line in each.reasons if line.stance == stance)
            yield from _roomier(each)
        yield from _missed(part)
        if part.ruled_out:
            yield "\nNot proposed"
            yield from (f"- {out.label}: {out.sentence}" for out in part.ruled_out)
        yield ""
    yield from (f"- {line}" for line in answer.assumptions)


def _row(mark: str, configuration: Configuration | NearestMiss) -> tuple[str, ...]:
    training, estimate = configuration.request.training, configuration.estimate
    assert estimate.fit is not None
    return (
        mark,
        configuration.label,
        training.optimizer,
        "on" if training.gradient_checkpointing else "off",
        f"{number(training.micro_batch_size)} × {number(training.gradient_accumulation_steps)}",
        f"{gib(estimate.memory.required_bytes):,.2f}",
        signed(estimate.fit.headroom_bytes),
        f"{configuration.cost.relative:.2f}",
    )


def _roomier(configuration: Configuration) -> Iterator[str]:
    if configuration.roomier:
        yield "   More room:"
    for each in configuration.roomier:
        assert each.estimate.fit is not None
        spare = signed(each.estimate.fit.headroom_bytes)
        yield f"   > {sentence(changed(each.changes))}: {spare} to spare. {each.rule.statement}"


def _missed(part: DevicePlan) -> Iterator[str]:
    miss = part.miss
    if miss is not None:
        training = miss.request.training
        yield f"Nearest: {miss.label}. {plan_view.short(miss)}"
        yield table(HEAD, [_row("", miss)], left=4)
        yield f"With {number(training.sequence_length)} tokens a sequence, {training.dtype}, {training.attention}."
        yield from (f"! {warning}" for warning in miss.estimate.warnings)
        if miss.card is not None and miss.card_fit is not None:
            spare = size(miss.card_fit.headroom_bytes)
            yield f"The smallest card that holds it, {AMONG}: {miss.card.name}, with {spare} to spare in training."
        else:
            yield f"No single card holds it, {AMONG}."
        if miss.why_no_shorter_sequence is not None:
            yield f"- {miss.why_no_shorter_sequence}"
    yield from (f"- {change.sentence}" for change in part.changes)
