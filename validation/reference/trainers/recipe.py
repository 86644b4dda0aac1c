"""A request's trainer and its settings."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from calculator.common.errors import refusal
from calculator.estimation.estimate import model_of
from calculator.estimation.request import Request, parse_request
from calculator.inputs.settings import declared
from calculator.inputs.training import Training
from calculator.trainers import TRAINERS as MODELED

if TYPE_CHECKING:
    from calculator.inputs.sharding import QuantStorage

TrainerName = Literal["transformers", "trl-sft", "trl-dpo", "trl-kto", "trl-reward", "trl-orpo", "trl-grpo", "trl-rloo"]

TRAINERS: tuple[TrainerName, ...] = get_args(TrainerName)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A trainer's step: the request of the same step without a trainer, the trainer, and its settings.

    `trl` is the version of TRL. `completion_tokens` is the number of labeled tokens of a micro-batch after the labels
    are shifted; None labels every token. `distribution` has the arguments that shard the run. `generates` is whether
    evaluation generates, which Seq2SeqTrainer does.
    """

    request: Request
    trainer: TrainerName
    use_liger_kernel: bool = False
    cut_cross_entropy: bool = False
    loss_type: str | None = None
    packing: bool = False
    packing_strategy: str = "bfd"
    padding_free: bool = False
    completion_tokens: int | None = None
    gradient_checkpointing_kwargs: dict[str, Any] | None = None
    precompute_ref_log_probs: bool = False
    beta: float | None = None
    num_generations: int | None = None
    max_completion_length: int | None = None
    use_vllm: bool = False
    activation_offloading: bool | None = None
    trl: str = "1.16"
    distribution: dict[str, Any] = field(default_factory=dict)
    generates: bool = False

    @property
    def quant_storage(self) -> QuantStorage:
        """The dtype that holds packed 4-bit weights."""
        return getattr(self.request.method, "quant_storage", "uint8")

    @property
    def steps(self) -> int:
        """The optimizer steps to run: the last is traced.

        Several GPUs take one more to learn the model's order. LISA's steps reach every layer before the last.
        """
        drawn = getattr(self.request.method, "lisa_n_layers", None)
        if drawn is not None:
            return -(-len(model_of(self.request.model).decoder.layers) // drawn) + 1
        return 2 if self.request.device.count == 1 else 3

    @property
    def batches(self) -> int:
        """The micro-batches of all GPUs in these steps."""
        training, device = self.request.training, self.request.device
        return self.steps * training.gradient_accumulation_steps * device.count

    @property
    def prepares(self) -> bool:
        """Whether the trainer itself prepares a quantized model for training, as ORPOTrainer and TRL before 1.0 do."""
        return self.trainer == "trl-orpo" or (self.trainer != "transformers" and self.trl.startswith("0."))


#: The fields of `training` that a trainer reads and the reference step does not.
SETTINGS = tuple(
    field.name for field in fields(Recipe) if field.name not in {"request", "trl", "distribution", "generates"}
)


#: Those that a request of a trainer that is modeled has too, with their defaults there.
DECLARED = {setting.name: setting.default for setting in declared(Training) if setting.name in SETTINGS}


def parse_recipe(body: Any) -> Recipe | None:
    """Return the recipe of an estimate's request; None for the reference step.

    A release of TRL that estimates don't know is traced too.

    Raises:
        PlanError: with the problems of the request, or the trainer that is not traced.
    """
    training = dict(body.get("training", {})) if isinstance(body, dict) else {}
    stack = dict(body.get("stack", {})) if isinstance(body, dict) else {}
    trainer = training.get("trainer")
    if trainer is None:
        return None
    if trainer not in TRAINERS:
        raise refusal("training.trainer", f"traced are {', '.join(TRAINERS)}", trainer)
    is_modeled = trainer in MODELED
    settings = {
        name: training.pop(name) for name in SETTINGS if name in training and not (is_modeled and name in DECLARED)
    }
    settings.pop("trainer", None)
    if "trl" in stack:
        settings["trl"] = stack.pop("trl")
    rest = {name: value for name, value in body.items() if name != "stack"}
    request = parse_request({**rest, "training": training, **({"stack": stack} if stack else {})})
    if is_modeled:
        settings |= _settings(request.training)
        request = replace(request, training=replace(request.training, **DECLARED))
    return Recipe(request=request, trainer=trainer, **settings)


def _settings(training: Training) -> dict[str, Any]:
    """Return the settings of a recipe that a request has."""
    options = training.gradient_checkpointing_kwargs
    values = {name: getattr(training, name) for name in DECLARED if name != "trainer"}
    return {**values, "gradient_checkpointing_kwargs": asdict(options) if options is not None else None}
