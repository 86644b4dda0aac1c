"""A module in the running step: its parameters as tensors, and the gradients that accumulate in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.autograd import AccumulateGrad
from calculator.engine.module_calls import NamedParameter, enter, leave, transposed
from calculator.engine.tape import LeafTensor, Tape, Tensor
from calculator.layers.stored_products import PRODUCTS, Layer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from calculator.architecture.dimension import Shape
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.engine.accumulation import Accumulation
    from calculator.resident.module_spec import ModuleSpec

    #: A method's forward of a linear module. It takes the module and its input.
    Wrapper = Callable[["BoundModule", Tensor], Tensor]


class Parameters:
    """A factory of parameters: tensors without a storage on the tape. A trained one has an AccumulateGrad node.

    It keeps these nodes, and so the gradients, as a model keeps them in its parameters.
    """

    __slots__ = (
        "accumulation",
        "dtype",
        "follows_inputs",
        "graph",
        "keeps_inputs",
        "layer",
        "leaves",
        "shared",
        "tape",
        "tied",
        "tied_to",
        "tower_layer",
        "trained",
        "trains",
    )

    def __init__(
        self,
        tape: Tape,
        tied: Mapping[str, str],
        *,
        accumulation: Accumulation,
        keeps_inputs: bool = False,
        follows_inputs: bool = False,
        dtype: DType | None = None,
        graph: bool = True,
        shares: bool = False,
    ) -> None:
        self.tape = tape
        self.tied = tied
        self.accumulation = accumulation
        #: Whether quantized layers keep their inputs.
        self.keeps_inputs = keeps_inputs
        #: Whether 4-bit layers compute in the dtype of their inputs.
        self.follows_inputs = follows_inputs
        #: The dtype of all parameters, whatever they are stored in. None if each has its own.
        self.dtype = dtype
        #: Whether the pass records a graph, and whether its parameters get gradients.
        self.graph = graph
        self.trains = graph and tape.trains
        #: The parameters that others are tied to, by name.
        self.tied_to: dict[str, Tensor] = {}
        #: The number of the bound layer. `shared` has the trained parameters by that number and their name, if several
        #: passes share them.
        self.layer: int | None = None
        #: The number of the bound layer of a tower. The marks of its gradients contain it, because towers mark no
        #: layers.
        self.tower_layer: int | None = None
        self.shared: dict[tuple[int | None, str], Tensor] | None = {} if shares else None
        self.leaves: list[AccumulateGrad] = []
        #: The trained parameters by name, in the order in which modules are bound. All layers have the same names.
        self.trained: list[tuple[str, Tensor]] = []

    def new(self, name: str, shape: Shape, dtype: DType, *, trained: bool) -> Tensor:
        """Return a parameter, or the parameter that it is tied to.

        If gradients accumulate, it already has a gradient.
        """
        dtype = self.dtype or dtype
        if not self.tied:
            return (
                self._create(name, shape, dtype, trained=trained) if trained else self.plain(name, shape, dtype, None)
            )
        name = self.tied.get(name, name)
        if name in self.tied_to:
            return self.tied_to[name]
        parameter = self._create(name, shape, dtype, trained=trained)
        if name in self.tied.values():
            self.tied_to[name] = parameter
        return parameter

    def _create(self, name: str, shape: Shape, dtype: DType, *, trained: bool) -> Tensor:
        if trained and not self.graph and not self.tape.calls_modules:
            return LeafTensor(self.tape, None, shape, dtype)
        if not trained or not self.trains:
            return self.plain(name, shape, dtype, None)
        if self.shared is None:
            return self._trained(name, shape, dtype)
        key = (self.layer if self.tower_layer is None else self.tower_layer), name
        if key not in self.shared:
            self.shared[key] = self._trained(name, shape, dtype)
        return self.shared[key]

    def _trained(self, name: str, shape: Shape, dtype: DType) -> Tensor:
        parameter = self.plain(name, shape, dtype, self.leaf(name))
        self.trained.append((name, parameter))
        return parameter

    def leaf(self, name: str) -> AccumulateGrad:
        """Return the node that accumulates the gradient of a new trained parameter.

        A parameter that the layers of a tower share belongs to no layer.
        """
        layer = self.tower_layer if "*" in name else None
        leaf = AccumulateGrad(self.tape, name, accumulation=self.accumulation, layer=layer)
        self.leaves.append(leaf)
        return leaf

    def plain(self, name: str, shape: Shape, dtype: DType, leaf: AccumulateGrad | None) -> Tensor:
        """Return a new parameter. It knows its name if calls of modules are marked."""
        if self.tape.calls_modules:
            numbered = name if self.tower_layer is None else name.replace("*", str(self.tower_layer))
            return NamedParameter(self.tape, shape, dtype, leaf, numbered)
        return Tensor(self.tape, None, shape, dtype, leaf)


class BoundModule:
    """A module that is bound to a tape. Calling it runs its forward."""

    __slots__ = ("added", "follows_input", "keeps_input", "module", "module_spec", "name", "own", "tape", "wrapper")

    def __init__(
        self, parameters: Parameters, path: str, module: Module, module_spec: ModuleSpec, wrapper: Wrapper | None
    ) -> None:
        self.tape = parameters.tape
        self.keeps_input = parameters.keeps_inputs
        self.follows_input = parameters.follows_inputs
        self.module = module
        self.name = path
        self.module_spec = module_spec
        self.wrapper = wrapper
        own_path = f"{path}.{module_spec.copied}" if module_spec.copied else path
        self.own: dict[str, Tensor] = {}
        for p in module.parameters:
            trained, dtype = p.name in module_spec.trained, module_spec.trained_dtype_of(p)
            self.own[p.name] = parameters.new(f"{own_path}.{p.name}", p.shape, dtype, trained=trained)
        self.added: dict[str, Tensor] = {}
        for a in module_spec.added:
            name = f"{path}.{a.name}"
            # No sharding casts buffers.
            self.added[a.name] = (
                parameters.plain(name, a.shape, a.dtype, None)
                if a.buffer
                else parameters.new(name, a.shape, a.dtype, trained=a.trained)
            )

    def __call__(self, x: Tensor) -> Tensor:
        """Run the module, including what its method adds."""
        tape, run = self.tape, self.wrapper if self.added else None
        outer, tape.scope = tape.scope, f"{self.name}: "
        if tape.calls_modules:
            x = enter(self.name, x)
        out = self.base(x) if run is None else run(self, x)
        tape.scope = outer
        return leave(self.name, out) if tape.calls_modules else out

    def base_layer(self, x: Tensor) -> Tensor:
        """Call the module that PEFT's layer wraps, within the call of PEFT's layer."""
        if not self.tape.calls_modules:
            return self.base(x)
        path = f"{self.name}.base_layer"
        return leave(path, self.base(enter(path, x)))

    def base(self, x: Tensor) -> Tensor:
        """Run the module without what its method adds: (..., in_features) to (..., out_features)."""
        quantization = self.module_spec.quantization
        if quantization is None:
            return self._dense(x)
        # Without a graph, as in a re-entrant checkpoint, the product's node is freed when the call returns.
        keeps_input = self.keeps_input and self.tape.grad_enabled
        layer = Layer(self.name, self.module, self.own.get("bias"), keeps_input, self.follows_input)
        return PRODUCTS[type(quantization)](quantization, x, layer)

    def _dense(self, x: Tensor) -> Tensor:
        weight, bias, width = self.own["weight"], self.own.get("bias"), self.module.out_features
        if self.module.kind == "conv1d":
            return products.addmm(x, weight, bias, width, "output")
        if not self.module.separate_bias:
            return products.matmul(x, weight, bias, width, "output")
        # This is a product with a transposed view, which DeepSpeed's stage 3 does not replace. Source: FalconLinear.
        view = transposed(weight) if self.tape.calls_modules else ops.view(weight, weight.shape)
        product = products.addmm(x, view, None, width, "output")
        return product if bias is None else ops.add(product, bias, "output with bias")
