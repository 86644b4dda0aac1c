"""X-LoRA, a mixture of LoRA adapters (Buehler & Buehler 2024)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from calculator.architecture.dimension import elements, named
from calculator.architecture.model import Stack
from calculator.common.errors import PlanError, refusal
from calculator.inputs.settings import setting
from calculator.methods.low_rank.targets import FUSED_EXPERTS
from calculator.methods.targeted import settings
from calculator.methods.targeted.adapted_linear import AdaptedLinear
from calculator.methods.targeted.method import TargetModules  # noqa: TC001  `declared` evaluates annotations
from calculator.methods.xlora import classifier, layer, refusals
from calculator.methods.xlora.facts import FACTS
from calculator.resident.module_spec import Added
from calculator.resident.tensor import ResidentTensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.dimension import Dim
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.common.errors import Problem
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule, Wrapper
    from calculator.layers.context import Context


def _counted(model: Model) -> Iterator[tuple[str, Module, int]]:
    """Yield each module once, with its path and how often the model has it."""
    for part in model.parts:
        if isinstance(part, Stack):
            for layer, times in part.distinct:
                yield from ((module.under(f"{part.name}.*"), module, times) for module in layer.modules)
        else:
            yield part.name, part, 1


def _switch(label: str, text: str, *, default: bool) -> bool:
    value: bool = setting(default, label=label, help=text)
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class XLoRA(AdaptedLinear):
    """X-LoRA: a classifier of hidden states, whose outputs scale the inputs of frozen LoRA adapters."""

    name = "xlora"
    facts = FACTS
    refuses_checkpoint = "PEFT writes the classifier, and each adapter to a folder of its own"

    adapts_embeddings = True

    adapters: tuple[str, ...] = setting(
        ("adapter_0", "adapter_1"),
        label="Adapters",
        help="The trained LoRA adapters to mix: their folders, or their ids on the Hub. All have the rank, the dropout"
        " and the targets that are given here. PEFT loads them under the names 0, 1, and so on.",
        example=("adapter_0", "adapter_1", "adapter_2"),
    )
    r: int = setting(8, label="Rank", help="The rank of the adapters.", minimum=1, maximum=65_536, example=16)
    lora_dropout: float = settings.dropout()
    target_modules: TargetModules = settings.target_modules()
    hidden_size: int | None = setting(
        None,
        label="Hidden size",
        help="The width of the hidden states that the classifier reads. It must be the model's; null means that.",
        minimum=1,
        maximum=1_000_000,
        empty="the model's",
        form=False,
    )
    enable_softmax: bool = _switch("Softmax", "Apply a softmax to the scalings.", default=True)
    enable_softmax_topk: bool = _switch(
        "Softmax of the top k", "Apply a softmax to the scalings that top_k_lora keeps, in each layer.", default=False
    )
    layerwise_scalings: bool = _switch(
        "Layerwise scalings",
        "Predict scalings for each adapted module, instead of the same ones for all.",
        default=False,
    )
    xlora_depth: int = setting(
        1,
        label="Depth of the classifier",
        help="The number of linear layers of the classifier.",
        minimum=1,
        maximum=100,
    )
    xlora_size: int = setting(
        2048,
        label="Width of the classifier",
        help="The width between the classifier's linear layers; unused at depth 1.",
        minimum=1,
        maximum=1_000_000,
    )
    xlora_dropout_p: float = setting(
        0.2,
        label="Dropout of the classifier",
        help="Dropout between the layers of the classifier.",
        minimum=0,
        maximum=0.99,
    )
    use_trainable_adapters: bool = _switch(
        "Train the adapters", "Train the adapters together with the classifier.", default=False
    )
    softmax_temperature: float = setting(
        1.0, label="Temperature", help="The classifier's logits are divided by it.", minimum=1e-6, maximum=1e6
    )
    top_k_lora: int | None = setting(
        None,
        label="Adapters per token",
        help="The number of adapters that each token uses, those with the largest scalings; null means all.",
        minimum=1,
        maximum=10_000,
        example=1,
        empty="all",
    )
    scaling_pass_value: float = setting(
        0.0,
        label="Scalings of the first pass",
        help="The scaling of every adapter while the model computes the classifier's input.",
        minimum=-1e6,
        maximum=1e6,
    )
    global_scaling_weight: float = setting(
        1.0,
        label="Weight of the adapters",
        help="The output of every adapter is multiplied by it.",
        minimum=-1e6,
        maximum=1e6,
    )

    @property
    def modules_to_save(self) -> None:
        """None: X-LoRA trains no other modules."""
        return

    @property
    def couples_layers(self) -> bool:
        """True: every layer adds to the gradient of the scalings."""
        return True

    @property
    def runs_no_grad_first(self) -> bool:
        """True: the classifier reads the hidden states of a first pass."""
        return True

    @property
    def needs_no_cache(self) -> bool:
        """True: PEFT raises an error."""
        return True

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Sentences on the adapters, the cache and the first pass."""
        return (
            "X-LoRA's adapters have the same rank and targets, and are in float32, PEFT's default.",
            "config.use_cache is false, as PEFT's X-LoRA requires.",
            "Each forward pass runs the model twice, first under no_grad, to compute the classifier's input.",
        )

    def peft_arguments(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of XLoraConfig: adapters by their numbers, without what their own files contain."""
        own = {name: value for name, value in arguments.items() if name not in ("r", "lora_dropout", "target_modules")}
        return {**own, "adapters": {str(number): path for number, path in enumerate(self.adapters)}}

    def for_model(self, model: Model) -> XLoRA:
        """Return the method with the model's hidden size. A model of images has none for X-LoRA."""
        if self.hidden_size or "embedding" not in model.kinds:
            return self
        return replace(self, hidden_size=int(model.embedding.out_features))

    def check(self, model: Model, training: Training) -> None:
        """Refuse what PEFT refuses, and steps that fail."""
        problems = [*refusals.training_problems(training)]
        if problems:
            raise PlanError(*problems)
        AdaptedLinear.check(self, model, training)

    def has_default(self, model: Model) -> bool:
        """Return whether PEFT's LoRA has default names for the model's family. It has none if experts are fused."""
        return AdaptedLinear.has_default(self, model) and model.model_type not in FUSED_EXPERTS

    def refused_names(self, model: Model) -> tuple[str, ...]:
        """Return the names of fused experts and of routers."""
        return (*FUSED_EXPERTS.get(model.model_type, ()), *AdaptedLinear.refused_names(self, model))

    def own_problems(self, model: Model, targets: dict[str, Module]) -> Iterator[Problem]:
        """Yield settings that fail in PEFT's code, and models whose adapters it can't load."""
        yield from refusals.setting_problems(self, model, targets)

    def adapted_modules(self, model: Model) -> int:
        """Return the number of modules with updates, each of which has scalings."""
        return sum(times for path, module, times in _counted(model) if self.is_target(path, module, model))

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return A and B of every adapter."""
        r, trained = named(self.r, "r"), self.use_trainable_adapters
        shapes: dict[str, tuple[Dim | int, ...]] = {"A": (r, module.in_features), "B": (module.out_features, r)}
        return tuple(
            Added(name=layer.name_of(which, number), shape=shape, dtype="float32", trained=trained)
            for which, shape in shapes.items()
            for number in range(len(self.adapters))
        )

    def added(self, model: Model, training: Training) -> tuple[ResidentTensor, ...]:
        """Return the parameters of the classifier, in the dtype of the model's first parameter."""
        return self._classifier(model, training.dtype)

    def _classifier(self, model: Model, dtype: DType) -> tuple[ResidentTensor, ...]:
        hidden_size = named(model.embedding.out_features, "hidden_size")
        layers = [*classifier.linear_layers(self, hidden_size, self.adapted_modules(model))]
        shapes = {
            f"{name}.{kind}": shape
            for name, inputs, outputs in layers
            for kind, shape in (("weight", (outputs, inputs)), ("bias", (outputs,)))
        }
        return tuple(
            ResidentTensor(
                name=name,
                shape=shape,
                dtype=dtype,
                component="adapter_weights",
                parameters=elements(shape),
                trained=True,
                base=False,
            )
            for name, shape in shapes.items()
        )

    def saved_name(self, name: str) -> str:
        """Return the name under which PEFT writes a parameter. The classifier belongs to no module of the model."""
        return f"base_model.{name}" if name.startswith(classifier.PREFIX) else AdaptedLinear.saved_name(self, name)

    def saved_bytes(self, state: tuple[ResidentTensor, ...], model: Model) -> int:
        """Return the bytes of what PEFT writes of the classifier, and of trained adapters."""
        lost = {*self._unsaved_parameters(model)}
        return AdaptedLinear.saved_bytes(self, tuple(tensor for tensor in state if tensor.name not in lost), model)

    def _unsaved_parameters(self, model: Model) -> Iterator[str]:
        """Yield the classifier's parameters that PEFT does not write, because their names contain an adapter's number.

        Source: peft/utils/save_and_load.py, _filter_state_dict_for_adapter_name.
        """
        numbers = {*map(str, range(len(self.adapters)))}
        return (
            tensor.name for tensor in self._classifier(model, "float32") if numbers.intersection(tensor.name.split("."))
        )

    def warnings(self, model: Model, training: Training) -> tuple[str, ...]:
        """Return the layers of the classifier that are lost when the model is saved."""
        lost = sorted({name.rpartition(".")[0] for name in self._unsaved_parameters(model)})
        if not lost:
            return AdaptedLinear.warnings(self, model, training)
        message = (
            f"PEFT's save_pretrained does not write {', '.join(lost)}, whose number is also an adapter's name: save"
            " model.base_model.internal_xlora_classifier.state_dict() yourself."
        )
        return (*AdaptedLinear.warnings(self, model, training), message)

    def kept(self, context: Context) -> Tensor:
        """Return the scalings of the previous forward pass, to which the model refers until the next ones exist."""
        return context.tape.new(*classifier.retained_scalings(self, context), "internal_xlora_scalings")

    def before_no_grad_pass(self, context: Context) -> None:
        """Make the scalings of the first pass, which are numbers (make_dummy_scalings)."""
        shape = (context.batch, context.length, self.adapted_modules(context.model), len(self.adapters))
        context.scalings = context.tape.new(shape, context.prepared.given.dtype, "dummy scalings")

    def after_no_grad_pass(self, context: Context, hidden_states: Tensor) -> None:
        """Predict the scalings from the last hidden states of the first pass."""
        new = classifier.scalings(self, context, hidden_states)
        context.scalings = classifier.replaced(context.kept_by_method, new)

    def forward_in(self, context: Context) -> Wrapper:
        """Return the forward of adapted modules with the scalings of a pass."""
        return partial(layer.forward, self, context)

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:  # noqa: ARG002  the signature of adapted layers
        """Refuse a module that is called outside the model's forward pass, whose hooks pass the scalings.

        Raises:
            PlanError: always.
        """
        name = bound.name.rpartition(".*.")[2]
        message = (
            f"PEFT's hooks pass no scalings to {name} outside the model's forward pass: name target_modules without it"
        )
        raise refusal("method.target_modules", message, name)
