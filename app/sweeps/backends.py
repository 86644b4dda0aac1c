"""Where a sweep's points are computed: joblib's backends, with their processes or their cluster."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, get_args

from calculator.common.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

BackendName = Literal["loky", "dask", "ray"]

BACKENDS: tuple[str, ...] = get_args(BackendName)

#: The module that a backend needs, and the extra of this package that installs it.
_NEEDS = {"loky": ("joblib", "scale"), "dask": ("distributed", "scale"), "ray": ("ray", "ray")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """The processes of a sweep.

    Attributes:
        jobs: The number of processes. -1 is one per core, here or in the cluster.
        backend: joblib's backend that starts them.
        scheduler: The address of a cluster's scheduler; None starts the processes here.
    """

    jobs: int = 1
    backend: BackendName = "loky"
    scheduler: str | None = None

    def check(self) -> None:
        """Check that the backend is installed and can have the scheduler.

        Raises:
            PlanError: with the way out.
        """
        if self.scheduler is not None and self.backend == "loky":
            message = "loky has no scheduler: add --backend dask or --backend ray, or leave --scheduler out"
            raise refusal("scheduler", message, self.scheduler)
        module, extra = _NEEDS[self.backend]
        for name in ("joblib", module):
            if find_spec(name) is None:
                message = f"{self.backend} needs the package {name}: pip install 'headroom-gpu[{extra}]'"
                raise refusal("backend", message, self.backend)

    @contextmanager
    def started(self) -> Iterator[str]:
        """Start the processes, or connect to the scheduler; joblib then computes there.

        Yields how joblib returns blocks there: as they are computed, or with ray as a list at the end.

        Raises:
            PlanError: if no scheduler answers at the address.
        """
        from joblib import parallel_config  # noqa: PLC0415  an extra installs it

        start = {"loky": _loky, "dask": _dask, "ray": _ray}[self.backend]
        with start(self), parallel_config(backend=self.backend, n_jobs=self.jobs) as config:
            if self.backend == "dask":
                _compute_there(config["backend"])
            yield "generator" if config["backend"].supports_return_generator else "list"


def _compute_there(backend: Any) -> None:
    """Let a cluster with one worker compute. joblib would compute here instead."""
    cluster_jobs = backend.effective_n_jobs
    backend.effective_n_jobs = lambda n_jobs: max(2, cluster_jobs(n_jobs))


@contextmanager
def _loky(_: Processes) -> Iterator[None]:
    yield


@contextmanager
def _dask(processes: Processes) -> Iterator[None]:
    from distributed import Client, LocalCluster  # noqa: PLC0415  an extra installs it

    if processes.scheduler is None:
        count = processes.jobs if processes.jobs > 0 else None
        with LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
            yield
        return
    with _connected(Client, processes.scheduler):
        yield


@contextmanager
def _connected(client: Any, scheduler: str) -> Iterator[None]:
    try:
        connection = client(scheduler, timeout="10s")
    except (OSError, ValueError) as error:
        message = f"no scheduler of dask answers there: {str(error).splitlines()[0]}"
        raise refusal("scheduler", message, scheduler) from error
    with connection:
        yield


@contextmanager
def _ray(processes: Processes) -> Iterator[None]:
    import ray  # noqa: PLC0415  an extra installs it
    from ray.util.joblib import register_ray  # noqa: PLC0415

    try:
        count = processes.jobs if processes.jobs > 0 and processes.scheduler is None else None
        ray.init(address=processes.scheduler, num_cpus=count, include_dashboard=False, log_to_driver=False)
    except (ConnectionError, ValueError) as error:
        message = f"no cluster of ray answers there: {str(error).splitlines()[0]}"
        raise refusal("scheduler", message, processes.scheduler) from error
    register_ray()
    try:
        yield
    finally:
        ray.shutdown()
