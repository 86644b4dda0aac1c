"""Adaption prompts (LLaMA-Adapter, Zhang et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements, named
from calculator.architecture.model import Layer, Stack
from calculator.common.errors import refusal
from calculator.inputs.settings import setting
from calculator.methods.adaption_prompt import layer
from calculator.methods.adaption_prompt.facts import FACTS
from calculator.methods.base import Method
from calculator.resident.tensor import ResidentTensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Model
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules

    Forward = Callable[[Context, LayerModules, Tensor, Tensor, Tensor, Tensor], Tensor]

#: The function that wraps the attention of a family, and the name of the attention module. Source: peft 0.21,
#: tuners/adaption_prompt/config.py, TRANSFORMERS_MODEL_CONFIG.
FAMILIES: dict[str, tuple[str, Forward]] = {
    "llama": ("self_attn", layer.rotary_attention),
    "mistral": ("self_attn", layer.rotary_attention),
    "gpt2": ("attn", layer.gpt2_attention),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptionPrompt(Method):
    """Adaption prompts: a prompt and a gate in each of the topmost layers."""

    name = "adaption_prompt"
    facts = FACTS

    adapter_len: int = setting(
        10, label="Prompt length", help="The trained tokens in each layer with a prompt.", minimum=1, maximum=1_000_000
    )
    adapter_layers: int = setting(
        8,
        label="Layers with a prompt",
        help="The number of layers with a prompt, counted from the last layer.",
        minimum=1,
        maximum=10_000,
    )

    @property
    def label_parts(self) -> tuple[str, ...]:
        """The prompts' length and number."""
        return (f"{self.adapter_len} tokens in {self.adapter_layers} layers",)

    @property
    def binds_forward(self) -> bool:
        """True: PEFT's model binds it.

        Source: peft 0.21, tuners/adaption_prompt/model.py, AdaptionPromptModel.__init__.
        """
        return True

    @property
    def differs_between_layers(self) -> bool:
        """True if some layers are below the topmost ones and have no prompt."""
        return True

    def check(self, model: Model, training: Training) -> None:
        """Refuse families and numbers of layers that PEFT refuses."""
        if model.model_type not in FAMILIES:
            message = f"PEFT has no adaption prompts for {model.model_type}, only for llama, mistral and gpt2"
            raise refusal("method.name", f"{message}: use another method", self.name)
        if model.task.name != "causal_lm":
            message = f"adaption prompts are not modeled for {model.task.name}: use causal_lm, or another method"
            raise refusal("task", message, model.task.name)
        _divides_heads(model)
        count = len(model.decoder.layers)
        if self.adapter_layers > count:
            message = f"the model has {count:,} layers: use at most that"
            raise refusal("method.adapter_layers", message, self.adapter_layers)
        Method.check(self, model, training)

    def warnings(self, model: Model, training: Training) -> tuple[str, ...]:  # noqa: ARG002
        """Return the warning that `adapter_dtype` has no effect."""
        if training.added_dtype == training.dtype:
            return ()
        return (
            "PEFT's adaption prompts have the dtype of the base model and ignore adapter_dtype; so do the figures.",
        )

    def with_layers(self, model: Model) -> Model:
        """Return the model with a separate kind for each kind of layer that has a prompt."""
        stack = model.decoder
        if any(module.layer is not None for layer in stack.layers for module in layer.modules):
            return model
        first = len(stack.layers) - self.adapter_layers
        kinds: dict[Layer, Layer] = {}
        layers = (
            *stack.layers[:first],
            *(kinds.setdefault(layer, _adapted_layer(layer, first)) for layer in stack.layers[first:]),
        )
        changed = Stack(name=stack.name, layers=layers)
        return replace(model, parts=tuple(changed if part is stack else part for part in model.parts))

    def _shapes(self, model: Model) -> dict[str, Shape]:
        prompt = (1, named(self.adapter_len, "adapter_len"), model.config["hidden_size"])
        return {"adaption_prompt": prompt, "adaption_gate": (1,)}

    def added(self, model: Model, training: Training) -> tuple[ResidentTensor, ...]:
        """Return the prompts and gates, in the dtype of the base whatever `adapter_dtype` is.

        Where PEFT adds none, there are none.
        """
        if model.model_type not in FAMILIES:
            return ()
        return tuple(
            ResidentTensor(
                name=f"{model.decoder.name}.*.{FAMILIES[model.model_type][0]}.{name}",
                shape=shape,
                dtype=training.dtype,
                component="adapter_weights",
                count=self.adapter_layers,
                parameters=elements(shape),
                trained=True,
                base=False,
            )
            for name, shape in self._shapes(model).items()
        )

    def after_attention(self, context: Context, modules: LayerModules, x: Tensor, output: Tensor) -> Tensor:
        """Attend to the layer's prompt, if it has one."""
        if not any(bound.module.layer is not None for bound in modules.values()):
            return output
        name, forward = FAMILIES[context.model.model_type]
        path = f"{modules.prefix}{name}"
        prompt, gate = (
            context.parameters.new(f"{path}.{parameter}", shape, context.training.dtype, trained=True)
            for parameter, shape in self._shapes(context.model).items()
        )
        context.set_scope(f"{path}: ")
        return forward(context, modules, x, output, prompt, gate)


def _adapted_layer(kind: Layer, index: int) -> Layer:
    """Return a kind of layer whose modules have the number of the first layer with a prompt."""
    return replace(kind, modules=tuple(replace(module, layer=index) for module in kind.modules))


def _divides_heads(model: Model) -> None:
    """Refuse heads that PEFT counts wrongly.

    It computes how often keys are shared from the widths of the projections.
    """
    config = model.config
    if "num_key_value_heads" not in config:
        return
    groups = config["num_attention_heads"] // config["num_key_value_heads"]
    width = config["num_key_value_heads"] * config["head_dim"]
    if config["hidden_size"] // width != groups:
        message = (
            f"PEFT shares each key among hidden_size // {width:,} = {config['hidden_size'] // width:,} heads, not among"
            f" {groups:,}, and raises an error: use another method"
        )
        raise refusal("method.name", message, "adaption_prompt")
