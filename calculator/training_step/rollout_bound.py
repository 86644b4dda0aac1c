"""A bound on what the passes of `generate` have alive in a step, from the forward pass of the trained model.

Most steps have their peak elsewhere, and reserve more than the passes of `generate` need. The bound shows that without
an interpretation of these passes.

A pass runs the code of the trained forward pass without a graph, on as many sequences and on fewer tokens of each. A
graph only adds tensors and references. So each storage of a pass is at least as large in the forward pass, where at no
operation fewer storages of its formula are alive. What only `generate` has is counted by itself: cached keys and
values, tables of the positions of every sequence, the ids of its loop, and scores of the next token. A pass of which
this is not certain has no bound.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from calculator.common.dtype import ALLOCATION_ROUNDING, FLOATS, allocated
from calculator.engine.forward_blocks import ForwardBlocks
from calculator.families import forward_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.methods.prepared_model import PreparedModel
    from calculator.training_step.run import Run

    #: The most bytes of a block, and a number of such blocks.
    Blocks = tuple[int, int]

#: No fewer tensors than are alive at once of three kinds. Some have a number for each token: prompts, their mask and
#: positions, and the ids, mask and positions before and after a token. Some have one for each element of a head: cos
#: and sin, what they are computed from, and copies in another dtype, for two types of attention. Some have one for each
#: token that may come next: logits and probabilities before and after a token, and what the head and the choice of a
#: token compute.
_OF_TOKENS, _OF_POSITIONS, _OF_SCORES = 16, 16, 12
#: No fewer small tensors than there are: special tokens and the numbers that one token makes, and the windows of each
#: layer.
_SMALL, _OF_WINDOWS = 512, 4


class Need(NamedTuple):
    """No fewer bytes than are alive at once, and blocks that need no fewer segments than all that are allocated."""

    bytes: int
    blocks: list[Blocks]


class RolloutBound:
    """The bound on the passes of `generate` in a step: a quick one on all together, and a lower one on each.

    The lower bound is computed when the quick one does not suffice.
    """

    __slots__ = ("_forward", "_lower", "_prepared", "_prompt", "_sizes", "quick")

    def __init__(self, forward: ForwardBlocks, sizes: Sequence[int], prepared: PreparedModel, prompt: int) -> None:
        """Compute the quick bound. `prompt` is the number of tokens of a prompt, and `sizes` are those of a run."""
        self._forward, self._sizes, self._prepared, self._prompt = forward, sizes, prepared, prompt
        self.quick = self._of_pass(prompt, prepared.training.sequence_length)
        self._lower: tuple[Need, Need] | None = None

    @classmethod
    def of(cls, run: Run, prepared: PreparedModel, prompt: int) -> RolloutBound | None:
        """Return the bound from the run of a step's only micro-batch, or None if there is none."""
        widths = prepared.model.cached_widths
        if widths is None or not _is_bounded(prepared):
            return None
        batch = prepared.training.micro_batch_size, prepared.training.sequence_length
        heads = {prepared.model.config["head_dim"], *chain.from_iterable([pair for pair, _ in widths])}
        forward = ForwardBlocks.of(run.copies, run.storages, batch, heads)
        return None if forward is None else cls(forward, run.storages.sizes, prepared, prompt)

    def is_below(self, size: int) -> bool:
        """Return whether all passes are certain to have fewer bytes alive."""
        return self.quick.bytes < size or max([need.bytes for need in self.lower]) < size

    @property
    def lower(self) -> tuple[Need, Need]:
        """The lower bounds on the pass of the prompts and on the pass of a token.

        No later token attends to the prompts' own tensors, and one token has few.
        """
        if self._lower is None:
            length = self._prepared.training.sequence_length
            self._lower = self._of_pass(self._prompt, self._prompt), self._of_pass(1, length)
        return self._lower

    def _of_pass(self, tokens: int, attended: int) -> Need:
        """Return the need of a pass over some tokens, which attends to some or all tokens of a sequence."""
        prepared, length = self._prepared, self._prepared.training.sequence_length
        blocks = self._forward.blocks(self._sizes, tokens, attended, length)
        blocks += _of_loop(prepared, tokens, attended)
        blocks.append((ALLOCATION_ROUNDING, _SMALL + _OF_WINDOWS * len(prepared.model.decoder.layers)))
        blocks += (cached := _cached(prepared, self._forward, attended))
        alive = sum([size * count for size, count in blocks])
        # Keys and values with a token have another size than those before it.
        return Need(alive, blocks if tokens == attended else blocks + cached)


def _is_bounded(prepared: PreparedModel) -> bool:
    """Return whether a pass allocates nothing but what the trained forward pass or a part of the bound has.

    Masks are of every sequence, experts get copies of their matrices, and kernels of some bases depend on the number of
    tokens.
    """
    training, method, model, forward = prepared.training, prepared.method, prepared.model, forward_of(prepared.model)
    if prepared.device.sharding not in ("none", "ddp") or prepared.older or training.use_liger_kernel:
        return False
    if training.micro_batches > 1 or training.autocast or training.padding or training.has_images:
        return False
    if prepared.offloads_inputs or prepared.offloads_activations or training.attention == "eager":
        return False
    if method.virtual_tokens or method.couples_layers or method.runs_no_grad_first or method.needs_no_cache:
        return False
    if method.quantizes_base != method.facts.quantizes_base or model.has_experts or model.encoder_layers:
        return False
    if forward.sdpa == "eager" or forward.own_masks or forward.always_masked or forward.masks_of_batch is not None:
        return False
    return not (forward.changes_positions or forward.bidirectional_masks) and "head_dim" in model.config


def _cached(prepared: PreparedModel, forward: ForwardBlocks, tokens: int) -> list[Blocks]:
    """Return the cached keys and values of all layers, and those of a layer that are replaced.

    Queries, keys and values of sdpa have one dtype, which is that of heads if rotation makes tensors of these.
    """
    training = prepared.training
    is_known = training.attention == "sdpa" and not forward.of_heads.isdisjoint(FLOATS)
    widths = frozenset[int]() if is_known else forward.float32
    itemsize = 4 if prepared.hidden_dtype == "float32" or "float32" in forward.of_heads else 2
    elements = training.micro_batch_size * tokens
    return [
        (allocated(elements * width, 4 if width in widths else itemsize), count + 1)
        for pair, count in prepared.model.cached_widths or ()
        for width in pair
    ]


def _of_loop(prepared: PreparedModel, tokens: int, length: int) -> list[Blocks]:
    """Return what `generate` has of positions of a pass, of all tokens so far, and of scores, by their sizes."""
    model, rows = prepared.model, prepared.training.micro_batch_size
    output, widths = model.output, model.config.get("rotary_dim_by_type") or {}
    return [
        (allocated(rows * tokens * max(model.config["head_dim"], *widths.values(), 0), 4), _OF_POSITIONS),
        (allocated(rows * (length + 1) * forward_of(model).positions_of_token, 8), _OF_TOKENS),
        (allocated(rows * max(output.out_features, output.in_features), 4), _OF_SCORES),
    ]
