"""Cells on a Ray cluster: one engine a GPU, or a share of one, or of the CPUs.

Cells are processed in the same way as in local worker processes; Ray starts the processes on all of
its nodes, and says when one is gone. Images, checkpoint and output have to be on a filesystem that
all nodes share, under the same paths.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

from capecam.errors import CapecamError, DeviceError, StoppedError, UsageError, WorkerError
from capecam.io.gdal import gdal_settings
from capecam.mosaic.city import City
from capecam.pipeline.cell_runner import CellRunner, Result, Work, failed
from capecam.pipeline.preparation import RunConstants
from capecam.run.executors import Executor, OnTiles, WorkQueue
from capecam.run.outcome import PreparedRun
from capecam.runtime import logs
from capecam.runtime.extras import require_extra
from capecam.runtime.progress import SILENT, Progress
from capecam.settings import Settings
from capecam.store.records import WORKER_ENDED, RunRecord
from capecam.store.staleness import ImageHashes

log = logging.getLogger(__name__)

LOCAL = "local-ray"
"""In place of an address: a cluster of this machine, started and ended with the run."""

CONNECT_TIMEOUT_S = 10.0

KILL_TIMEOUT_S = 30.0
"""Time to wait until workers that were killed are gone."""

ATTEMPTS = 3
"""Workers that a cell may take along before it has failed."""


class Actor:
    """Worker that Ray runs on a node."""

    def __init__(self, settings: Settings) -> None:
        logs.configure(logging.WARNING)
        self._settings = settings
        self._runner: CellRunner | None = None

    def prepare(self, city: City, previous: RunRecord | None) -> RunConstants | CapecamError:
        """See :class:`capecam.run.executors.Executor`."""
        try:
            with gdal_settings():
                return self._load().prepare(city, previous)
        except CapecamError as error:  # returned, since Ray would wrap it in an error of its own
            return error

    def load_city(self, city: City, constants: RunConstants, hashes: ImageHashes) -> None:
        """Get ready for the cells of a city."""
        self._load().load_city(city, constants, hashes)

    def process(self, work: Work) -> Result | StoppedError:
        """Process a cell, or explain objects."""
        with gdal_settings():
            try:
                return self._load().attempt(work, lambda _: None)
            except DeviceError:
                os._exit(1)
            except StoppedError as error:  # returned, as above
                return error

    def _load(self) -> CellRunner:
        self._runner = self._runner or CellRunner(self._settings)
        return self._runner


class RayExecutor(Executor):
    """Processes cells on a Ray cluster. A worker or node that dies costs only its cells in flight.

    Args:
        settings: of the run.
        address: of the cluster, or ``LOCAL``.

    Raises:
        UsageError: Ray is not installed, or there is no such cluster.
    """

    def __init__(self, settings: Settings, address: str) -> None:
        ray = self._ray = _connect(address)
        shared_by = int(1 / settings.compute.gpus_per_worker)
        compute = settings.compute.model_copy(update={"workers": shared_by})
        self._settings = _absolute_settings(settings.model_copy(update={"compute": compute}))
        self._share, self.count = _shares(settings, ray.cluster_resources(), len(ray.nodes()))
        self._actors = [self._start() for _ in range(self.count)]

    def _start(self) -> Any:
        return self._ray.remote(**self._share)(Actor).remote(self._settings)

    def prepare(
        self, city: City, previous: RunRecord | None, progress: Progress = SILENT
    ) -> RunConstants:
        """See :class:`capecam.run.executors.Executor`; how far it is stays on its node."""
        progress.at("calibration")
        request = self._actors[0].prepare.remote(_absolute_city(city), previous)
        try:
            answer: RunConstants | CapecamError = self._ray.get(request)
        except self._ray.exceptions.RayError as error:
            raise WorkerError(
                f"a Ray worker ended before its first cell: {error}"
                "; look into Ray's log on its node"
            ) from error
        if isinstance(answer, CapecamError):
            raise answer
        return answer

    def process(
        self, run: PreparedRun, work: Iterable[Work], hashes: ImageHashes, on_tiles: OnTiles
    ) -> Generator[Result, None, None]:
        """See :class:`capecam.run.executors.Executor`; work of a lost worker is done again."""
        values = _absolute_city(run.city), run.constants, hashes
        shared = [self._ray.put(value) for value in values]

        def load_city(actor: Any) -> tuple[Any, tuple[Any, Work | None]]:
            """Return the request, and its actor, which has no work yet."""
            return actor.load_city.remote(*shared), (actor, None)

        self._actors = self._actors or [self._start() for _ in range(self.count)]
        pending = dict(map(load_city, self._actors))
        try:
            yield from self._results(pending, WorkQueue(work), load_city, on_tiles)
        except BaseException:  # also that the caller has closed it
            for actor in self._actors:
                self._ray.kill(actor)
            self._actors = []
            if pending:
                self._ray.wait(list(pending), num_returns=len(pending), timeout=KILL_TIMEOUT_S)
            raise

    def _results(
        self,
        pending: dict[Any, tuple[Any, Work | None]],
        todo: WorkQueue,
        load_city: Callable[[Any], tuple[Any, tuple[Any, Work | None]]],
        on_tiles: OnTiles,
    ) -> Generator[Result, None, None]:
        """Yield results as they come, and give the next work to whose they are.

        Args:
            pending: actor and work by request, kept up to date.
            todo: work.
            load_city: gets an actor ready.
            on_tiles: is told the number of tiles of each result.
        """
        losses, idle = Counter[str](), list[Any]()
        while pending:
            (ended, *_), _ = self._ray.wait(list(pending), num_returns=1)
            actor, lost = pending.pop(ended)
            result: Result | StoppedError | None = None
            try:
                result = self._ray.get(ended)
                idle.append(actor)
            except self._ray.exceptions.RayActorError as error:
                log.warning("a Ray worker is gone: %s", str(error).splitlines()[0])
                replacement = self._actors[self._actors.index(actor)] = self._start()
                pending.update([load_city(replacement)])
                result = None if lost is None else _retry(lost, losses, todo)
            if isinstance(result, StoppedError):
                raise result
            if result is not None:
                on_tiles(result.tiles)
                yield result
            while idle and (following := todo.take()) is not None:
                actor = idle.pop()
                pending[actor.process.remote(following)] = actor, following
            if idle and all(in_flight is None for _, in_flight in pending.values()):
                return  # only replacements are still starting, and no work is left for them

    def __exit__(self, *_: object) -> None:
        """Stop the workers, and a cluster that was started for this run."""
        self._ray.shutdown()


def _connect(address: str) -> Any:
    """Import Ray, an optional dependency, and connect to a cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # capecam sends no data anywhere
    require_extra("ray", ["ray"], "--cluster needs")
    ray: Any = import_module("ray")
    options = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == LOCAL:
            ray.init(address="local", include_dashboard=False, **options)
        else:
            _check_listening(address)
            ray.init(address=address, **options)
    except (OSError, ValueError) as error:
        message = " ".join(str(error).split())
        raise UsageError(
            f"--cluster {address}: no Ray cluster answers ({message})"
            "; start one with ray start --head, or use local-ray"
        ) from error
    return ray


def _check_listening(address: str) -> None:
    """Check that a port is open: Ray itself would try for minutes.

    Raises:
        OSError: it is not.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()


def _retry(work: Work, losses: Counter[str], todo: WorkQueue) -> Result | None:
    """Queue the work of a lost worker again, or fail it if it has taken too many along."""
    losses[work.name] += 1
    if losses[work.name] == ATTEMPTS:
        return failed(work, f"{WORKER_ENDED}, {ATTEMPTS} times")
    todo.put_back(work)
    return None


def _shares(
    settings: Settings, resources: Mapping[str, float], nodes: int
) -> tuple[dict[str, float], int]:
    """Return what a worker takes of the cluster, and the number of workers."""
    compute = settings.compute
    gpus = 0.0 if compute.device == "cpu" else resources.get("GPU", 0.0)
    if gpus:
        most = int(gpus / compute.gpus_per_worker)
        count = min(compute.workers or most, most)
        return {"num_gpus": compute.gpus_per_worker, "num_cpus": 1}, count
    cpus = int(resources.get("CPU", 1))
    count = min(compute.workers or nodes, cpus)
    return {"num_cpus": max(1, cpus // count)}, count


def _absolute_settings(settings: Settings) -> Settings:
    """Make paths absolute: workers on other nodes start in other folders."""
    paths = {name: getattr(settings, name) for name in ("out", "checkpoint")}
    return settings.model_copy(
        update={name: path.absolute() for name, path in paths.items() if path is not None}
    )


def _absolute_city(city: City) -> City:
    sources = tuple(
        replace(s, header=replace(s.header, path=s.header.path.absolute()))
        for s in city.mosaic.sources
    )
    return replace(city, mosaic=replace(city.mosaic, sources=sources))
