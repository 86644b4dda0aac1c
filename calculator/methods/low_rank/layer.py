"""A module with a low-rank update: the parameters that PEFT adds, and the operations of its forward."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.in_place import add_
from calculator.engine.module_calls import enter, leave
from calculator.engine.parameter_views import viewed
from calculator.engine.tape import AddedRows
from calculator.layers.stored_products import DENSE
from calculator.methods.layer_kinds import full_name
from calculator.methods.low_rank import block_diagonal, layers, parameters, tokens
from calculator.methods.targeted.adapted_linear import add_to_output_, transposed_weight
from calculator.resident.module_spec import new_added

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule
    from calculator.methods.low_rank.block_diagonal import BdLoraConfig
    from calculator.methods.low_rank.method import LowRank
    from calculator.resident.module_spec import Added, CopyName


def adapted(
    method: LowRank, path: str, module: Module, model: Model, training: Training, base: DType
) -> tuple[tuple[str, ...], tuple[Added, ...], CopyName | None]:
    """Return the trained parameters of a module itself, those that are added to it, and the name of its copy.

    `base` is the dtype that the module computes in. If its weight is dense, it is the weight's dtype.
    """
    if method.is_saved(path):
        return tuple(p.name for p in module.parameters), (), "modules_to_save"
    dtype: DType = "float32" if training.adapter_dtype == "float32" else base
    if method.target_parameters:
        name = full_name(path, module)
        if module.kind == "experts" or parameters.targeted(method.target_parameters, name, module):
            transposed = parameters.is_transposed(model.model_type)
            return (), parameters.updates(method, name, module, dtype, transposed=transposed), None
    target = method.is_chosen(path, module, model)
    biases = method.bias == "all" or (method.bias == "lora_only" and target)
    trained = ("bias",) if biases and module.bias is not None else ()
    if not target:
        return trained, tokens.rows(method, path, model, dtype), None
    return trained, _updates(method, path, module, dtype, trains_a=training.optimizer != "lorafa"), None


def _updates(method: LowRank, path: str, module: Module, dtype: DType, *, trains_a: bool) -> tuple[Added, ...]:
    r = named(layers.rank(method, full_name(path, module)) if method.rank_pattern else method.r, "r")
    trains_b = method.init_lora_weights != "mica"
    if module.kind == "embedding":
        return (
            new_added(name="lora_embedding_A", shape=(r, module.in_features), dtype=dtype),
            new_added(name="lora_embedding_B", shape=(module.out_features, r), dtype=dtype, trained=trains_b),
        )
    if method.use_bdlora is not None:
        return block_diagonal.added(
            method.use_bdlora, path, module, r, dtype, trains_a=trains_a, has_bias=method.lora_bias
        )
    a = new_added(name="lora_A.weight", shape=(r, module.in_features), dtype=dtype, trained=trains_a)
    b = new_added(name="lora_B.weight", shape=(module.out_features, r), dtype=dtype, trained=trains_b)
    if method.lora_bias:
        return a, b, new_added(name="lora_B.bias", shape=(module.out_features,), dtype=dtype)
    if not method.use_dora:
        return a, b
    return a, b, new_added(name="lora_magnitude_vector.weight", shape=(module.out_features,), dtype=dtype)


def forward(method: LowRank, bound: BoundModule, x: Tensor) -> Tensor:
    """Run peft.tuners.lora.layer.Linear.forward, or that of the layer for the format of a stored weight."""
    stored = bound.module_spec.quantization
    if stored is not None and stored.casts == "update":
        return _forward_quantized(method, bound, x)
    if method.use_bdlora is not None:
        return _block_diagonal(method, method.use_bdlora, bound, x)
    result = _base_layer(bound, x)
    dtype = result.dtype
    if stored is not None and stored.casts == "sum_without_autocast" and bound.tape.autocast is not None:
        return _updated(method, bound, x, result)
    x = ops.cast(x, bound.added["lora_A.weight"].dtype, "input in the adapter's dtype")
    result = _updated(method, bound, x, result)  # frees the base's output before the sum is cast
    return ops.cast(result, dtype, "output")


def listed_forward(method: LowRank, bound: BoundModule, x: Tensor) -> Tensor:
    """Run `forward`, and list the rows that the adapters allocate (see `Tape.added`)."""
    out, tape = forward(method, bound, x), bound.tape
    if tape.added and out.storage is not None:
        first, _, _, base_row = tape.added.pop()
        tape.added.append(AddedRows(first, len(tape.rows), out.storage.row, base_row))
    return out


def _base_layer(bound: BoundModule, x: Tensor) -> Tensor:
    """Return the output of the frozen module."""
    out, tape = bound.base_layer(x), bound.tape
    if tape.added is not None:
        base_row = None if out.storage is None else out.storage.row
        tape.added.append(AddedRows(len(tape.rows), len(tape.rows), -1, base_row))
    return out


def _block_diagonal(method: LowRank, config: BdLoraConfig, bound: BoundModule, x: Tensor) -> Tensor:
    """Run BdLoraLinearVariant.forward.

    It adds to the output in place. Its caller keeps the cast input.
    """
    result = _base_layer(bound, x)
    x = ops.cast(x, bound.added["lora_A.weight"].dtype, "input in the adapter's dtype")
    dropped = _dropped(method, x)
    scaled = ops.scale(block_diagonal.update(config, bound, dropped), "update, scaled")
    return add_to_output_(bound, result, scaled)


def _updated(method: LowRank, bound: BoundModule, x: Tensor, result: Tensor) -> Tensor:
    if method.use_dora:
        return _dora(method, bound, x, result)
    return ops.add(result, update(method, bound, x), "result + update")


def embedding_forward(bound: BoundModule, ids: Tensor, result: Tensor, scale: Tensor | None) -> Tensor:
    """Run peft.tuners.lora.layer.Embedding.forward: rows of A, multiplied by B, added to the frozen rows.

    A scale of the frozen rows is applied to the update too.
    """
    a, b = bound.added["lora_embedding_A"], bound.added["lora_embedding_B"]
    after_a = products.embedding(ids, viewed(a, a.shape[::-1]), a.shape[0], "rows of A")
    update = ops.scale(products.addmm(after_a, viewed(b, b.shape), None, b.shape[0], "B·A·x"), "update, scaled")
    if scale is not None:
        update = ops.mul(update, ops.cast(scale, update.dtype, "scale in the update's dtype"), "update, scaled as rows")
    return ops.cast(ops.add(result, update, "result + update"), result.dtype, "output")


def _forward_quantized(method: LowRank, bound: BoundModule, x: Tensor) -> Tensor:
    """Run peft.tuners.lora.bnb.Linear4bit.forward, or a similar one that does not clone the output."""
    result = _base_layer(bound, x)
    stored = bound.module_spec.quantization
    if stored is not None and stored.clones_output:
        result = ops.contiguous(result, "output, cloned")
    dtype = result.dtype
    converts = bound.tape.autocast is None
    if converts:
        x = ops.cast(x, bound.added["lora_A.weight"].dtype, "input in the adapter's dtype")
    if method.use_dora:
        result = _dora(method, bound, x, result)
        return ops.cast(result, dtype, "output") if converts else result
    output = _cast_update(method, bound, x, dtype if converts else None)
    if stored is not None and stored.adds_in_place:
        return add_(result, output)
    return ops.add(result, output, "result + update")


def _cast_update(method: LowRank, bound: BoundModule, x: Tensor, dtype: DType | None) -> Tensor:
    """Compute the update. If a dtype is given, cast it before or after it is scaled."""
    stored = bound.module_spec.quantization
    if stored is None or not stored.scales_after_cast:
        output = update(method, bound, x)
        return output if dtype is None else ops.cast(output, dtype, "update")
    output = _product(bound, _called_dropout(method, bound, x))
    if dtype is not None:
        output = ops.cast(output, dtype, "update")
    return ops.scale(output, "update, scaled")


def update(method: LowRank, bound: BoundModule, x: Tensor) -> Tensor:
    """Compute B(A(dropout(x))), scaled: (..., in_features) to (..., out_features)."""
    kept: list[Tensor] = []
    return ops.scale(_product(bound, _called_dropout(method, bound, x), kept), "update, scaled")


def _called_dropout(method: LowRank, bound: BoundModule, x: Tensor) -> Tensor:
    if not method.lora_dropout and not x.tape.calls_modules:
        return x
    path = f"{bound.name}.lora_dropout"
    return leave(path, _dropped(method, enter(path, x)))


def _dropped(method: LowRank, x: Tensor) -> Tensor:
    return ops.dropout(x, method.lora_dropout, "dropout") if x.tape.module_dropout else x


def _product(bound: BoundModule, x: Tensor, kept: list[Tensor] | None = None) -> Tensor:
    """Compute B(A(x)).

    If the layer's code refers to A(x) for longer, it is added to `kept`.
    """
    a, b = bound.added["lora_A.weight"], bound.added["lora_B.weight"]
    x = _called_linear(bound, "lora_A", x, a, None, "A·x")
    if kept is not None and bound.module_spec.keeps_after_a:
        kept.append(x)
    return _called_linear(bound, "lora_B", x, b, bound.added.get("lora_B.bias"), "B·A·x")


def _called_linear(
    bound: BoundModule, module: str, x: Tensor, weight: Tensor, bias: Tensor | None, name: str
) -> Tensor:
    if not x.tape.calls_modules:
        return products.matmul(x, weight, bias, weight.shape[0], name)
    path = f"{bound.name}.{module}"
    return leave(path, products.matmul(enter(path, x), weight, bias, weight.shape[0], name))


def _dora(method: LowRank, bound: BoundModule, x: Tensor, result: Tensor) -> Tensor:
    """Run DoRA (Liu et al. 2024) as peft.tuners.lora.dora.DoraLinearLayer.forward does."""
    base_result: Tensor | None = result
    if method.lora_dropout and bound.tape.trains:
        x = _called_dropout(method, bound, x)
        base_result = None
    return ops.add(result, _dora_update(bound, x, base_result), "result + update")


def _dora_update(bound: BoundModule, x: Tensor, base_result: Tensor | None) -> Tensor:
    path = f"{bound.name}.lora_magnitude_vector"
    return leave(path, _dora_layer(bound, enter(path, x), base_result))


def _dora_layer(bound: BoundModule, x: Tensor, base_result: Tensor | None) -> Tensor:
    lora_weight = ops.cast(_lora_weight(bound), x.dtype, "B·A in the input's dtype")
    weight = ops.cast(_dense(bound), x.dtype, "weight in the input's dtype")
    weight_norm = _weight_norm(bound, weight, lora_weight)
    mag_norm_scale = ops.mul(bound.added["lora_magnitude_vector.weight"], weight_norm, "magnitude / norm")
    lora_result = _product(bound, x)
    if base_result is None:
        weight = transposed_weight(bound, weight)
        base_result = products.matmul(x, weight, None, bound.module.out_features, "base result of the dropped input")
    elif bound.module.bias is not None:
        base_result = ops.add(base_result, bound.own["bias"], "base result without bias")
    direction = ops.mul(ops.shift(mag_norm_scale, "scale - 1"), base_result, "(scale - 1) · base result")
    return ops.add(
        direction, ops.scale(ops.mul(mag_norm_scale, lora_result, "scale · B·A·x"), "update, scaled"), "DoRA update"
    )


def _lora_weight(bound: BoundModule) -> Tensor:
    """Compute B·A from an identity matrix, as PEFT does."""
    a = bound.added["lora_A.weight"]
    eye = bound.tape.scratch((a.shape[1], a.shape[1]), a.dtype, "identity matrix")
    return _product(bound, eye)


def _dense(bound: BoundModule) -> Tensor:
    stored = bound.module_spec.quantization
    return bound.own["weight"].detach() if stored is None else DENSE[type(stored)](bound.tape, bound.module, stored)


def _weight_norm(bound: BoundModule, weight: Tensor, lora_weight: Tensor) -> Tensor:
    tape = bound.tape
    scaled = tape.scratch(lora_weight.shape, lora_weight.dtype, "B·A, scaled")
    total = tape.scratch(weight.shape, weight.dtype, "W + B·A")
    del scaled
    dtype = total.dtype if tape.autocast is None else "float32"
    norm = tape.new((bound.module.out_features,), dtype, "norm of each output's weights")
    del total
    return ops.cast(norm, weight.dtype, "norm in the weights' dtype")
