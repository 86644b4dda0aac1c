"""The sentences of an answer about Unsloth: what it assumes, and what the two ends of its interval are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.trainers.unsloth.buffers import offloads, offloads_modules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.trainers.subject import Subject

LOSS = (
    "Chunks of the loss: the first forward pass sizes them so that their logits in float32 take half of the free"
    " memory, and 4 GiB at most. Low: hardly any memory is free, and a chunk has one token. High: 8 GiB or more are"
    " free, and torch.compile keeps a chunk's logits and their gradient apart instead of writing one over the other"
    " (unsloth_zoo, fused_losses/cross_entropy_loss.py, _get_chunk_multiplier)."
)
ATTENTION = (
    "Attention: low: flash-attn is installed. High: xformers, which takes copies of keys and values for every head"
    " (unsloth/utils/attention_dispatch.py, run_attention)."
)
POSITIONS = (
    "Positions: low: padded rows, whose queries and keys are rotated in place. High: rows without padding, which have"
    " positions of their own and copy queries and keys first (unsloth/kernels/rope_embedding.py)."
)
BUFFERS = (
    "Layer inputs: low: one GPU buffer for those that come back from the host, because less than 512 MiB are free."
    " High: two of them (unsloth_zoo/gradient_checkpointing.py, DOUBLE_BUFFER_HEADROOM)."
)


def reasons(prepared: Subject) -> Iterator[str]:
    """Yield the reasons for each part of the interval."""
    yield LOSS
    if prepared.training.attention != "flash_attention_2":
        yield ATTENTION
    yield POSITIONS
    if offloads(prepared.model, prepared.training):
        yield BUFFERS


def assumptions(prepared: Subject) -> Iterator[str]:
    """Yield the assumptions of the figures."""
    yield (
        "The memory is an interval: figures, required memory and the verdict are those of its high end. The loss is"
        " compiled (UNSLOTH_FUSED_CE_COMPILE_DISABLE is not set), and flash-attn or xformers is installed."
    )
    if prepared.training.gradient_checkpointing and not offloads(prepared.model, prepared.training):
        yield (
            "The layers' inputs stay on the GPU: Unsloth moves those of 2 MiB and more to the host, of sequences of"
            ' 512 tokens and more, with use_gradient_checkpointing="unsloth".'
        )
    saved = getattr(prepared.method, "modules_to_save", None)
    if saved and offloads_modules(prepared.training):
        yield (
            f"The originals of {' and '.join(saved)} are in a file, with use_gradient_checkpointing"
            '="unsloth": only their trained copies are on the GPU.'
        )


def warnings(prepared: Subject) -> Iterator[str]:
    """Yield Unsloth's own defaults that differ from the request."""
    if getattr(prepared.method, "target_modules", ()) is None:
        yield (
            "get_peft_model of Unsloth adapts all seven projections of a layer by default. Without target_modules, the"
            " figures are for PEFT's default."
        )
