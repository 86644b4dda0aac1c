"""The changes that `use_liger_kernel` makes to each family's forward pass, and the families that it does not change.

Source: liger_kernel/transformers/monkey_patch.py of Liger 0.8.5, MODEL_TYPE_TO_APPLY_LIGER_FN.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.devices.kernels import kernels_of
from calculator.families import forward_of
from calculator.families.gemma4.forward import Gemma4Layer
from calculator.families.qwen3_5.forward import gated_attention, mixer, project_separately
from calculator.layers import mlp as plain_mlp
from calculator.layers.decoder_forward import final
from calculator.layers.decoder_layer import SequentialLayer, norm_by_name
from calculator.layers.liger import mlp, norms, rope
from calculator.layers.self_attention import SelfAttention, norm_after_projections, norm_each_projection
from calculator.stack.releases import release
from calculator.trainers import adapted_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.architecture.model import Model
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context
    from calculator.layers.decoder_forward import DecoderForward
    from calculator.layers.mlp import Sublayer
    from calculator.layers.self_attention import Project, Rotate
    from calculator.stack.releases import Release
    from calculator.trainers.subject import Subject

    Norm = Callable[[BoundModule, Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """Liger's replacements for a family's modules. None keeps the family's own module."""

    norm: Norm | None = norms.rms_norm
    #: The final norm, if it is another one than the norms of the layers.
    final_norm: Norm | None = None
    rotate: Rotate | None = rope.rotate_in_place
    project: Project | None = None
    #: The attention of a family whose attention is not SelfAttention.
    attention: Sublayer | None = None
    mlp: Sublayer = mlp.gated
    #: Whether the logits are computed, and Liger's kernel computes the loss from them.
    keeps_logits: bool = False

    def applied(self, forward: DecoderForward) -> DecoderForward:
        """Return the family's forward pass with these modules."""
        norm, logits = self.final_norm or self.norm, forward.logits if self.keeps_logits else _no_logits
        final_norm = final(norm) if norm else forward.final_norm
        return replace(forward, layer=self._layer(forward.layer), final_norm=final_norm, logits=logits)

    def _layer(self, layer: Sublayer) -> Sublayer:
        if isinstance(layer, partial):  # what runs around the family's layer
            return partial(layer.func, self._layer(layer.args[0]))
        if isinstance(layer, Gemma4Layer):
            assert self.norm is not None
            return replace(layer, norm=self.norm, mlp=self.mlp)
        assert isinstance(layer, SequentialLayer)
        attention = self.attention or self._self_attention(layer.attention)
        norm = norm_by_name(self.norm) if self.norm else layer.norm
        return replace(layer, attention=attention, mlp=self.mlp, norm=norm)

    def _self_attention(self, attention: Sublayer) -> SelfAttention:
        assert isinstance(attention, SelfAttention)
        return replace(attention, rotate=self.rotate or attention.rotate, project=self.project or attention.project)


def _no_logits(context: Context, logits: Tensor) -> Tensor:
    """Return nothing, because the logits are never computed."""
    raise AssertionError(context, logits)


_LLAMA = Patch()

#: The releases whose kernels are modeled.
MODELED: tuple[Release, ...] = ((0, 8), (0, 8, 5))

#: The trainers that pass no labels to the model. It computes the logits and no loss.
WITHOUT_LABELS = ("trl-orpo",)

#: The families that are patched and modeled.
PATCHES: dict[str, Patch] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": Patch(project=norm_each_projection(norms.rms_norm)),
    "smollm3": _LLAMA,
    "ministral": _LLAMA,
    "hunyuan_v1_dense": _LLAMA,
    "olmo2": Patch(norm=norms.out_of_place_rms_norm, final_norm=norms.rms_norm),
    "olmo3": Patch(norm=norms.out_of_place_rms_norm, final_norm=norms.rms_norm),
    "qwen3_5_text": Patch(
        norm=norms.out_of_place_rms_norm,
        rotate=None,
        attention=mixer(project_separately, gated_attention(norms.rms_norm_of_copy, norms.out_of_place_rms_norm)),
    ),
    "exaone4": Patch(
        norm=norms.out_of_place_rms_norm,
        project=norm_after_projections(norms.rms_norm_of_copy),
        rotate=rope.rotate_copies,
    ),
    "glm4": Patch(norm=norms.out_of_place_rms_norm, rotate=None, mlp=mlp.fused_gated),
    "granite": Patch(keeps_logits=True),
    "nemotron": Patch(
        norm=None, rotate=None, mlp=plain_mlp.plain("mlp.up_proj", "mlp.down_proj", act=mlp.relu_squared)
    ),
    "gemma4_text": Patch(norm=norms.out_of_place_rms_norm, rotate=None),
    "phi3": Patch(rotate=rope.rotate_copies, mlp=mlp.fused_gated),
    "gemma": _LLAMA,
    "gemma2": Patch(norm=norms.out_of_place_rms_norm),
    "gemma3_text": Patch(
        norm=norms.out_of_place_rms_norm,
        project=norm_after_projections(norms.rms_norm_of_copy),
        rotate=rope.rotate_copies,
    ),
}

#: Model types that Liger patches in a way that is not modeled.
NOT_MODELED = frozenset(
    {
        "deepseek_v2",
        "deepseek_v3",
        "falcon_h1",
        "gemma3",
        "gemma4",
        "gpt_oss",
        "internvl",
        "llama4",
        "llama4_text",
        "llava",
        "mixtral",
        "paligemma",
        "qwen2_5_vl",
        "qwen2_vl",
        "qwen3_5",
        "qwen3_5_moe",
        "qwen3_5_moe_text",
        "qwen3_moe",
        "qwen3_next",
        "qwen3_vl",
        "qwen3_vl_moe",
        "smolvlm",
    }
)


@cache
def _patched(model_type: str, forward: DecoderForward) -> DecoderForward:
    return PATCHES[model_type].applied(forward)


def is_patched(model: Model, training: Training) -> bool:
    """Return whether the run uses Liger's kernels.

    Families that Liger does not know train without them, with a warning in the log.
    """
    return training.use_liger_kernel and model.model_type in PATCHES


def computes_logits(model: Model, training: Training) -> bool:
    """Return whether Liger computes the loss of a run from all logits."""
    return is_patched(model, training) and PATCHES[model.model_type].keeps_logits


def forward_for(model: Model, training: Training) -> DecoderForward:
    """Return the forward pass of a model's family in a training run."""
    forward = forward_of(model)
    return _patched(model.model_type, forward) if is_patched(model, training) else forward


def forward_of_second(model: Model, training: Training) -> DecoderForward:
    """Return the forward pass of a second model of the family.

    The model was created before the patch, so only functions are replaced.
    """
    forward = forward_of(model)
    if not is_patched(model, training) or PATCHES[model.model_type].rotate is None:
        return forward
    return replace(forward, layer=_with_rotation(forward.layer, forward_for(model, training).layer))


def _with_rotation(layer: Sublayer, patched: Sublayer) -> Sublayer:
    """Return a layer with the rotation of a patched one."""
    if isinstance(layer, partial):  # what runs around the family's layer
        assert isinstance(patched, partial)
        return partial(layer.func, _with_rotation(layer.args[0], patched.args[0]))
    assert isinstance(layer, SequentialLayer)
    assert isinstance(patched, SequentialLayer)
    attention, other = layer.attention, patched.attention
    assert isinstance(attention, SelfAttention)
    assert isinstance(other, SelfAttention)
    return replace(layer, attention=replace(attention, rotate=other.rotate))


def problems(prepared: Subject) -> Iterator[Problem]:
    """Yield settings with which Liger is not modeled or raises an error, and adapters that it would ignore."""
    model, training = prepared.model, prepared.training
    if not training.use_liger_kernel:
        return
    if model.model_type in NOT_MODELED:
        message = f"what Liger patches in {model.model_type} is not modeled yet: use false"
        yield Problem(loc="training.use_liger_kernel", msg=message, input=True)
    if release(prepared.stack.liger_kernel) not in MODELED:
        message = f"kernels of Liger {prepared.stack.liger_kernel} are not modeled: use 0.8.5"
        yield Problem(loc="stack.liger_kernel", msg=message, input=prepared.stack.liger_kernel)
    if is_patched(model, training) and prepared.method.name == "adapter":
        message = (
            "Liger patches each layer's MLP, and finds the adapter's module in its place:"
            " the step raises an error or runs without Liger's MLP: use false, or another method"
        )
        yield Problem(loc="training.use_liger_kernel", msg=message, input=True)
    if computes_logits(model, training) and training.trainer in WITHOUT_LABELS:
        message = (
            f"Liger's cross-entropy of {model.model_type}'s logits is not modeled in {training.trainer}: use false"
        )
        yield Problem(loc="training.use_liger_kernel", msg=message, input=True)
    fused = is_patched(model, training) and not computes_logits(model, training)
    fused = fused and training.trainer not in WITHOUT_LABELS
    if fused:
        name = model.output.name
        message = f"Liger reads only the weight of {name}, so an adapter on it gets no gradient: leave it out"
        yield from adapted_head.problems(prepared, message, "use_liger_kernel false, or leave the tokens out")


def assumption(prepared: Subject) -> Iterator[str]:
    """Yield the assumption about Liger."""
    model, training = prepared.model, prepared.training
    if is_patched(model, training):
        multiprocessors = kernels_of(prepared.device, prepared.stack, None).multiprocessors
        count, whose = multiprocessors.count, "an A100" if multiprocessors.assumed else "the GPU"
        yield f"Gradients of trained norms are summed by {count:,} multiprocessors, as many as {whose} has."
    elif training.use_liger_kernel:
        yield f"Liger patches no {model.model_type} model: use_liger_kernel changes nothing."
