"""Find configurations that fit, best first, with the reasons for and against each.

python -m app plan --model meta-llama/Llama-3.1-70B --gpu "A100 80GB" --tasks 20 --switch_per_request
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.api.answers.plan import plan_answer
from app.cli import files, messages, options, request, single_use
from app.cli.table import table
from app.forms.fields import DEVICE, NEEDS, RESERVED, STACK, TRAINER
from app.presentation import plan_text, speed_text
from app.presentation.changes import changes_text
from app.presentation.format import gib, number, sentence, signed, size
from calculator.common.errors import refusal
from calculator.planning.nearest_miss import AMONG
from calculator.planning.plan import plan
from calculator.planning.request import parse_plan

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from calculator.planning.nearest_miss import NearestMiss
    from calculator.planning.plan import Configuration, DevicePlan, Plan

FIELDS = (*NEEDS, *TRAINER, *STACK, *DEVICE, *RESERVED)

#: Pairs of fields of which a request has one. An option for either replaces both.
ALTERNATIVES = (("model", "models"), ("device", "devices"))

HEAD = ("", "Configuration", "Optimizer", "Checkpointing", "Batch", "Required GiB", "To spare", "Step cost")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    single_use.register(parser)  # a plan can have several models and GPUs, which are all kept
    parser.add_argument(
        "--request", metavar="FILE", help="a JSON request that the options override; - reads standard input"
    )
    parser.add_argument("--json", action="store_true", help="print the answer of the JSON API")
    parser.add_argument("--model", metavar="ID,...", help="a catalogue id or hub URL, or several separated by commas")
    parser.add_argument("--config", metavar="FILE", help="a config.json, for a model that is not in the catalogue")
    parser.add_argument("--gpus", metavar="NAME,...", help="more GPUs to plan for, separated by commas")
    options.add_fields(parser, FIELDS)


def run(args: argparse.Namespace) -> int:
    """Print the configurations that fit; return 1 if there are none."""
    body = _body(args)
    messages.require(body, "model", "device")
    answer = plan(parse_plan(body))
    request.print_text(
        plan_answer(answer).model_dump_json(indent=2) if args.json else request.worded(args, "\n".join(lines(answer)))
    )
    return int(not any(part.configurations for part in answer.plans))


def _body(args: argparse.Namespace) -> Any:
    """Return the request body: the --request file, overridden by the options."""
    given = {**options.body_of(args, FIELDS), **_models(args)}
    more = options.list_of("--gpus", args.gpus or "")
    if more:
        one = [given.pop("device")] if "device" in given else []
        given["devices"] = [*one, *({"gpu": name} for name in more)]
    if args.request is None:
        return given
    body = request.file_body(args)
    replaced = {name for pair in ALTERNATIVES if given.keys() & set(pair) for name in pair}
    return options.merged({name: value for name, value in body.items() if name not in replaced}, given)


def _models(args: argparse.Namespace) -> dict[str, Any]:
    if args.config is not None:
        if args.model is not None:
            raise refusal("--model", "give either --model or --config, not both", args.model)
        return {"model": {"config": files.json("--config", args.config)}}
    if args.model is None:
        return {}
    named = options.list_of("--model", args.model)
    return {"models": named} if len(named) > 1 else {"model": named[0] if named else args.model}


def lines(answer: Plan) -> Iterator[str]:
    """Yield the lines of a plan."""
    for part in answer.plans:
        yield plan_text.sentence(part)
        yield from (f"! {line}" for line in part.warnings)
        yield ""
        if part.configurations:
            rows = [_row(f"{rank}.", configuration) for rank, configuration in enumerate(part.configurations, start=1)]
            yield table(HEAD, rows, left=4)
        yield from _shardings(part)
        for rank, configuration in enumerate(part.configurations, start=1):
            yield f"\n{rank}. {plan_text.title(configuration)}"
            yield from (f"   ! {line}" for line in part.warnings_of(configuration))
            if configuration.token_cost is not None:
                yield f"   {speed_text.token_cost(configuration.token_cost)}"
            for sign, stance in (("+", "for"), ("-", "against")):
                yield from (f"   {sign} {line.sentence}" for line in configuration.reasons if line.stance == stance)
            yield from _roomier(configuration)
        yield from _missed(part)
        if part.ruled_out:
            yield "\nNot proposed"
            yield from (f"- {out.label}: {out.sentence}" for out in part.ruled_out)
        yield ""
    yield from (f"- {line}" for line in answer.assumptions)


def _shardings(part: DevicePlan) -> Iterator[str]:
    """Yield the first configuration's method under each sharding, where the plan chose one."""
    if part.shardings:
        yield f"\n{part.configurations[0].request.method.label} under each sharding"
    for option in part.shardings:
        if option.request is None or option.estimate is None or option.estimate.fit is None or option.cost is None:
            yield f"- {option.sharding}: {option.sentence}"
        else:
            training = option.request.training
            yield (
                f"- {option.sharding}: {size(option.estimate.memory.required_bytes)},"
                f" {signed(option.estimate.fit.headroom_bytes)} to spare, step cost {option.cost.relative:.2f},"
                f" batch {number(training.micro_batch_size)} × {number(training.gradient_accumulation_steps)},"
                f" checkpointing {'on' if training.gradient_checkpointing else 'off'},"
                f" each GPU sends {size(option.estimate.sent_bytes)} in a step"
            )


def _row(mark: str, configuration: Configuration | NearestMiss) -> tuple[str, ...]:
    training, estimate = configuration.request.training, configuration.estimate
    assert estimate.fit is not None
    return (
        mark,
        plan_text.title(configuration),
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
    for change in configuration.roomier:
        assert change.estimate.fit is not None
        spare = signed(change.estimate.fit.headroom_bytes)
        yield f"   > {sentence(changes_text(change.changes))}: {spare} to spare. {change.rule.statement}"


def _missed(part: DevicePlan) -> Iterator[str]:
    miss = part.miss
    if miss is not None:
        training = miss.request.training
        yield f"Nearest: {plan_text.title(miss)}. {plan_text.shortfall(miss)}"
        yield table(HEAD, [_row("", miss)], left=4)
        yield f"With {number(training.sequence_length)} tokens per sequence, {training.dtype}, {training.attention}."
        yield from (f"! {warning}" for warning in miss.estimate.warnings)
        if miss.card is not None and miss.card_fit is not None:
            card, spare = plan_text.smallest_gpu(miss), size(miss.card_fit.headroom_bytes)
            yield f"The smallest GPU that fits it, {AMONG}: {card}, with {spare} to spare in training."
        else:
            yield f"{plan_text.without_gpu(miss)}, {AMONG}."
        if miss.why_no_shorter_sequence is not None:
            yield f"- {miss.why_no_shorter_sequence}"
    yield from (f"- {change.sentence}" for change in part.changes)
