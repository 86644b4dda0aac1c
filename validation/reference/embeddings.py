"""Embeddings of texts and the loss that compares them, for a model that computes no loss.

Mean pooling and the loss are those of sentence-transformers: models/Pooling.py, losses/MultipleNegativesRankingLoss.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The factor of cosine similarities.
SCALE = 20.0


class MultipleNegativesRankingLoss(nn.Module):
    """The loss of a batch whose texts are columns: anchors, their positives, and any negatives."""

    def __init__(self, model: nn.Module, *, passes_mask: bool) -> None:
        super().__init__()
        self.model = model
        #: Whether batches are padded, so that the model needs the mask too.
        self.passes_mask = passes_mask

    def forward(self, texts: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """Return the loss of columns of `input_ids` and `attention_mask`, each (batch, sequence)."""
        anchors, *others = (self.embed(input_ids, mask) for input_ids, mask in texts)
        candidates = torch.cat(others, dim=0)
        labels = torch.arange(anchors.size(0), device=anchors.device)
        scores = cos_sim(anchors, candidates) * SCALE
        return functional.cross_entropy(scores, labels)

    def embed(self, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the embedding of each text."""
        hidden_states = self.model(input_ids=input_ids, attention_mask=mask if self.passes_mask else None)[0]
        return mean_of_tokens(hidden_states, mask)


def mean_of_tokens(hidden_states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of each text's hidden states over its mask, which virtual tokens lengthen."""
    virtual = hidden_states.size(1) - mask.size(1)
    if virtual:
        mask = torch.cat((mask.new_ones(mask.size(0), virtual), mask), dim=1)
    expanded = mask.unsqueeze(-1).expand(hidden_states.size()).to(hidden_states.dtype)
    total = torch.sum(hidden_states * expanded, 1)
    tokens = expanded.sum(1)
    tokens = torch.clamp(tokens, min=1e-9)
    return total / tokens


def cos_sim(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the cosine similarity of every row of `a` with every row of `b`."""
    a, b = functional.normalize(a, p=2, dim=1), functional.normalize(b, p=2, dim=1)
    return torch.mm(a, b.transpose(0, 1))
