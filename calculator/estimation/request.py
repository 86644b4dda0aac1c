"""The request for an estimate, parsed from decoded JSON."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from calculator import catalogue
from calculator.allocator.alloc_conf import parse_alloc_conf
from calculator.architecture.task import CAUSAL_LM, Task
from calculator.common.errors import PlanError, Problem, refusal
from calculator.common.names import ProblemType, TaskName  # noqa: TC001  `declared` evaluates annotations
from calculator.devices.gpus import gpu
from calculator.estimation.loss_choice import parse_settings
from calculator.estimation.stated_base import with_stated_base
from calculator.inputs.device import Device
from calculator.inputs.sample_lengths import problem_of_lengths
from calculator.inputs.settings import declared, parse
from calculator.inputs.settings import setting as _setting
from calculator.inputs.sharding import STAGES
from calculator.inputs.stack import StackVersions
from calculator.inputs.training import Training
from calculator.inputs.unknown_fields import unknown_field
from calculator.methods import METHODS, Method
from calculator.methods.other_names import must_be_a_method
from calculator.stack.releases import parse_stack
from calculator.trainers import trainer_of

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The fields of a request that are objects.
OBJECTS = ("model", "method", "training", "device", "stack")

#: The trainers that generate the completions they train on.
GENERATE = ("trl-grpo", "trl-rloo")

#: The maximum depth of nested objects and lists in a request.
MAX_DEPTH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReference:
    """The model of a request, and its task.

    It has exactly one of an id, a `config.json`, and a number of parameters.
    """

    id: str | None = None
    config: dict[str, Any] | None = None
    parameters: int | None = None
    task: Task = CAUSAL_LM


#: The ways in which reserved memory is computed.
ReservedBy = Literal["rule", "replay"]


#: The engine that answers.
EngineChoice = Literal["auto", "calculator", "traced"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservedMemory:
    """How reserved memory is computed."""

    reserved: ReservedBy = _setting(
        "replay",
        label="Reserved memory",
        help="How reserved memory is computed: by a replay of the caching allocator, or by a fast, conservative rule.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices(ReservedMemory):
    """The options of a request that are not part of its model, method, training or device."""

    accounting: Literal["exact", "textbook"] = _setting(
        "exact", label="Accounting", help="Every tensor of the step (exact), or the lesson's rules of thumb (textbook)."
    )
    task: TaskName = _setting(
        "causal_lm",
        label="Task",
        help="What the model is trained for, as PEFT's TaskType: causal_lm predicts the next token; seq_cls classifies "
        "sequences (AutoModelForSequenceClassification); token_cls classifies tokens; question_ans finds an "
        "answer's first and last token; seq_2_seq_lm generates a target from a source text "
        "(AutoModelForSeq2SeqLM) or from audio (AutoModelForSpeechSeq2Seq); feature_extraction embeds texts "
        "(AutoModel, with the MultipleNegativesRankingLoss of sentence-transformers); image_cls classifies images "
        "(AutoModelForImageClassification; PEFT has no TaskType for it).",
        example="seq_cls",
    )
    num_labels: int = _setting(
        2,
        label="Number of labels",
        help="The outputs of a classifier (num_labels of its config). Only with task seq_cls, token_cls or image_cls.",
        minimum=1,
        maximum=1_000_000,
        example=3,
    )
    problem_type: ProblemType | None = _setting(
        None,
        label="Problem type",
        help="The loss of a classifier (problem_type of its config); null means regression with one label, and "
        "single_label_classification with several. Only with task seq_cls or image_cls.",
        example="single_label_classification",
        empty="by the number of labels",
    )
    engine: EngineChoice = _setting(
        "auto",
        label="Engine",
        help="The calculator, or a trace of the real modules, which needs PyTorch. With auto, a single estimate of a "
        "model that the calculator does not support is traced.",
    )


Options = TypeVar("Options", bound=ReservedMemory)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request for an estimate.

    `length_given` is whether it sets a sequence length. Otherwise the default is used. If the micro-batches of a
    training are drawn, `drawn` is that training, and `training` is that of the longest micro-batch. LoRA trains over
    the base that the model's `config.json` states.
    """

    model: ModelReference
    method: Method
    training: Training = field(default_factory=Training)
    device: Device = field(default_factory=Device)
    stack: StackVersions = field(default_factory=StackVersions)
    reserved: ReservedBy = "replay"
    accounting: Literal["exact", "textbook"] = "exact"
    engine: EngineChoice = "auto"
    length_given: bool = True
    drawn: Training | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", with_stated_base(self.method, self.model))

    @property
    def task(self) -> TaskName:
        """The task that the model is trained for."""
        return self.model.task.name

    @property
    def num_labels(self) -> int:
        """The number of outputs of a classifier."""
        return self.model.task.num_labels

    @property
    def problem_type(self) -> ProblemType | None:
        """The loss of a classifier."""
        return self.model.task.problem_type


def parse_request(body: Any, *, catalogued: bool = True, others: tuple[str, ...] = ()) -> Request:
    """Parse an estimate's request from decoded JSON.

    `catalogued`: whether the names of its model and its GPU must be in the catalogues. `others`: the fields of the body
    that the caller parses.

    Raises:
        PlanError: with every problem found, each at its dotted path.
    """
    if not isinstance(body, dict):
        raise refusal("", "the request must be an object", body)
    fields = known_fields()
    known = (*fields, *others)
    problems = [Problem(loc=key, msg=unknown_field(key, known), input=body[key]) for key in body if key not in known]

    def checked(build: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return build(*arguments, **options)
        except PlanError as error:
            problems.extend(error.problems)
            return None

    model = checked(parse_model, body.get("model"), catalogued=catalogued)
    method = checked(parse_method, body.get("method"))
    training = checked(parse_training, body.get("training", {}))
    device = checked(parse_device, body.get("device", {}), catalogued=catalogued)
    stack = checked(parse_stack, body.get("stack", {}))
    switches = checked(_options, Choices, body, fields[len(OBJECTS) :])
    if switches is not None:
        problems += _classifier_problems(switches, body)
    if problems:
        raise PlanError(*problems)
    task = Task(
        name=switches.task,
        num_labels=switches.num_labels,
        problem_type=switches.problem_type,
        has_images=training.has_images,
    )
    return Request(
        model=replace(model, task=task),
        method=method,
        training=training,
        device=device,
        stack=stack,
        reserved=reserved_by(switches.reserved, device, training),
        accounting=switches.accounting,
        engine=switches.engine,
        length_given="sequence_length" in body.get("training", {}),
    )


@cache
def known_fields() -> tuple[str, ...]:
    """Return the fields of a request."""
    return (*OBJECTS, *(field.name for field in declared(Choices)))


def _classifier_problems(choices: Choices, body: dict[str, Any]) -> Iterator[Problem]:
    """Yield settings of a classifier in a request for another task."""
    if choices.num_labels != 2 and choices.task not in ("seq_cls", "token_cls", "image_cls"):
        message = "only classifiers have num_labels: set task seq_cls, token_cls or image_cls, or leave it out"
        yield Problem(loc="num_labels", msg=message, input=body["num_labels"])
    if choices.problem_type is not None and choices.task not in ("seq_cls", "image_cls"):
        message = "only classifiers have a problem_type: set task seq_cls or image_cls, or leave it out"
        yield Problem(loc="problem_type", msg=message, input=body["problem_type"])


def reserved_by(reserved: ReservedBy, device: Device, training: Training) -> ReservedBy:
    """Return how a run's reserved memory is computed. Runs that are not replayed use the rule."""
    if device.sharding in STAGES and not _is_replayed_under_zero(device, training):
        return "rule"
    return reserved


def _is_replayed_under_zero(device: Device, training: Training) -> bool:
    """Return whether a step under ZeRO is replayed.

    Steps of stage 3 with offload, of generation, or with micro-batches of several lengths are not.
    """
    offloads = (training.zero.offload_optimizer, training.zero.offload_param)
    if STAGES[device.sharding] == 3 and any(offload is not None and offload.device == "cpu" for offload in offloads):
        return False
    if trainer_of(training).facts.generates:
        return False
    return training.sequence_lengths is None and training.torch_empty_cache_steps is None


def parse_reserved(body: dict[str, Any]) -> ReservedBy:
    """Parse the `reserved` of a request.

    Raises:
        PlanError: if it is neither the rule nor the replay.
    """
    return _options(ReservedMemory, body, ("reserved",)).reserved


def _options(kind: type[Options], body: dict[str, Any], names: tuple[str, ...]) -> Options:
    try:
        return parse(kind, {key: body[key] for key in names if key in body}, "")
    except PlanError as error:
        raise PlanError(*(Problem(loc=p.loc.lstrip("."), msg=p.msg, input=p.input) for p in error.problems)) from error


def parse_training(body: Any) -> Training:
    """Parse the training settings, and check the sample lengths.

    Raises:
        PlanError: with every problem found, each at its dotted path.
    """
    training = parse_settings(body)
    wrong = problem_of_lengths(training.sequence_lengths or ())
    if wrong:
        raise refusal("training.sequence_lengths", wrong, body["sequence_lengths"])
    return _with_equal_completions(training)


def _with_equal_completions(training: Training) -> Training:
    """Return the training with the length of its completions, where the labeled tokens of a micro-batch give it.

    Without padding, all completions of a batch are equally long.
    """
    total, limit = training.completion_tokens, training.max_completion_length
    if training.trainer not in GENERATE or total is None or training.padding or total % training.micro_batch_size:
        return training
    length = total // training.micro_batch_size
    if length >= (training.sequence_length if limit is None else limit):
        return training
    return replace(training, completion_tokens=None, max_completion_length=length)


def parse_device(body: Any, loc: str = "device", *, catalogued: bool = True) -> Device:
    """Parse a device, and check its allocator settings and, if it must be `catalogued`, the name of its GPU.

    Raises:
        PlanError: with every problem found, each at its dotted path.
    """
    if isinstance(body, str):
        raise refusal(loc, 'must be an object, such as {"gpu": "rtx-4090"}', body)
    device = parse(Device, body, loc)
    problems: list[Problem] = []
    try:
        if catalogued and device.gpu is not None:
            gpu(device.gpu, f"{loc}.gpu")
    except PlanError as error:
        problems += error.problems
    try:
        parse_alloc_conf(device.alloc_conf or "")
    except PlanError as error:
        problems += (Problem(loc=f"{loc}.alloc_conf", msg=p.msg, input=device.alloc_conf) for p in error.problems)
    if problems:
        raise PlanError(*problems)
    return device


def parse_method(body: Any, loc: str = "method") -> Method:
    """Parse a method object: its `name` selects the settings."""
    if not isinstance(body, dict):
        example = body if isinstance(body, str) and body in METHODS else "lora"
        raise refusal(loc, f'a method object is required, such as {{"name": "{example}"}}', body)
    name = body.get("name")
    if not isinstance(name, str) or name not in METHODS:
        raise refusal(f"{loc}.name", must_be_a_method(name), name)
    return parse(METHODS[name], body, loc, ignore=("name",))


def parse_model(body: Any, loc: str = "model", *, catalogued: bool = True) -> ModelReference:
    """Parse the model of a request: an id, a `config.json`, or a bare parameter count.

    Raises:
        PlanError: if it is none of them, or if the id must be `catalogued` and is not.
    """
    if isinstance(body, str) and body.strip():
        if catalogued:
            catalogue.model(body.strip(), loc)
        return ModelReference(id=body.strip())
    if not isinstance(body, dict) or len(body) != 1:
        way_out = 'a catalogue id, {"config": {...}} with a config.json, or {"parameters": N} with textbook accounting'
        raise refusal(loc, f"must be {way_out}", body)
    ((key, value),) = body.items()
    if key == "config" and isinstance(value, dict):
        return ModelReference(config=value)
    if key == "parameters" and isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 10**15:
        return ModelReference(parameters=value)
    expected = {"config": "must be an object", "parameters": "must be a whole number from 1 to 10^15"}
    otherwise = "unknown field; known fields are config, parameters (a catalogue id is a string in place of the object)"
    raise refusal(f"{loc}.{key}", expected.get(key, otherwise), value)
