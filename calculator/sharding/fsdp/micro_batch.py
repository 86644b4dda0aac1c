"""A micro-batch under FSDP2: when weights are gathered and freed, and when gradients are reduced.

Source: torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py, _fsdp_state.py and _fsdp_collectives.py.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.common.dtype import FLOATS
from calculator.engine import operations as ops
from calculator.engine.accumulation import Accumulation
from calculator.engine.repetition import every_layer, repetition_before_last
from calculator.inputs.sharding import FSDPConfig
from calculator.sharding.fsdp.parameters import RANKS
from calculator.sharding.fsdp.reference import EarlierPass, SameUnits, SecondModel
from calculator.sharding.fsdp.unit import FSDPUnit, LayerAround, Nested, Part
from calculator.sharding.fsdp.unit_tensors import UnitTensors
from calculator.sharding.fsdp.units import (
    ALL_GATHER_OUTPUT,
    ATTENTION,
    GRADIENT_SHARDS,
    REDUCE_SCATTER_INPUT,
    REDUCE_SCATTER_OUTPUT,
    TOWER_ATTENTION,
    layer_unit,
    outer_units,
)
from calculator.stack.releases import release
from calculator.stack.torch_releases import ENDS_UNITS, FREES_EARLY
from calculator.trainers import trainer_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.model import Layer
    from calculator.engine.repetition import Repetition
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import Parameters
    from calculator.layers.method_hooks import Prepared
    from calculator.layers.sharding_hooks import Hooks, Role, Unit
    from calculator.methods.prepared_model import PreparedModel
    from calculator.sharding.fsdp.units import UnitParameters


class MicroBatch(UnitTensors):
    """The hooks and the state of FSDP2 in one micro-batch.

    `reduces`: whether it is the last of a step, which reduces the gradients. `has_gradients`: whether earlier
    micro-batches left whole gradients that it reduces.
    """

    __slots__ = (
        "__weakref__",
        "ends_units",
        "finds_gathered",
        "frees_early",
        "interprets_all",
        "is_begun",
        "kept_buffer",
        "layer_units",
        "left_of_layers",
        "offloads",
        "order",
        "param_dtype",
        "prepared",
        "ran_before",
        "reduce_input",
        "reduces",
        "reshards",
        "roles",
        "root",
        "runs_autocast",
        "units",
    )

    couples_layers = True
    runs_in_checkpoints = True

    def __init__(self, prepared: PreparedModel, *, reduces: bool = True) -> None:
        training = prepared.training
        self.prepared = prepared
        #: Whether a buffer and a gradient are freed before what is copied from them is allocated.
        self.frees_early = release(prepared.stack.torch)[:2] >= FREES_EARLY
        #: Whether the root's forward pass ends that of a unit of which a module did not run.
        self.ends_units = release(prepared.stack.torch)[:2] >= ENDS_UNITS
        self.param_dtype = training.autocast
        self.reduces = reduces
        #: Whether the pass with a graph has begun.
        self.is_begun = False
        self.has_gradients = reduces and training.gradient_accumulation_steps > 1
        #: Whether the trainer enters accelerate's autocast, as TRL's `_get_per_token_logps_and_entropies` does.
        self.runs_autocast = trainer_of(training).facts.generates
        #: Whether passes of `generate` ran before. They leave everything gathered that is not freed after a forward
        #: pass.
        self.finds_gathered = training.is_first_micro_batch and trainer_of(training).generation(training) is not None
        config = training.fsdp_config or FSDPConfig()
        self.reshards = reshards = config.reshard_after_forward
        self.offloads = config.cpu_offload
        #: Whether every layer is interpreted, because its own pass frees what an earlier one gathered.
        self.interprets_all = not reshards and trainer_of(training).facts.runs_no_grad_first
        #: The gathered weights of layers that have not run yet, which an earlier pass left.
        self.left_of_layers: deque[list[Tensor]] = deque()
        outer = outer_units(prepared)
        self.root = FSDPUnit(self, outer.root, reshards=False)
        tail = FSDPUnit(self, outer.tail, reshards=False)
        first = tail if outer.embeddings is None else FSDPUnit(self, outer.embeddings, reshards=reshards)
        self.roles: dict[Role, FSDPUnit] = {"embeddings": first}
        if outer.has_head:
            self.roles["head"] = tail
        if outer.norm is not None:
            self.roles[outer.norm] = tail
        self.layer_units: dict[int, UnitParameters] = {}
        #: Every unit that runs, in the order of `named_modules()`.
        self.units: list[FSDPUnit] = [self.root, first]
        #: The units in the order of their forward passes.
        self.order: list[FSDPUnit] = []
        #: The unit that ran last before the pass with a graph.
        self.ran_before: FSDPUnit | None = None
        #: The output of the forward pass's last all-gather, and the input of the last reduction.
        self.kept_buffer: Tensor | None = None
        self.reduce_input: Tensor | None = None

    def computed(self, prepared: Prepared) -> Prepared:
        """Return the model in the dtypes in which it computes.

        Mixed precision is a policy of the units. They compute in its dtype, mostly without autocast.
        """
        given, dtype = self.prepared, self.prepared.training.autocast
        if dtype is None:
            return prepared
        base = given.training.dtype if given.method.facts.quantizes_base else dtype
        autocast = dtype if self.runs_autocast else None
        return given.gathered_in(dtype, replace(given.training, autocast=autocast, adapter_dtype="model", dtype=base))

    def accumulation(self, training: Training) -> Accumulation:
        """Return whether the micro-batch adds to existing gradients.

        If a step has two micro-batches, the one before the last is the first and finds none.
        """
        return Accumulation(adds=training.gradient_accumulation_steps > (1 if self.reduces else 2))

    def repetition(self, classes: Sequence[int]) -> Repetition:
        """Return the layers to interpret, with the last layer by itself."""
        return every_layer(len(classes)) if self.interprets_all else repetition_before_last(classes)

    def number(self, x: Tensor) -> Tensor:
        """Cast a number with mixed precision, like other inputs of the root."""
        return self._input(x, "num_items_in_batch")

    def batch(self, x: Tensor) -> Tensor:
        """Cast a tensor of the batch with mixed precision, like other inputs of the root."""
        return self._input(x, "batch")

    def _input(self, x: Tensor, name: str) -> Tensor:
        dtype = self.param_dtype
        return x if dtype is None or x.dtype not in FLOATS else ops.cast(x, dtype, f"{name}, cast to {dtype} by FSDP")

    def begin(self, parameters: Parameters) -> None:
        """Gather the parameters that belong to the root."""
        self.start(parameters)
        self.is_begun = True
        if self.root.param_group.parameters:
            self.root.enter()

    @property
    def left_by_generation(self) -> list[FSDPUnit]:
        """The units outside the layers that are gathered after `generate`.

        If the root's own forward passes ran inside its `generate`, it is resharded at the end and not among them.
        """
        is_inside = self.prepared.method.facts.config_class is not None
        units = dict.fromkeys((*([self.root] if is_inside else []), *self.roles.values()))
        return [unit for unit in units if not unit.reshards]

    def start(self, parameters: Parameters) -> None:
        """Start a step with its first pass, which finds units outside the layers as `generate` left them.

        The unit that ran last in `generate` precedes the first unit here. So the first unit's backward pass gathers it.
        """
        self.parameters = parameters
        if not self.finds_gathered:
            return
        self.finds_gathered = False
        for unit in self.left_by_generation:
            unit.gathered = self.gathered(unit.param_group)
        self.find_gathered_layers()
        self.ran_before = self.root if self.root.param_group.parameters else self.roles["head"]

    def find_gathered_layers(self) -> None:
        """Restore the gathered weights of layers that are not freed after a forward pass."""
        if not self.reshards:
            layers = self.prepared.model.layers
            self.left_of_layers = deque([self.gathered(self.parameters_of(layer)) for layer in layers])

    def module(self, role: Role) -> Unit:
        """Return a module outside the layers. A norm that belongs to the root runs without hooks of its own."""
        unit = self.roles.get(role)
        if unit is None:
            return super().module(role)
        return Part(unit, len(self.parameters.leaves), is_last=role == "head" or unit is not self.roles.get("head"))

    def layer(self, layer: Layer) -> Unit:
        """Return a layer, with its weights if they are gathered."""
        unit = FSDPUnit(self, self.parameters_of(layer), reshards=self.reshards)
        if self.left_of_layers:
            unit.gathered = self.left_of_layers.popleft()
        self.units.append(unit)
        return Part(unit, len(self.parameters.leaves), is_last=True)

    def tower_layer(self, layer: Layer, stack: str) -> Unit:
        """Return a layer of a vision tower. It is a unit that precedes the embeddings in the order of modules.

        In some towers, its attention module is that unit.
        """
        unit = FSDPUnit(self, self.parameters_of(layer, stack), reshards=self.reshards)
        self.units.insert(self.units.index(self.roles["embeddings"]), unit)
        return self.part_of_tower(unit)

    def part_of_tower(self, unit: FSDPUnit) -> Unit:
        """Return the layer of a vision tower that a unit belongs to."""
        first_leaf = len(self.parameters.leaves)
        if self.prepared.model.model_type in TOWER_ATTENTION:
            return LayerAround(Nested(unit, first_leaf, ATTENTION))
        return Part(unit, first_leaf, is_last=True)

    def parameters_of(self, layer: Layer, stack: str | None = None) -> UnitParameters:
        """Return the parameters of a layer's unit."""
        of = self.layer_units.get(id(layer))
        if of is None:
            of = self.layer_units[id(layer)] = layer_unit(self.prepared, layer, stack)
        return of

    def no_grad(self, prepared: Prepared, *, compared: str | None) -> Hooks:
        """Return the hooks of a no-grad pass.

        It runs the same units, or a second model that is one unit.
        """
        whole: PreparedModel = prepared  # type: ignore[assignment]  # a step's model is prepared
        if compared == "model":
            return SecondModel(self, whole)
        return SameUnits(self) if self.is_begun else EarlierPass(self)

    def end(self, loss: Tensor, outputs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """End the root's forward pass, and cast its outputs with mixed precision."""
        others = {id(leaf) for unit in (*self.units, *self.roles.values()) for leaf in unit.leaves}
        self.root.leaves = [leaf for leaf in self.parameters.leaves if id(leaf) not in others]
        ended = self.incomplete
        for unit in ended:
            self.leave(unit)
        for unit in reversed(ended):
            loss, *outputs = [unit.before_gradient(x) for x in (loss, *outputs)]
        loss, outputs = self.returned(loss, outputs)
        self.kept_buffer = None
        return loss, outputs

    @property
    def incomplete(self) -> list[FSDPUnit]:
        """The units whose forward passes end with that of the root.

        Before PyTorch 2.13, the forward pass of a unit of which a module does not run never ends.
        """
        units = (self.root, self.roles.get("head") if self.ends_units else None)
        return [unit for unit in units if unit is not None and unit.param_group.parameters and unit.is_incomplete]

    def returned(self, loss: Tensor, outputs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Cast the outputs of a root with mixed precision."""
        dtype = self.param_dtype
        if dtype is not None:
            name = f"cast to {dtype} by FSDP"
            loss, *outputs = [ops.cast(x, dtype, name) if x.dtype in FLOATS else x for x in (loss, *outputs)]
        return loss, outputs

    def gather(self, unit: FSDPUnit) -> None:
        """Gather a unit's weights into one buffer, unless they are already gathered."""
        if unit.buffer is not None or unit.gathered:
            return
        copies = self._uploaded(unit) if self.offloads else self._cast(unit)
        unit.buffer = self._new_tensor(*unit.param_group.all_gather_output, unit.param_group.name + ALL_GATHER_OUTPUT)
        del copies

    def copy_out(self, unit: FSDPUnit, *, keeps_buffer: bool) -> None:
        """Copy a unit's weights out of the buffer.

        In the forward pass, the next unit's copy frees the buffer. Before PyTorch 2.15, a local variable keeps it until
        the copy is made.
        """
        if unit.buffer is None:
            return
        kept = self.kept_buffer if keeps_buffer and not self.frees_early else None
        if keeps_buffer:
            self.kept_buffer = None
        unit.gathered = self.gathered(unit.param_group)
        if keeps_buffer:
            self.kept_buffer = unit.buffer
        unit.buffer = None
        del kept

    def leave(self, unit: FSDPUnit) -> None:
        """Record the end of a unit's forward pass, and free its weights."""
        if unit.reshards:
            unit.gathered = []
        unit.position = len(self.order)
        self.order.append(unit)

    def pre_backward(self, unit: FSDPUnit) -> None:
        """Gather a unit's weights, and those of the unit that ran before it."""
        if unit.in_backward:
            return
        unit.in_backward = True
        self.gather(unit)
        self.copy_out(unit, keeps_buffer=False)
        before = self.order[unit.position - 1] if unit.position else self.ran_before
        if before is not None:
            self.gather(before)

    def post_backward(self, unit: FSDPUnit) -> None:
        """Free a unit's weights, and reduce its gradients in a step's last micro-batch."""
        unit.in_backward, unit.is_done, unit.gathered = False, True, []
        if not self.reduces:
            return
        grads = unit.take_gradients()
        self.reduce_input = None
        if grads:
            self._reduce(unit, grads)

    def _reduce(self, unit: FSDPUnit, grads: list[Tensor]) -> None:
        """Reduce gradients and keep this rank's part."""
        group = unit.param_group
        dtype, stored = grads[-1].dtype, group.trained[-1].dtype
        size = named(group.shard_elements(group.trained), "trained in unit / N")
        whole = named(group.count, RANKS), size
        self.reduce_input = self._new_tensor(whole, dtype, group.name + REDUCE_SCATTER_INPUT)
        # Before PyTorch 2.15, a loop variable keeps the last gradient to the end.
        last = None if self.frees_early else grads[-1]
        grads.clear()
        if stored == dtype:
            unit.shards = self._new_tensor((size,), dtype, group.name + GRADIENT_SHARDS, "gradients")
        else:
            output = self._new_tensor((size,), dtype, group.name + REDUCE_SCATTER_OUTPUT)
            unit.shards = self._new_tensor((size,), stored, group.name + GRADIENT_SHARDS, "gradients")
            del output
        if self.offloads:
            unit.shards = None
        del last

    def final_callback(self) -> None:
        """End the backward pass of units whose inputs need no gradient, and free the remaining buffers."""
        units = dict.fromkeys((*self.units, *self.roles.values()))
        for unit in (unit for unit in units if not unit.is_done):
            self.post_backward(unit)
        for unit in units:
            unit.buffer = None
        self.reduce_input = None
