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

from calculator.allocator.segments import LARGE_SEGMENT, OWN_SEGMENT, SMALL_REQUEST, whole_pages
from calculator.common.dtype import FLOATS, allocated
from calculator.engine.forward_blocks import ForwardBlocks
from calculator.families import forward_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

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
#: No fewer bytes than small tensors have, such as special tokens, and the windows of each layer.
_SMALL, _OF_WINDOWS = 1 << 18, 2048


class Need(NamedTuple):
    """No fewer bytes than passes have alive at once, and than the segments of their blocks have."""

    bytes: int
    segments: int


class RolloutBound:
    """The bound on the passes of `generate` in a step: on all of them together, and a lower one on each.

    The lower bound is computed when the other does not suffice.
    """

    __slots__ = ("_forward", "_lower", "_prepared", "_prompt", "_sizes", "together")

    def __init__(self, forward: ForwardBlocks, sizes: Sequence[int], prepared: PreparedModel, prompt: int) -> None:
        """Compute the bound on all passes. `prompt` is the number of tokens of a prompt, and `sizes` are of a run."""
        self._forward, self._sizes, self._prepared, self._prompt = forward, sizes, prepared, prompt
        self.together = self._need(prompt, prepared.training.sequence_length)
        self._lower: Need | None = None

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
        return self.together.bytes < size or self.lower.bytes < size

    def fits(self, size: int) -> bool:
        """Return whether the segments of each pass are certain to have at most some bytes."""
        return self.together.segments <= size or self.lower.segments <= size

    @property
    def lower(self) -> Need:
        """The lower bound. The prompts are not attended to by later tokens, and one token has few tensors."""
        if self._lower is None:
            prompts, token = self._need(self._prompt, self._prompt), self._need(1, None)
            self._lower = Need(max(prompts.bytes, token.bytes), max(prompts.segments, token.segments))
        return self._lower

    def _need(self, tokens: int, attended: int | None) -> Need:
        """Return the need of a pass over some tokens, which attends to some or all of a sequence."""
        length = self._prepared.training.sequence_length
        seen = length if attended is None else attended
        blocks = self._forward.blocks(self._sizes, tokens, seen, length)
        blocks += _of_loop(self._prepared, tokens, seen)
        cached = [*_cached(self._prepared, self._forward, seen)]
        small = _SMALL + _OF_WINDOWS * len(self._prepared.model.decoder.layers)
        alive = sum([size * count for size, count in (*blocks, *cached)])
        # Keys and values with a token have another size than those before it.
        blocks += cached if tokens == seen else cached + cached
        return Need(alive + small, _segments(blocks) + whole_pages(small))


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


def _cached(prepared: PreparedModel, forward: ForwardBlocks, tokens: int) -> Iterator[Blocks]:
    """Yield the cached keys and values of all layers, and those of a layer that are replaced.

    Queries, keys and values of sdpa have one dtype, which is that of heads if rotation makes tensors of these.
    """
    training = prepared.training
    is_known = training.attention == "sdpa" and not forward.of_heads.isdisjoint(FLOATS)
    widths = frozenset[int]() if is_known else forward.float32
    itemsize = 4 if "float32" in {prepared.hidden_dtype, *forward.of_heads} else 2
    for pair, count in prepared.model.cached_widths or ():
        for width in pair:
            elements = training.micro_batch_size * tokens * width
            yield allocated(elements, 4 if width in widths else itemsize), count + 1


def _of_loop(prepared: PreparedModel, tokens: int, length: int) -> Iterator[Blocks]:
    """Yield what `generate` has of positions of a pass, of all tokens so far, and of scores, by their sizes."""
    model, rows = prepared.model, prepared.training.micro_batch_size
    widths = model.config.get("rotary_dim_by_type") or {}
    yield allocated(rows * tokens * max(model.config["head_dim"], *widths.values(), 0), 4), _OF_POSITIONS
    yield allocated(rows * (length + 1) * forward_of(model).positions_of_token, 8), _OF_TOKENS
    yield allocated(rows * max(model.output.out_features, model.output.in_features), 4), _OF_SCORES


def _segments(blocks: Iterable[Blocks]) -> int:
    """Return no fewer bytes than segments have in which blocks of at most these sizes are.

    A large segment of blocks of one size below 10 MiB has at least two of them, and less room than for one more: two
    thirds of it are used, except in the last segment of a size. A larger block leaves less than a sixth of its segment.
    So a block of 12.5 MiB needs no less than any smaller one.
    """
    total = small = 0
    for size, count in blocks:
        if size <= SMALL_REQUEST:
            small += size * count
        elif 4 * size < 5 * OWN_SEGMENT:
            total += 3 * size * count // 2 + LARGE_SEGMENT
        else:
            total += 6 * size * count // 5 + LARGE_SEGMENT
    return total + whole_pages(small)
