"""The passes of `generate` on real modules, traced on the meta device.

The calculator models them in calculator/training_step/generation.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import torch

from calculator.common.names import PassName
from calculator.estimate.request import Request
from calculator.methods import Full
from validation.reference import methods
from validation.reference.build import META, built
from validation.reference.step import no_collection
from validation.tracing.initial_tensors import adopt_model
from validation.tracing.known_values import Values
from validation.tracing.ledger import Ledger
from validation.tracing.memory_tracker import Emulated, Watch
from validation.tracing.module_tracker import Places
from validation.tracing.shims import as_on_cuda

if TYPE_CHECKING:
    from calculator.estimate.request import ModelReference
    from calculator.inference.served_method import Served
    from calculator.inference.settings import Serving
    from validation.reference.build import Built


#: The passes, the last standing for every token from the third on.
PASSES: tuple[PassName, ...] = get_args(PassName)


class Generation:
    """Greedy search with a served model: its passes one after the other, and what each allocated."""

    def __init__(self, ready: Built, served: Served, serving: Serving) -> None:
        self.model, self.serving, self.virtual = ready.model, serving, served.virtual_tokens
        #: What a token after the prompt runs through: virtual tokens lie in the cache already.
        self.base = ready.model.get_base_model() if hasattr(ready.model, "get_base_model") else ready.model
        shape = (serving.batch_size, serving.context_length)
        self.ids = torch.zeros(shape, dtype=torch.long, device=META)
        self.mask = torch.ones(shape, dtype=torch.long, device=META) if serving.padding else None
        self.values = Values(serving.context_length + self.virtual)
        self.ledger: Ledger[PassName] = Ledger()
        self.watch = Watch(self.ledger, Places(self.model, ready.root), ready.head, self.values)
        with torch.no_grad(), Emulated(self.values):
            self._prefill()
        adopt_model(self.watch, ready)
        for name, tensor in (("input_ids", self.ids), ("attention_mask", self.mask)):
            if tensor is not None:
                self.watch.adopt(name, tensor, "activations")

    @property
    def peaks(self) -> dict[PassName, int]:
        """The most bytes alive in each pass."""
        return {name: peak.bytes for name, peak in self.ledger.peaks.items()}

    def run(self) -> None:
        """Prefill, and one pass for each token but the first; a pass ends when its token is chosen."""
        with torch.no_grad(), no_collection(), self.watch.watching():
            cache = None
            for token in range(self.serving.max_new_tokens):
                self.ledger.enter(PASSES[min(token, 2)])
                outputs = self._decode(cache) if token else self._prefill()
                self.mask = self._lengthened(1 if token else 1 + self.virtual)
                next_token_logits = outputs.logits[:, -1].to(copy=True, dtype=torch.float32)
                next_tokens = torch.argmax(next_token_logits, dim=-1)
                self.ids = torch.cat([self.ids, next_tokens[:, None]], dim=-1)
                cache = outputs.cache
                del outputs
                self.values.grow(1)

    def _prefill(self) -> Any:
        return self.model(input_ids=self.ids, attention_mask=self.mask, use_cache=True, logits_to_keep=1)

    def _decode(self, cache: Any) -> Any:
        """Experts run as `generate` runs them after the prompt."""
        with self.base._optimize_model_for_decode():
            return self.base(
                input_ids=self.ids[:, -1:].clone(),
                attention_mask=self.mask,
                cache=cache,
                use_cache=True,
                logits_to_keep=1,
            )

    def _lengthened(self, tokens: int) -> torch.Tensor | None:
        """The mask with some more tokens; PEFT's for its virtual tokens is float32."""
        if self.mask is None:
            return None
        if tokens > 1:
            virtual = torch.ones((self.mask.shape[0], tokens - 1), dtype=torch.float32, device=META)
            self.mask = torch.cat([virtual, self.mask], dim=-1)
        one = torch.ones((self.mask.shape[0], 1), dtype=self.mask.dtype, device=META)
        return torch.cat([self.mask, one], dim=-1)


def trace(model: ModelReference, served: Served, serving: Serving) -> Generation:
    """Build a served model of real modules and trace what it generates.

    Raises:
        PlanError: where the real stack refuses it.
    """
    with as_on_cuda():
        generation = Generation(made(model, served, serving), served, serving)
        generation.run()
    return generation


def made(model: ModelReference, served: Served, serving: Serving) -> Built:
    """A served model of real modules, in eval mode."""
    ready = built(_request(model, served, serving), quantization=served.quantization)
    _further_tasks(ready, served, serving)
    ready.model.eval()
    for config in getattr(ready.model, "peft_config", {}).values():
        config.inference_mode = True
    return ready


def _request(model: ModelReference, served: Served, serving: Serving) -> Request:
    return Request(model=model, method=Full() if served.merged else served.method, training=serving.training)


def _further_tasks(ready: Built, served: Served, serving: Serving) -> None:
    """More adapters beside the first, as PEFT loads them."""
    for task in range(1, serving.tasks):
        with META:
            ready.model.add_adapter(f"task {task}", ready.model.peft_config["default"])
    if not served.merged:
        methods.cast(ready.model, serving.adapter_dtype)
