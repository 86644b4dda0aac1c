"""Mamba 2's mixer: a projection, a short convolution, the scan, a gate with or without a norm, the output's projection.

Source: transformers/models/granitemoehybrid/modeling_granitemoehybrid.py, GraniteMoeHybridMambaLayer, and
falcon_h1/modeling_falcon_h1.py, FalconH1Mixer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.common.dtype import ITEMSIZE
from calculator.common.errors import refusal
from calculator.engine import operations as ops
from calculator.engine.module_calls import enter_with, external, leave
from calculator.engine.tape import Tensor
from calculator.layers.activation import ACTIVATIONS
from calculator.layers.mamba_ssm import fused
from calculator.layers.mamba_ssm.scan import Sizes, chunk_scan_combined
from calculator.layers.short_conv import causal_conv1d, without_padding
from calculator.layers.state_space import mamba2_chunk_scan, mamba2_state_update

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from calculator.common.dtype import DType
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules

    #: Takes a norm, the scan's output and the gate, and returns the normed and gated output.
    GatedNorm = Callable[[Context, BoundModule, Tensor, Tensor], Tensor]


def gated_rms_norm(context: Context, norm: BoundModule, x: Tensor, gate: Tensor) -> Tensor:
    """Run GraniteMoeHybridRMSNormGated: silu of the gate, then the norm of each group, in float32."""
    x, gate = enter_with(norm.name, x, gate)
    x.tape.scope = f"{norm.name}: "
    dtype, shape = x.dtype, x.shape
    x = ops.mul(ops.cast(x, "float32", "input in float32"), _silu(gate, "float32"), "gated")
    group, _variance = _normalized(x, context.config["mamba_n_groups"])
    x = ops.view(group, shape)
    return leave(norm.name, ops.mul(norm.own["weight"], ops.cast(x, dtype, "normalized"), "output"))


def rms_norm_by_group(context: Context, norm: BoundModule, x: Tensor, gate: Tensor) -> Tensor:
    """Run FalconH1RMSNormGated: the norm of each group with its weight, and silu of the gate before or after it."""
    x, gate = enter_with(norm.name, x, gate)
    x.tape.scope = f"{norm.name}: "
    shape, groups, first = x.shape, context.config["mamba_n_groups"], context.config["mamba_norm_before_gate"]
    if not first:
        x = ops.mul(x, _silu(gate, "float32"), "gated")
    x, _variance = _normalized(ops.cast(x, "float32", "input in float32"), groups)
    weight = ops.view(norm.own["weight"], (groups, shape[2] // groups))
    x = ops.view(ops.mul(weight, x, "scaled"), shape)
    return leave(norm.name, ops.mul(x, _silu(gate, "float32"), "gated") if first else x)


def _silu(gate: Tensor, dtype: DType) -> Tensor:
    return ACTIVATIONS["silu"](ops.cast(gate, dtype, f"gate in {dtype}"))


def _normalized(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Normalize each group: (batch, sequence, width) to (batch, sequence, groups, width of each), and the variance."""
    batch, length, width = x.shape
    group = ops.view(x, (batch, length, groups, width // groups))
    variance = ops.mean(ops.unary(group, "squared", saves="input", temporaries=2), "variance")
    root = ops.unary(ops.shift(variance, "variance + eps"), "rsqrt", saves="result", temporaries=2)
    return ops.mul(group, root, "normalized in float32"), variance


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2:
    """The mixer of a family: (batch, sequence, hidden_size) to the same shape. The defaults are Granite's.

    Its sizes in the config are `mamba_n_heads`, `mamba_d_head`, `mamba_n_groups`, `mamba_d_state` and
    `mamba_chunk_size`.
    """

    #: The name of the module.
    name: str = "mamba"

    norm: GatedNorm = gated_rms_norm

    #: Whether the projection's input and output are multiplied by numbers. The output is multiplied by a vector in a
    #: buffer.
    multiplies: bool = False

    #: Whether a single position without a norm is gated as its state is updated.
    gates_state_update: bool = False

    #: The name in the config of the activation function.
    act: str = "hidden_act"

    def __call__(self, context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
        """Run the mixer."""
        name, config = self.name, context.config
        act = ACTIVATIONS[config[self.act]]
        heads, head, groups, state = (config[f"mamba_{key}"] for key in ("n_heads", "d_head", "n_groups", "d_state"))
        (batch, length, _), dtype = hidden_states.shape, hidden_states.dtype
        inner, shared = heads * head, groups * state
        projected, hidden_states = self._projected(context, modules, hidden_states)
        parameters = modules[name].own
        rate = ops.unary(ops.cast(parameters["A_log"], "float32", "A_log in float32"), "A", saves="result")
        rate = ops.scale(rate, "-A")
        packaged = "mamba_ssm" in (context.training.kernels or ())
        if packaged and context.cache is None:
            return self._fused(context, modules, projected, rate)
        if context.cache is None and context.tape.trains:
            self._read_for_kernel(modules)
        gate, mixed, dt = ops.split(projected, [(batch, length, width) for width in (inner, inner + 2 * shared, heads)])
        mixed = ops.view(mixed, (batch, mixed.shape[2], length))
        mixed = causal_conv1d(context, modules[f"{name}.conv1d"], mixed, act)
        mixed = without_padding(context, ops.view(mixed, (batch, length, mixed.shape[1])))
        hidden_states, b, c = ops.split(mixed, [(batch, length, width) for width in (inner, shared, shared)])
        before = context.cache.state() if context.cache is not None else None
        if context.cache is not None and before is not None:
            gated = self.gates_state_update and f"{name}.norm" not in modules
            z = ops.view(gate, (batch, heads, head)) if gated else None
            x, dt = ops.view(hidden_states, (batch, heads, head)), ops.view(dt, (batch, heads, 1))
            b, c = (ops.view(tensor, (batch, groups, state)) for tensor in (b, c))
            out = mamba2_state_update(x, dt, rate, b, c, before, parameters, z)
            context.cache.update_state()
        else:
            gated = False
            x = ops.view(hidden_states, (batch, length, heads, head))
            b, c = (ops.view(tensor, (batch, length, groups, state)) for tensor in (b, c))
            inputs, chunk = (x, dt, rate, b, c, parameters["D"], parameters["dt_bias"]), config["mamba_chunk_size"]
            scan = chunk_scan_combined if packaged else mamba2_chunk_scan
            out, last = scan(*inputs, chunk)
            if context.cache is not None:
                context.cache.update_recurrent_state(last)
            else:
                del last  # the scan does not return it
        out = ops.view(out, (batch, length, inner))
        if f"{name}.norm" in modules:
            out = self.norm(context, modules[f"{name}.norm"], out, gate)
        elif not gated:
            out = ops.mul(out, _silu(gate, gate.dtype), "gated")
        return modules[f"{name}.out_proj"](ops.cast(out, dtype, "output in the input's dtype"))

    def _fused(self, context: Context, modules: LayerModules, projected: Tensor, rate: Tensor) -> Tensor:
        """Run everything after the projection as one function of mamba-ssm.

        It reads the parameters of modules that it does not call.
        """
        config = context.config
        conv, norm, out = (self._read(context, modules, name) for name in ("conv1d", "norm", "out_proj"))
        parameters, weight = modules[self.name].own, conv["weight"]
        inputs = fused.Inputs(
            projected=projected,
            conv=ops.view(weight, (weight.shape[0], weight.shape[2])),
            conv_bias=conv.get("bias"),
            dt_bias=parameters["dt_bias"],
            rate=rate,
            d=parameters["D"],
            norm=norm.get("weight"),
            out=out["weight"],
            out_bias=out.get("bias"),
        )
        sizes = (config[f"mamba_{name}"] for name in ("n_heads", "d_head", "n_groups", "d_state", "chunk_size"))
        group = inputs.rate.shape[0] * config["mamba_d_head"] // config["mamba_n_groups"]
        if norm and group * ITEMSIZE[projected.dtype] > fused.LARGEST_GROUP:
            message = f"mamba_ssm norms groups of at most 64 KiB, not of {group:,} numbers: leave it out"
            raise refusal("training.kernels", message, list(context.training.kernels or ()))
        context.set_scope(f"{modules.prefix}{self.name}: ")
        return fused.split_conv1d_scan_combined(inputs, Sizes(*sizes))

    def _read_for_kernel(self, modules: LayerModules) -> None:
        """Mark that the mixer reads the parameters of the modules in it for a function of mamba-ssm.

        Without the package, the function returns None.

        Source: modeling_granitemoehybrid.py, mamba2_split_conv1d_scan_combined.
        """
        for name in [module for module in ("conv1d", "norm", "out_proj") if f"{self.name}.{module}" in modules]:
            for parameter in modules[f"{self.name}.{name}"].own.values():
                external(f"{modules.prefix}{self.name}", parameter)

    def _read(self, context: Context, modules: LayerModules, name: str) -> Mapping[str, Tensor]:
        """Return the parameters of a module, if the mixer has it.

        Raises:
            PlanError: if a method stores, adapts or copies the module, so that its parameters alone are not enough.
        """
        path = f"{self.name}.{name}"
        if path not in modules:
            return {}
        module, spec = modules[path], modules[path].module_spec
        if spec.quantization is not None or spec.added or spec.copied:
            done = "quantizes" if spec.quantization is not None else "adapts or copies"
            message = f"mamba_ssm reads the weight of {path} without calling it, but the method {done} it"
            raise refusal("training.kernels", f"{message}: leave mamba_ssm out", list(context.training.kernels or ()))
        return module.own

    def _projected(self, context: Context, modules: LayerModules, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """Project the input without padding. Also return the input, which lives until the convolution has run."""
        scope = f"{modules.prefix}{self.name}: "
        context.set_scope(scope)
        hidden_states = without_padding(context, hidden_states)
        if self.multiplies:
            hidden_states = ops.scale(hidden_states, "input, multiplied")
        projected = modules[f"{self.name}.in_proj"](hidden_states)
        context.set_scope(scope)
        if self.multiplies:
            factors = Tensor(context.tape, None, (1, 1, projected.shape[2]), context.buffer_dtype, None)
            projected = ops.mul(projected, factors, "projection, multiplied")
        return projected, hidden_states
