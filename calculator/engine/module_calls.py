"""Calls of modules, marked on the tape at the places where hooks of `torch.nn.Module` run.

DeepSpeed's ZeRO stage 3 gathers and releases parameters in these hooks, in the forward and in the backward pass. A tape
marks the calls if `calls_modules` is set.

Source: deepspeed/runtime/zero/parameter_offload.py, _register_deepspeed_module.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from calculator.engine.autograd import LeafModule, Mark
from calculator.engine.tape import LeafTensor, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.engine.autograd import Node
    from calculator.engine.tape import Tape

#: The prefixes of marks. A module's path, or a parameter's number and name, follows.
BEFORE_FORWARD = "before forward: "
AFTER_FORWARD = "after forward: "

#: The prefix where a module in a no-grad pass receives a tensor that requires a gradient.
BEFORE_FORWARD_OF_LEAF = "before forward of a leaf: "

BEFORE_BACKWARD = "before backward: "
AFTER_BACKWARD = "after backward: "
PINNED = "pinned: "
UNPINNED = "unpinned: "
KEPT = "kept: "
EXTERNAL = "external: "
LEAF = "leaf: "

#: The mark where a no-grad pass begins, with what runs in it, and the one where it ends.
NO_GRAD = "no-grad pass: "
NO_GRAD_ENDS = "no-grad pass ends"


class NamedParameter(Tensor):
    """A parameter with its name."""

    __slots__ = ("name",)

    def __init__(self, tape: Tape, shape: Shape, dtype: DType, node: Node | None, name: str) -> None:
        super().__init__(tape, None, shape, dtype, node)
        self.name = name


class Pinned(Tensor):
    """An alias or a view of a parameter.

    It keeps the gathered values alive that the parameter had when it was created.
    """

    __slots__ = ("label", "parameter")

    def __init__(self, parameter: NamedParameter) -> None:
        tape = parameter.tape
        super().__init__(tape, None, parameter.shape, parameter.dtype, None)
        self.parameter = parameter
        self.label = f"{len(tape.marks)} {parameter.name}"
        tape.mark(f"{PINNED}{self.label}")

    def __del__(self) -> None:
        self.tape.mark(f"{UNPINNED}{self.label}")

    def detach(self) -> Pinned:
        """Return the same view without a gradient."""
        return Pinned(self.parameter)


def transposed(parameter: Tensor) -> Tensor:
    """Return a transposed view of a parameter, with the parameter's shape. It keeps the gathered values alive."""
    if not isinstance(parameter, NamedParameter):
        return parameter
    view = Pinned(parameter)
    view.edge = parameter.edge
    return view


@contextmanager
def leaf(path: str, tape: Tape, names: Sequence[str]) -> Iterator[None]:
    """Run a module without marks for the calls inside it.

    The parameters of the module and of all its submodules are gathered together. `names` are those of `LeafModule`.

    Source: deepspeed/runtime/zero/leaf_module_config.py, DEFAULT_LEAF_MODULE_CLASSES.
    """
    outer, tape.in_leaf = tape.in_leaf, True
    if tape.calls_modules:
        tape.mark(f"{LEAF}{path}")
        tape.leaves.setdefault(path, LeafModule(path, names))
    try:
        yield
    finally:
        tape.in_leaf = outer


def saved_copy(tensor: Tensor) -> Tensor:
    """Return the tensor that a recomputation saves: an alias of a trained parameter, or a frozen parameter itself.

    Source: torch/utils/checkpoint.py, _recomputation_hook.
    """
    return Pinned(tensor) if isinstance(tensor, NamedParameter) and tensor.edge else tensor.detach()


def kept(name: str, x: Tensor) -> None:
    """Mark that the graph of an output refers to a parameter that autograd does not save.

    The reference lasts until the loss is freed.

    Source: bitsandbytes/autograd/_functions.py, MatMul4Bit.forward, which sets an attribute of its context.
    """
    if x.tape.calls_modules and x.tape.grad_enabled and x.edge is not None:
        x.tape.mark(f"{KEPT}{_numbered(x.tape, name)}")


def begin(tape: Tape, path: str) -> None:
    """Begin the call of a module that has keyword arguments only.

    No hook runs when their gradients are complete.
    """
    if _marks(tape):
        tape.mark(f"{BEFORE_FORWARD}{_numbered(tape, path)}")


def _marks(tape: Tape) -> bool:
    return tape.calls_modules and not tape.in_leaf


def _numbered(tape: Tape, path: str) -> str:
    """Return a path with the number of the tower's layer that runs, if one does."""
    return path if tape.tower_layer is None else path.replace("*", str(tape.tower_layer))


def enter(path: str, x: Tensor) -> Tensor:
    """Begin the call of a module with a positional argument. Return the argument that the module receives."""
    tape = x.tape
    if not tape.calls_modules or tape.in_leaf:
        return x
    path = path if tape.tower_layer is None else _numbered(tape, path)
    kind = BEFORE_FORWARD_OF_LEAF if type(x) is LeafTensor else BEFORE_FORWARD
    tape.marks.append((len(tape.events), kind + path))
    if x.edge is None or (tape.recomputes and type(x) is Tensor):
        return x  # the graph of a recomputation never runs backward
    return _alias(x, Mark(tape, _after_backward, (x.edge,), path))


def enter_with(path: str, *inputs: Tensor) -> list[Tensor]:
    """Begin the call of a module with several positional arguments. Return what it receives.

    Its backward pass has ended once the gradients of all of them are complete.
    """
    tape = inputs[0].tape
    if not _marks(tape):
        return [*inputs]
    path = _numbered(tape, path)
    tape.mark(f"{BEFORE_FORWARD}{path}")
    ends = _Ends(path, sum(x.edge is not None for x in inputs))
    return [x if x.edge is None else _alias(x, Mark(tape, _after_one, (x.edge,), ends)) for x in inputs]


class _Ends:
    """A call of a module, and the inputs whose gradients are to come (ds_grads_remaining)."""

    __slots__ = ("left", "path")

    def __init__(self, path: str, left: int) -> None:
        self.path, self.left = path, left


def leave(path: str, x: Tensor) -> Tensor:
    """End the call of a module. Return its output."""
    tape = x.tape
    if not tape.calls_modules or tape.in_leaf:
        return x
    path = path if tape.tower_layer is None else _numbered(tape, path)
    tape.marks.append((len(tape.events), AFTER_FORWARD + path))
    if x.edge is None or (tape.recomputes and type(x) is Tensor):
        return x
    return _alias(x, Mark(tape, _before_backward, (x.edge,), path))


def leave_with(path: str, *outputs: Tensor) -> list[Tensor]:
    """End the call of a module. Return its outputs."""
    tape = outputs[0].tape
    if not _marks(tape):
        return [*outputs]
    path = _numbered(tape, path)
    tape.mark(f"{AFTER_FORWARD}{path}")
    return [x if x.edge is None else _alias(x, Mark(tape, _before_backward, (x.edge,), path)) for x in outputs]


def external(path: str, parameter: Tensor) -> None:
    """Mark that a module's code reads a parameter of another module.

    From then on, the parameter is gathered with the module's own.

    Source: deepspeed/runtime/zero/parameter_offload.py, ZeROOrderedDict.__getitem__.
    """
    if isinstance(parameter, NamedParameter):
        reads(parameter.tape, path, parameter.name)


def reads(tape: Tape, path: str, name: str) -> None:
    """Mark that the code of a module reads a parameter of another module, given by its name."""
    if tape.calls_modules:
        tape.mark(f"{EXTERNAL}{_numbered(tape, path)}: {_numbered(tape, name)}")


def passed(tape: Tape, path: str) -> None:
    """Mark the call of a module that runs under no_grad, or that changes nothing."""
    if _marks(tape):
        path = _numbered(tape, path)
        tape.mark(f"{BEFORE_FORWARD}{path}")
        tape.mark(f"{AFTER_FORWARD}{path}")


def _alias(x: Tensor, node: Node) -> Tensor:
    out = Tensor(x.tape, x.storage, x.shape, x.dtype, node)
    out.merged = x.merged
    return out


def _before_backward(node: Node, grad: Tensor) -> tuple[Tensor]:
    tape = grad.tape
    tape.marks.append((len(tape.events), BEFORE_BACKWARD + node.context))
    return (grad,)


def _after_one(node: Node, grad: Tensor) -> tuple[Tensor]:
    ends = node.context
    ends.left -= 1
    if not ends.left:
        grad.tape.mark(f"{AFTER_BACKWARD}{ends.path}")
    return (grad,)


def _after_backward(node: Node, grad: Tensor) -> tuple[Tensor]:
    tape = grad.tape
    if tape.leaves and node.context in tape.leaves:
        tape.leaves[node.context].end()
    tape.marks.append((len(tape.events), AFTER_BACKWARD + node.context))
    return (grad,)
