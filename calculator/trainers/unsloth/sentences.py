"""The sentences of an answer about Unsloth: what it assumes, and what the two ends of its interval are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.trainers.unsloth.buffers import offloads, offloads_modules
from calculator.trainers.unsloth.families import has_rows
from calculator.trainers.unsloth.releases import COMPILES_LAYERS, is_rewritten, torch_is

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.trainers.subject import Subject

STEP = (
    "The step is that of TRL's SFTTrainer with Unsloth's patches, from the source of Unsloth {release} and its"
    " unsloth_zoo. Its own code was traced with small models{but}. Unsloth replaces the forward pass of transformers:"
    " stack.transformers changes nothing. Evaluation, logging and data loading are not counted."
)

#: The reasons of releases before 2026.10.
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

#: The reasons of 2026.10.
LABELED_LOSS = (
    "Chunks of the loss: it runs on labeled tokens, whose logits in float32 take half of the free memory, and 2 GiB at"
    " most, or 256 MiB where a large vocabulary is divided in tiles. Low: hardly any memory is free, and a chunk has"
    " two tokens, or a tile one. High: 4 GiB or more are free, and the larger of both ways where the GPU decides"
    " (unsloth_zoo, fused_losses/fused_linear.py, fused_linear_rows and _tiled_layout)."
)
ATTENTION_OF_ROWS = (
    "Attention: low: flash-attn is installed. High: from PyTorch 2.12 on, PyTorch's own attention, whose outputs are"
    " joined in a copy. xformers with older ones, and with float16, whose GPUs may be older: it takes copies of keys"
    " and values for every head (unsloth/utils/attention_dispatch.py, _sdpa_packed_segments)."
)
ROWS = "Rows have no padding (padding_free, the default of Unsloth's SFTTrainer), and samples of one length."
NOT_COMPILED = (
    " So their layers are not compiled: from PyTorch 2.11 on, Unsloth compiles those of padded rows. It pads by itself"
    " in long runs on an A100, L4, T4 or RTX PRO 6000 if it estimates less than 0.1 s for a micro-batch:"
    " UNSLOTH_PADDING_CHOICE=padding_free prevents that."
)
EMBEDDINGS = (
    "The embeddings are on the GPU. Unsloth moves them to host memory if it finds too little free memory for a step and"
    " the head is not the same table: offload_embedding=False prevents that."
)


def reasons(prepared: Subject) -> Iterator[str]:
    """Yield the reasons for each part of the interval."""
    rewritten = is_rewritten(prepared.stack)
    yield LABELED_LOSS if rewritten else LOSS
    if prepared.training.attention != "flash_attention_2":
        yield ATTENTION_OF_ROWS if rewritten else ATTENTION
    if not rewritten:
        yield POSITIONS
    if offloads(prepared.model, prepared.training):
        yield BUFFERS


def assumptions(prepared: Subject) -> Iterator[str]:
    """Yield the assumptions of the figures."""
    yield "The memory is an interval: figures, required memory and the verdict are those of its high end."
    if is_rewritten(prepared.stack):
        yield STEP.format(release="2026.10.9", but="")
        if has_rows(prepared.stack, prepared.model.model_type):
            yield ROWS + (NOT_COMPILED if torch_is(prepared.stack, COMPILES_LAYERS) else "")
        if not prepared.model.tied:
            yield EMBEDDINGS
    else:
        yield STEP.format(release="2026.8.13", but=", but for the compiled loss")
        yield "The loss is compiled, and flash-attn or xformers is installed."
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
