"""The libraries of a trace with a trainer, imported once for many processes."""

from contextlib import suppress
from importlib import import_module

from validation.reference.trainers import kernels
from validation.reference.trainers.build import BUILDERS
from validation.tracing.silence import silence_libraries

silence_libraries()
kernels.install()
for name in ("validation.tracing.trainer_trace", "liger_kernel.transformers.monkey_patch"):
    import_module(name)
for name in sorted(set(BUILDERS.values())):
    with suppress(ImportError, RuntimeError):  # an older TRL lacks trainers, or what these import
        import_module(f"validation.reference.trainers.{name}")
