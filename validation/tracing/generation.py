"""The passes of `generate` on real modules, traced on the meta device.

The calculator models these passes in calculator/training_step/generation.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import torch

from calculator.common.names import PassName
from validation.reference.build import META
from validation.reference.served_model import build_served_model
from validation.tracing.initial_tensors import track_model
from validation.tracing.known_values import KnownValues
from validation.tracing.ledger import Ledger
from validation.tracing.memory_tracker import EmulatedKernels, MemoryTracker
from validation.tracing.module_tracker import ModuleTracker
from validation.tracing.shims import emulate_cuda
from validation.tracing.step import no_garbage_collection

if TYPE_CHECKING:
    from calculator.estimation.request import ModelReference
    from calculator.inference.served_method import ServedMethod
    from calculator.inference.settings import Serving
    from validation.reference.build import ReferenceModel


#: The names of the passes; every token from the third on is a pass of the last name.
PASSES: tuple[PassName, ...] = get_args(PassName)


class Generation:
    """Greedy search with a served model: it runs the passes in order and records the allocations of each."""

    def __init__(self, reference: ReferenceModel, served: ServedMethod, serving: Serving) -> None:
        self.model, self.serving, self.virtual = reference.model, serving, served.virtual_tokens
        #: The model that decodes a token: the cache already contains the virtual tokens.
        self.base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        shape = (serving.batch_size, serving.context_length)
        self.ids = torch.zeros(shape, dtype=torch.long, device=META)
        self.mask = torch.ones(shape, dtype=torch.long, device=META) if serving.padding else None
        self.values = KnownValues(serving.context_length + self.virtual)
        self.ledger: Ledger[PassName] = Ledger()
        modules = ModuleTracker(self.model, reference.root)
        self.tracker = MemoryTracker(self.ledger, modules, reference.head, self.values)
        with torch.no_grad(), EmulatedKernels(self.values):
            self._prefill()
        track_model(self.tracker, reference)
        for name, tensor in (("input_ids", self.ids), ("attention_mask", self.mask)):
            if tensor is not None:
                self.tracker.track_external(name, tensor, "activations")

    @property
    def peaks(self) -> dict[PassName, int]:
        """The most bytes alive in each pass."""
        return {name: peak.bytes for name, peak in self.ledger.peaks.items()}

    def run(self) -> None:
        """Run the prefill and one pass for each later token; a pass ends when its token is chosen."""
        with torch.no_grad(), no_garbage_collection(), self.tracker.tracking():
            cache = None
            for token in range(self.serving.max_new_tokens):
                self.ledger.enter(PASSES[min(token, 2)])
                outputs = self._decode(cache) if token else self._prefill()
                self.mask = self._extended_mask(1 if token else 1 + self.virtual)
                next_token_logits = outputs.logits[:, -1].to(copy=True, dtype=torch.float32)
                next_tokens = torch.argmax(next_token_logits, dim=-1)
                self.ids = torch.cat([self.ids, next_tokens[:, None]], dim=-1)
                cache = outputs.cache
                del outputs
                self.values.grow(1)

    def _prefill(self) -> Any:
        return self.model(input_ids=self.ids, attention_mask=self.mask, use_cache=True, logits_to_keep=1)

    def _decode(self, cache: Any) -> Any:
        """Run one token, with experts as `generate` runs them after the prompt."""
        with self.base._optimize_model_for_decode():
            return self.base(
                input_ids=self.ids[:, -1:].clone(),
                attention_mask=self.mask,
                cache=cache,
                use_cache=True,
                logits_to_keep=1,
            )

    def _extended_mask(self, tokens: int) -> torch.Tensor | None:
        """Return the mask with `tokens` more; PEFT's mask of its virtual tokens is float32."""
        if self.mask is None:
            return None
        if tokens > 1:
            virtual = torch.ones((self.mask.shape[0], tokens - 1), dtype=torch.float32, device=META)
            self.mask = torch.cat([virtual, self.mask], dim=-1)
        one = torch.ones((self.mask.shape[0], 1), dtype=self.mask.dtype, device=META)
        return torch.cat([self.mask, one], dim=-1)


def trace(model: ModelReference, served: ServedMethod, serving: Serving) -> Generation:
    """Build a served model from real modules and trace its generation.

    Raises:
        PlanError: if transformers or PEFT refuses the request.
    """
    with emulate_cuda():
        generation = Generation(build_served_model(model, served, serving), served, serving)
        generation.run()
    return generation
