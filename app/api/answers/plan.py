"""Answer of `POST /api/v1/plan`: configurations that fit, each with its estimate, cost and reasons."""

from dataclasses import asdict
from typing import Any

from app.api.answers.answer import Answer, described
from app.api.answers.estimate import ComparedEstimateAnswer
from app.api.answers.interval import IntervalAnswer
from calculator.estimation.request import Request
from calculator.inference.multi_adapter import MultiAdapterFootprint
from calculator.planning.nearest_miss import AMONG, NearestMiss
from calculator.planning.plan import Configuration, DevicePlan, Plan
from calculator.planning.sharding_options import ShardingOption
from calculator.planning.suggestions import Suggestion
from calculator.speed.token_cost import TokenCost


class RuleAnswer(Answer):
    """A rule that the planner follows."""

    name: str = described("The rule's name.", "merges")
    statement: str = described("The rule.", "A low-rank update can be merged into the weights.")
    source: str = described("Source of the rule.", "Hu et al. 2021, arXiv 2106.09685, section 4.1")


class ReasonAnswer(Answer):
    """A reason for or against a configuration."""

    stance: str = described("for or against.", "for")
    sentence: str = described(
        "The reason, with numbers.", "Adapts every linear layer at r 16: 41.9 million parameters."
    )
    rule: RuleAnswer = described("The rule behind the reason.", {"name": "all_linear"})


class CostTermAnswer(Answer):
    """A part of an optimizer step's cost."""

    name: str = described("What the part is.", "recomputed layers")
    amount: int = described("The amount on each GPU.", 476_742_369_280_000)
    unit: str = described("The unit of amount: operations or bytes.", "operations")
    relative: float = described("The part's cost, relative to the reference step.", 0.48)
    formula: str = described("The formula for the amount.", "tokens × 2 × weights")
    substituted: str = described("The formula with numbers.", "32,768 × 2 × 6,607,077,376")
    source: str = described("Source of the formula.", "Kaplan et al. 2020, arXiv 2001.08361")


class CostAnswer(Answer):
    """The cost of an optimizer step, relative to a reference step of the same model and batch."""

    relative: float = described("The cost divided by that of the reference step.", 1.49)
    operations: int = described("Floating-point operations of one optimizer step on each GPU.", 1_500_000_000_000_000)
    reference: str = described("The reference step.", "forward and backward over the frozen base with everything kept")
    card: str = described("The GPU whose data sheet weighs bytes moved against operations.", "GeForce RTX 4090")
    terms: tuple[CostTermAnswer, ...] = described(
        "The parts of the cost, which add up to it.", [{"name": "recomputed layers"}]
    )


class RoomierAnswer(Answer):
    """A single change that leaves more memory free."""

    changes: dict[str, Any] = described("The settings to change, by dotted path.", {"method.r": 8})
    saved_bytes: int = described("By how much required_bytes decreases.", 242_221_056)
    headroom_bytes: int = described("The headroom after the change.", 247_463_936)
    cost: float = described("The cost of a token after the change, relative to the configuration.", 0.99)
    rule: RuleAnswer = described("The rule that states the price of the change.", {"name": "rank"})
    request: dict[str, Any] = described("The request body after the change.", {"method": {"r": 8}})


class TokenCostAnswer(Answer):
    """The money for a token of a configuration, by the speeds of published runs near it."""

    price_per_hour: float = described("The price of an hour of the device.", 2.5)
    currency: str = described("The price's currency; empty if the request gives the price.", "USD")
    origin: str = described("Where the price comes from, with its date.", "price_per_hour of the request")
    tokens_per_second: IntervalAnswer = described("The speed.", {"low": 1424.7, "high": 3353.8})
    per_million_tokens: IntervalAnswer = described("The cost of a million trained tokens.", {"low": 0.2, "high": 0.5})


class ConfigurationAnswer(Answer):
    """A complete configuration that fits."""

    label: str = described("A short description.", "LoRA, r 16 on all-linear")
    request: dict[str, Any] = described(
        "The configuration as a request body for POST /api/v1/estimate.", {"method": {"name": "lora"}}
    )
    effective_batch_size: int = described("Micro-batch size × gradient accumulation steps × GPUs.", 16)
    task_bytes: int = described(
        "Bytes that one task adds to the base model; for full fine-tuning, a whole model.", 167_772_160
    )
    sent_bytes: int = described("Bytes that each GPU sends to the others in a step; 0 on one GPU.", 0)
    fewest_gpus: int = described(
        "The smallest number of GPUs that fits it, of those that divide the batch and are at most device.count.", 1
    )
    cost: CostAnswer = described("The cost of an optimizer step.", {"relative": 1.49})
    token_cost: TokenCostAnswer | None = described(
        "The money for a token; null if cost is no priority, or no published run is near.", None
    )
    reasons: tuple[ReasonAnswer, ...] = described("Reasons for and against the configuration.", [{"stance": "for"}])
    roomier: tuple[RoomierAnswer, ...] = described(
        "If little memory is left, changes that leave more.", [{"saved_bytes": 242_221_056}]
    )
    estimate: ComparedEstimateAnswer = described("The estimate.", {"memory": {"required_bytes": 21_494_661_120}})


class RuledOutAnswer(Answer):
    """A method that is not proposed."""

    method: str = described("The method's name.", "prefix")
    sentence: str = described("Why.", "Needs at least 25.7 GiB, 2.2 GiB more than the 23.5 GiB that the GPU offers.")
    rule: RuleAnswer | None = described(
        "The rule behind the decision; null if the libraries refuse the combination.", {"name": "fits"}
    )


class ChangeAnswer(Answer):
    """A change to the request with which something fits."""

    sentence: str = described("The change in words.", "With 1,472 tokens per sequence instead of 2,048 it fits.")
    sets: dict[str, Any] = described(
        "The needs to set, the model, or the device's count and sharding.", {"sequence_length": 1472}
    )


class TogetherAnswer(Answer):
    """The memory of the base model with the modules of all tasks on one device."""

    tasks: int = described("Number of tasks.", 20_000)
    bytes: int = described("Bytes of the base model, all modules, the CUDA context and one request.", 367_634_939_904)
    usable_bytes: int = described("Bytes that a process can use on the device.", 85_094_039_552)
    most: int = described("The largest number of tasks that fits.", 2754)


class MissAnswer(Answer):
    """The configuration that comes closest, if nothing fits."""

    label: str = described("A short description.", "QLoRA, r 4 on all-linear")
    request: dict[str, Any] = described("The configuration as a request body.", {"method": {"name": "qlora"}})
    cost: CostAnswer = described("The cost of an optimizer step.", {"relative": 1.63})
    short_bytes: int = described("How many bytes are missing, in training or with all tasks at once.", 25_484_402_688)
    together: TogetherAnswer | None = described(
        "If all tasks must be on the device at once, their memory; else null.", None
    )
    unhelped: str | None = described("Why no shorter sequence makes it fit; null if a shorter one does.", None)
    smallest_gpu: str | None = described(
        f"The smallest GPU on which it fits, {AMONG}, as many as the request has; null if there is none.", "a40"
    )
    smallest_gpu_headroom_bytes: int | None = described("The headroom on that GPU.", 1_000_000_000)
    smallest_gpu_request: dict[str, Any] | None = described(
        "The request body for that GPU; its dtype is one in which the GPU computes.", {"device": {"gpu": "a40"}}
    )
    estimate: ComparedEstimateAnswer = described("The estimate.", {"memory": {"required_bytes": 50_735_349_760}})


class ShardingAnswer(Answer):
    """The first configuration's method under one sharding."""

    sharding: str = described("The sharding.", "fsdp")
    sentence: str | None = described("Why the method is refused or does not fit; null if it fits.", None)
    request: dict[str, Any] | None = described(
        "The best configuration as a request body; null if there is none.", {"device": {"sharding": "fsdp"}}
    )
    required_bytes: int | None = described("Bytes that it requires of each GPU.", 26_719_903_744)
    headroom_bytes: int | None = described("The headroom on each GPU.", 58_308_075_520)
    cost: float | None = described("The cost of an optimizer step, relative to the reference step.", 1.49)
    sent_bytes: int | None = described("Bytes that each GPU sends to the others in a step.", 264_936_000_000)


class DevicePlanAnswer(Answer):
    """The proposals for one model on one device."""

    model: str = described("The model's id, or its family.", "meta-llama/Llama-3.1-8B")
    parameters: int = described("Number of parameters of the model.", 8_030_261_248)
    device: dict[str, Any] = described("The device.", {"gpu": "rtx-4090"})
    configurations: tuple[ConfigurationAnswer, ...] = described(
        "Configurations that fit, best first.", [{"label": "LoRA, r 16"}]
    )
    ruled_out: tuple[RuledOutAnswer, ...] = described("Methods that are not proposed.", [{"method": "full"}])
    nearest_miss: MissAnswer | None = described(
        "If nothing fits, the configuration that comes closest; else null.", None
    )
    changes: tuple[ChangeAnswer, ...] = described(
        "If nothing fits, changes with which something does.", [{"sets": {"model": "gpt2"}}]
    )
    shardings: tuple[ShardingAnswer, ...] = described(
        "The first configuration's method under each sharding, if the request names none for several GPUs; else empty.",
        [],
    )
    estimates: int = described("How many estimates the search computed.", 37)


class PlanAnswer(Answer):
    """Ranked configurations for each model on each device."""

    plans: tuple[DevicePlanAnswer, ...] = described(
        "One plan for each model on each device, in the requested order.", [{"model": "gpt2"}]
    )
    assumptions: tuple[str, ...] = described("What the ranking and the costs assume.", ["Quality is a tier."])


def plan_answer(plan: Plan) -> PlanAnswer:
    """Convert a plan to the API's answer."""
    return PlanAnswer(plans=tuple(map(_device_plan, plan.plans)), assumptions=plan.assumptions)


def request_body(request: Request) -> dict[str, Any]:
    """Return the request body of an estimate with every setting written out."""
    reference = request.model
    return {
        "model": reference.id if reference.id is not None else {"config": reference.config},
        "method": {"name": request.method.name, **_as_json(request.method)},
        "training": _as_json(request.training),
        "device": _as_json(request.device),
        "stack": _as_json(request.stack),
        "reserved": request.reserved,
    }


def _as_json(settings: Any) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}


def _device_plan(plan: DevicePlan) -> DevicePlanAnswer:
    return DevicePlanAnswer.model_validate(
        {
            "model": plan.model,
            "parameters": plan.parameters,
            "device": _as_json(plan.device),
            "configurations": [_configuration(configuration) for configuration in plan.configurations],
            "ruled_out": plan.ruled_out,
            "changes": plan.changes,
            "nearest_miss": _miss(plan.miss) if plan.miss else None,
            "shardings": [_sharding(sharding) for sharding in plan.shardings],
            "estimates": plan.estimates,
        },
        from_attributes=True,
    )


def _configuration(configuration: Configuration) -> dict[str, Any]:
    training = configuration.request.training
    sequences = training.micro_batch_size * training.gradient_accumulation_steps
    return {
        "label": configuration.label,
        "request": request_body(configuration.request),
        "effective_batch_size": sequences * configuration.request.device.count,
        "roomier": [_roomier(change) for change in configuration.roomier],
        "token_cost": configuration.token_cost and _token_cost(configuration.token_cost),
        "sent_bytes": configuration.estimate.sent_bytes,
        **{name: getattr(configuration, name) for name in ("task_bytes", "fewest_gpus", "cost", "reasons", "estimate")},
    }


def _sharding(option: ShardingOption) -> dict[str, Any]:
    estimate = option.estimate
    return {
        "sharding": option.sharding,
        "sentence": option.sentence or None,
        "request": request_body(option.request) if option.request else None,
        "required_bytes": estimate.memory.required_bytes if estimate else None,
        "headroom_bytes": estimate.fit.headroom_bytes if estimate and estimate.fit else None,
        "cost": option.cost.relative if option.cost else None,
        "sent_bytes": estimate.sent_bytes if estimate else None,
    }


def _token_cost(cost: TokenCost) -> dict[str, Any]:
    return {
        "price_per_hour": cost.price.per_hour,
        "currency": cost.price.currency,
        "origin": cost.price.origin,
        "tokens_per_second": cost.speed.tokens_per_second,
        "per_million_tokens": cost.per_million_tokens,
    }


def _roomier(suggestion: Suggestion) -> dict[str, Any]:
    return {
        "request": request_body(suggestion.request),
        "headroom_bytes": suggestion.estimate.fit.headroom_bytes if suggestion.estimate.fit else None,
        **{name: getattr(suggestion, name) for name in ("changes", "saved_bytes", "cost", "rule")},
    }


def _footprint(footprint: MultiAdapterFootprint) -> dict[str, Any]:
    return {
        "most": footprint.max_tasks,
        **{name: getattr(footprint, name) for name in ("tasks", "bytes", "usable_bytes")},
    }


def _miss(miss: NearestMiss) -> dict[str, Any]:
    return {
        "label": miss.label,
        "request": request_body(miss.request),
        "unhelped": miss.why_no_shorter_sequence,
        "together": _footprint(miss.footprint) if miss.footprint else None,
        **{name: getattr(miss, name) for name in ("cost", "short_bytes")},
        "smallest_gpu": miss.card.id if miss.card else None,
        "smallest_gpu_headroom_bytes": miss.card_fit.headroom_bytes if miss.card_fit else None,
        "smallest_gpu_request": request_body(miss.card_request) if miss.card_request else None,
        "estimate": miss.estimate,
    }
