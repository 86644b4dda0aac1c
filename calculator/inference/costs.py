"""The costs of a fine-tuned model over its base when it generates: operations, bytes read, bytes of the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE
from calculator.inference.answer import Cost
from calculator.inference.matmul_counts import products
from calculator.layers.cache import pairs_by_layer
from calculator.resident.module_spec import is_of_copy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.inference.settings import Serving
    from calculator.layers.cache import Cache
    from calculator.resident.tensor import ResidentTensor
    from calculator.training_step.resident_state import ResidentState

_OPERATIONS = "Kaplan et al. 2020, arXiv 2001.08361, table 1: two for each weight, and attention's two products"
_READ = "Pope et al. 2022, arXiv 2211.05102, section 2: a token reads every weight and its sequence's cache"
_CACHE = "transformers/cache_utils.py: keys and values of each layer, position and sequence, and recurrent states"
_RESIDENT = "each task's added parameters, rounded up to 512 bytes a tensor"


class Costs:
    """The costs of the last generated token.

    `resident` has one task. `cache` is that of the prompt.
    """

    def __init__(self, resident: ResidentState, serving: Serving, cache: Cache) -> None:
        prepared = resident.prepared
        self.method, self.model = prepared.method, prepared.model
        self.serving = serving
        self.cache = cache
        self.state = resident.tensors
        #: The tensors in the graph of a token of text.
        self.in_graph = [tensor for tensor in self.state if tensor.in_graph]
        self.virtual = self.method.virtual_tokens
        self.positions = serving.context_length + serving.max_new_tokens - 1

    def all(self) -> tuple[Cost, ...]:
        """Return every cost, of the base and of the added parameters."""
        return self.operations(), self._read(), self._cached(), self._resident()

    def operations(self) -> Cost:
        """Return a token's operations: with the weights, and in attention."""
        matmuls = products(self.model)
        multiplied = self._multiplied()
        attended = 2 * matmuls.attention * self.virtual
        other = self.method.other_operations([*self._added()], self.serving.batch_size)
        terms = [
            ("2 × added weights", f"2 × {multiplied:,}", multiplied),
            (
                "4 × heads × head_dim × layers × virtual tokens",
                f"{2 * matmuls.attention:,} × {self.virtual:,}",
                attended,
            ),
            (other.formula, f"{other.count:,}", other.count),
        ]
        shown = [term for term in terms if term[2]] or terms[:1]
        return Cost(
            name="operations_per_token",
            unit="operations",
            base=2 * matmuls.weights + 2 * matmuls.attention * self.positions,
            added=2 * multiplied + attended + other.count,
            formula=" + ".join(formula for formula, _, _ in shown),
            substituted=" + ".join(numbers for _, numbers, _ in shown),
            source=_OPERATIONS,
        )

    def _read(self) -> Cost:
        batch = self.serving.batch_size
        weights, adapter = self._weights_read(), self._added_read()
        cached, virtual = self._cache_bytes(self.positions) + self._state_bytes(), self._virtual_bytes()
        return Cost(
            name="bytes_read_per_token",
            unit="bytes",
            base=(weights + cached) // batch,
            added=(adapter + virtual) // batch,
            formula="(a task's added weights + virtual tokens' cache) ÷ batch",
            substituted=f"({adapter:,} + {virtual:,}) ÷ {batch:,}",
            source=_READ,
        )

    def _cached(self) -> Cost:
        virtual = self._virtual_bytes()
        position_bytes = self._cache_bytes(1)
        return Cost(
            name="kv_cache_bytes",
            unit="bytes",
            base=self._cache_bytes(self.positions) + self._state_bytes(),
            added=virtual,
            formula="bytes of a position in all layers and sequences × virtual tokens",
            substituted=f"{position_bytes:,} × {self.virtual:,}",
            source=_CACHE,
        )

    def _resident(self) -> Cost:
        one = sum(tensor.bytes for tensor in self.state if not tensor.base)
        return Cost(
            name="resident_bytes",
            unit="bytes",
            base=sum(tensor.bytes for tensor in self.state if tensor.base),
            added=one * self.serving.tasks,
            formula="a task's added weights × tasks",
            substituted=f"{one:,} × {self.serving.tasks:,}",
            source=_RESIDENT,
        )

    def _added(self) -> Iterator[ResidentTensor]:
        """Return a task's parameters in the graph of a token.

        The copy of a saved module replaces its original.
        """
        return (tensor for tensor in self.in_graph if not tensor.base and not is_of_copy(tensor.name))

    def _read_whole(self) -> Iterator[ResidentTensor]:
        return filter(self.method.is_read, self._added())

    def _multiplied(self) -> int:
        is_matmul = self.method.is_matmul
        return sum(tensor.parameters * tensor.count for tensor in self._read_whole() if is_matmul(tensor))

    def _added_read(self) -> int:
        return sum(tensor.bytes for tensor in self._read_whole())

    def _weights_read(self) -> int:
        """Return the base's weights that a pass reads.

        Of experts, it reads the chosen ones. Input embeddings are looked up.
        """
        tied = set(self.model.tied.values())
        tables = {f"{part.name}.weight" for part in self.model.outer.values() if part.kind == "embedding"} - tied
        return sum(round(tensor.bytes * self._share(tensor)) for tensor in self.in_graph if tensor.name not in tables)

    def _share(self, tensor: ResidentTensor) -> float:
        """Return the share of a base tensor that a pass reads, from 0 to 1."""
        if not tensor.base:
            return 0.0
        config = self.model.config
        if tensor.name.rpartition(".")[0] not in self._experts():
            return 1.0
        return min(1.0, self.serving.batch_size * int(config["num_experts_per_tok"]) / int(config["num_experts"]))

    def _experts(self) -> set[str]:
        return {path for path, module in self.model.paths if module.kind == "experts"}

    def _cache_bytes(self, positions: int) -> int:
        """Return the cache's bytes for that many positions of every sequence. Sliding layers keep only their window."""
        window = self.model.config.get("sliding_window")
        total = 0
        for layer, pair in pairs_by_layer(self.model.decoder.layers, self.cache.kept):
            slides = self.cache.windowed and layer.kind.attention == "sliding_attention" and window
            kept = min(positions, int(window)) if slides and window else positions
            total += sum(int(t.shape[0] * t.shape[1] * t.shape[3]) * ITEMSIZE[t.dtype] for t in pair) * kept
        return total

    def _state_bytes(self) -> int:
        """Return the bytes of recurrent layers' states. Their size does not depend on the positions."""
        states = [entry[0] for entry in self.cache.kept if len(entry) == 1]
        return sum(int(elements(state.shape)) * ITEMSIZE[state.dtype] for state in states)

    def _virtual_bytes(self) -> int:
        return self._cache_bytes(self.positions + self.virtual) - self._cache_bytes(self.positions)
