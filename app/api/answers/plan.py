"""What `POST /api/v1/plan` answers: configurations that fit, each with its estimate, its cost and the reasons."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from app.api.answers.estimate import Answer, EstimateAnswer, described
from calculator.plan.nearest_miss import AMONG

if TYPE_CHECKING:
    from calculator.estimate.request import Request
    from calculator.plan.nearest_miss import NearestMiss
    from calculator.plan.plan import Configuration, DevicePlan, Plan
    from calculator.plan.suggestions import Suggestion


class RuleAnswer(Answer):
    """A rule that the plan follows."""

    name: str = described("Its name.", "merges")
    statement: str = described("What it says.", "A low-rank update can be added into the weights.")
    source: str = described("Where it comes from.", "Hu et al. 2021, arXiv 2106.09685, section 4.1")


class ReasonAnswer(Answer):
    """A reason for or against a configuration."""

    stance: str = described("Whether it speaks for or against.", "for")
    sentence: str = described(
        "The reason, with its numbers.", "Adapts every linear layer at r 16: 41.9 million parameters."
    )
    rule: RuleAnswer = described("The rule that it follows.", {"name": "all_linear"})


class CostTermAnswer(Answer):
    """A part of an optimizer step's cost."""

    name: str = described("Which part.", "recomputed layers")
    amount: int = described("How much of it, on each card.", 476_742_369_280_000)
    unit: str = described("What amount counts: operations or bytes.", "operations")
    relative: float = described("Its share of the reference step.", 0.48)
    formula: str = described("How the amount comes about.", "tokens × 2 × weights")
    substituted: str = described("The formula with its numbers.", "32,768 × 2 × 6,607,077,376")
    source: str = described("Where the rule comes from.", "Kaplan et al. 2020, arXiv 2001.08361")


class CostAnswer(Answer):
    """An optimizer step's cost beside a reference step of the same model and batch."""

    relative: float = described("How many times the reference it is.", 1.49)
    operations: int = described("Floating-point operations of one optimizer step on each card.", 1_500_000_000_000_000)
    reference: str = described(
        "What the reference is.", "forward and backward over the frozen base with everything kept"
    )
    card: str = described("Whose rated speeds weigh bytes against operations.", "GeForce RTX 4090")
    terms: tuple[CostTermAnswer, ...] = described("Its parts, which sum to it.", [{"name": "recomputed layers"}])


class ConfigurationAnswer(Answer):
    """A complete configuration that fits."""

    label: str = described("What it is, in words.", "LoRA, r 16 on all-linear")
    request: dict[str, Any] = described(
        "The body of its estimate, for POST /api/v1/estimate.", {"method": {"name": "lora"}}
    )
    effective_batch_size: int = described("Micro-batch × accumulation × cards.", 16)
    task_bytes: int = described("What one task adds beside the base; of full fine-tuning, a model.", 167_772_160)
    cost: CostAnswer = described("What an optimizer step costs.", {"relative": 1.49})
    reasons: tuple[ReasonAnswer, ...] = described("What speaks for and against it.", [{"stance": "for"}])
    roomier: tuple[RoomierAnswer, ...] = described(
        "Where it leaves little: what leaves more.", [{"saved_bytes": 242_221_056}]
    )
    estimate: EstimateAnswer = described("Its estimate.", {"memory": {"required_bytes": 21_494_661_120}})


class RoomierAnswer(Answer):
    """A single change that leaves more of the card."""

    changes: dict[str, Any] = described("What it sets, by paths of the request.", {"method.r": 8})
    saved_bytes: int = described("What is required less with it.", 242_221_056)
    headroom_bytes: int = described("What is to spare with it.", 247_463_936)
    cost: float = described("A token's share of the step, beside that of the configuration.", 0.99)
    rule: RuleAnswer = described("The rule that says its price.", {"name": "rank"})
    request: dict[str, Any] = described("The body of its estimate.", {"method": {"r": 8}})


class RuledOutAnswer(Answer):
    """A method that is not proposed."""

    method: str = described("The method's name.", "prefix")
    sentence: str = described("Why.", "Needs at least 25.7 GiB, 2.2 GiB more than the 23.5 GiB that the card offers.")
    rule: RuleAnswer | None = described(
        "The rule that it follows; null where the real stack refuses it.", {"name": "fits"}
    )


class ChangeAnswer(Answer):
    """A change that makes something fit."""

    sentence: str = described("What to change.", "With 1,472 tokens a sequence instead of 2,048 it fits.")
    sets: dict[str, Any] = described("What it sets: needs, or the model.", {"sequence_length": 1472})


class TogetherAnswer(Answer):
    """Every task's module beside the base, as all lie on the card at once."""

    tasks: int = described("How many tasks there are.", 20_000)
    bytes: int = described("What they take with the base, the CUDA context and one request.", 367_634_939_904)
    usable_bytes: int = described("What the card offers.", 85_094_039_552)
    most: int = described("How many tasks the card would hold.", 2754)


class MissAnswer(Answer):
    """The configuration that comes nearest where nothing fits."""

    label: str = described("What it is, in words.", "QLoRA, r 4 on all-linear")
    request: dict[str, Any] = described("The body of its estimate.", {"method": {"name": "qlora"}})
    cost: CostAnswer = described("What an optimizer step costs.", {"relative": 1.63})
    short_bytes: int = described("By how much it misses: in training, or with all tasks at once.", 25_484_402_688)
    together: TogetherAnswer | None = described("Where all tasks are held at once: what they take.", None)
    unhelped: str | None = described("Why no shorter sequence makes it fit; null where something does.", None)
    smallest_gpu: str | None = described(f"The smallest card that holds it, {AMONG}; null where none does.", "a40")
    smallest_gpu_headroom_bytes: int | None = described("What is to spare on that card.", 1_000_000_000)
    smallest_gpu_request: dict[str, Any] | None = described(
        "The body of the estimate on that card; its dtype is what that card computes in.", {"device": {"gpu": "a40"}}
    )
    estimate: EstimateAnswer = described("Its estimate.", {"memory": {"required_bytes": 50_735_349_760}})


class DevicePlanAnswer(Answer):
    """What is proposed for one model on one device."""

    model: str = described("The model's id, or its family.", "meta-llama/Llama-3.1-8B")
    parameters: int = described("Its parameters.", 8_030_261_248)
    device: dict[str, Any] = described("The device.", {"gpu": "rtx-4090"})
    configurations: tuple[ConfigurationAnswer, ...] = described("What fits, best first.", [{"label": "LoRA, r 16"}])
    ruled_out: tuple[RuledOutAnswer, ...] = described("Methods that are not proposed.", [{"method": "full"}])
    nearest_miss: MissAnswer | None = described("What comes nearest where nothing fits, if anything does.", None)
    changes: tuple[ChangeAnswer, ...] = described(
        "Where nothing fits: what would make it.", [{"sets": {"model": "gpt2"}}]
    )
    estimates: int = described("How many estimates the search took.", 37)


class PlanAnswer(Answer):
    """Ranked configurations for each model on each device."""

    plans: tuple[DevicePlanAnswer, ...] = described(
        "A part for each model on each device, in order.", [{"model": "gpt2"}]
    )
    assumptions: tuple[str, ...] = described("What the order and the costs rest on.", ["Quality is a tier."])


def answer_of(plan: Plan) -> PlanAnswer:
    """The API's answer."""
    return PlanAnswer(plans=tuple(map(_part, plan.plans)), assumptions=plan.assumptions)


def request_of(request: Request) -> dict[str, Any]:
    """The body of an estimate's request, with every setting written out."""
    reference = request.model
    return {
        "model": reference.id if reference.id is not None else {"config": reference.config},
        "method": {"name": request.method.name, **_written(request.method)},
        "training": _written(request.training),
        "device": _written(request.device),
    }


def _written(settings: Any) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}


def _part(part: DevicePlan) -> DevicePlanAnswer:
    return DevicePlanAnswer.model_validate(
        {
            "model": part.model,
            "parameters": part.parameters,
            "device": _written(part.device),
            "configurations": [_configuration(each) for each in part.configurations],
            "ruled_out": part.ruled_out,
            "changes": part.changes,
            "nearest_miss": _miss(part.miss) if part.miss else None,
            "estimates": part.estimates,
        },
        from_attributes=True,
    )


def _configuration(configuration: Configuration) -> dict[str, Any]:
    training = configuration.request.training
    sequences = training.micro_batch_size * training.gradient_accumulation_steps
    return {
        "label": configuration.label,
        "request": request_of(configuration.request),
        "effective_batch_size": sequences * configuration.request.device.count,
        "roomier": [_roomier(each) for each in configuration.roomier],
        **{name: getattr(configuration, name) for name in ("task_bytes", "cost", "reasons", "estimate")},
    }


def _roomier(suggestion: Suggestion) -> dict[str, Any]:
    return {
        "request": request_of(suggestion.request),
        "headroom_bytes": suggestion.estimate.fit.headroom_bytes if suggestion.estimate.fit else None,
        **{name: getattr(suggestion, name) for name in ("changes", "saved_bytes", "cost", "rule")},
    }


def _miss(miss: NearestMiss) -> dict[str, Any]:
    return {
        "label": miss.label,
        "request": request_of(miss.request),
        "unhelped": miss.why_no_shorter_sequence,
        **{name: getattr(miss, name) for name in ("cost", "short_bytes", "together")},
        "smallest_gpu": miss.card.id if miss.card else None,
        "smallest_gpu_headroom_bytes": miss.card_fit.headroom_bytes if miss.card_fit else None,
        "smallest_gpu_request": request_of(miss.card_request) if miss.card_request else None,
        "estimate": miss.estimate,
    }
