"""Configs with which transformers builds a model whose forward pass fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.per_model import per_model
from calculator.common.errors import Problem, shown
from calculator.families import forward_of
from calculator.layers import attention

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.inputs.training import Training


def problems(model: Model, training: Training) -> Iterator[Problem]:
    """Yield every reason why the forward pass fails."""
    yield from _config_problems(model)
    if model.config.get("kv_lora_rank") is not None:
        yield from _ungrouped(model, training)


@per_model
def _config_problems(model: Model) -> tuple[Problem, ...]:
    """Return the reasons that depend on the config alone."""
    fields = forward_of(model).unsupported_fields(model.config)
    refused = [Problem(loc=f"model.config.{name}", msg=why, input=model.config[name]) for name, why in fields]
    return (*_half_rotated(model), *_windowless(model), *_routerless(model), *refused)


def _half_rotated(model: Model) -> Iterator[Problem]:
    """Yield an error if the code rotates whole heads, but the frequencies only cover a part of each head."""
    config = model.config
    rotated, head = config.get("rotary_dim"), config.get("head_dim")
    if rotated is None or rotated == head or forward_of(model).partial_rotary or config.get("alibi"):
        return
    if not any(layer.kind.rotated for layer in model.decoder.layers):
        return
    share = config["partial_rotary_factor"]
    yield Problem(
        loc="model.config.partial_rotary_factor",
        msg=(
            f"{share} leaves rotary embeddings {shown(rotated)} of {shown(head)} dimensions under this rope_type,"
            f" but {model.model_type} rotates whole heads: leave it out, or 1.0"
        ),
        input=share,
    )


def _windowless(model: Model) -> Iterator[Problem]:
    """Yield an error if sliding layers have no window.

    The model makes their mask even if it has none of these layers (create_sliding_window_causal_mask).
    """
    if "sliding_attention" in forward_of(model).masks and model.config["sliding_window"] is None:
        yield Problem(
            loc="model.config.sliding_window",
            msg=f"{model.model_type} makes a mask for sliding layers even where it has none: give a number of tokens",
            input=None,
        )


def _ungrouped(model: Model, training: Training) -> Iterator[Problem]:
    """Yield an error if latent attention has fewer groups than heads.

    Its keys exist for every head, but attention would repeat them.
    """
    config = model.config
    if training.attention == "flash_attention_2":
        return
    heads, groups = int(config["num_attention_heads"]), int(config["num_key_value_heads"])
    kept = attention.use_gqa_in_sdpa(config["qk_head_dim"], config["v_head_dim"])
    if heads == groups or (training.attention == "sdpa" and kept and not training.padding):
        return
    yield Problem(
        loc="model.config.num_key_value_heads",
        msg=(
            f"{groups:,} groups: {model.model_type} has keys for each of its {heads:,} heads, and attention would"
            f" repeat them {heads // groups:,} times: make it {heads:,}, or use flash_attention_2"
        ),
        input=groups,
    )


def _routerless(model: Model) -> Iterator[Problem]:
    """Yield an error if the loss includes that of routers, but no layer has one."""
    if model.adds_router_loss and not model.has_experts:
        yield Problem(
            loc="model.config.output_router_logits",
            msg="no layer has experts, and the routers' loss fails without: make it false",
            input=True,
        )
