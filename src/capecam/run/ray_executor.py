"""Cells on a Ray cluster: one engine a GPU, or a share of one, or of the CPUs.

The same cells, made the same way, as in local worker processes; Ray starts the processes, on every
node that it has, and says when one is gone. Images, checkpoint and output have to be on a
filesystem that all nodes share, under the same paths.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any, Self

from capecam.errors import CapecamError, DeviceError, StoppedError, UsageError, WorkerError
from capecam.grid import Cell
from capecam.io.gdal import gdal_settings
from capecam.mosaic.city import City
from capecam.pipeline.cell_runner import CellResult, CellRunner
from capecam.pipeline.preparation import RunConstants
from capecam.run.executors import CellQueue
from capecam.settings import Settings
from capecam.store.records import RunRecord
from capecam.store.staleness import ImageHashes

log = logging.getLogger(__name__)

LOCAL = "local-ray"
"""Instead of an address: a cluster of this machine alone, started and ended with the run."""

KNOCK_S = 10.0

ATTEMPTS = 3
"""A cell that takes its worker along that often has failed."""


class Actor:
    """What Ray runs on a node."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._runner: CellRunner | None = None

    def prepare(self, city: City, previous: RunRecord | None) -> RunConstants | CapecamError:
        """See :class:`capecam.run.executors.Executor`."""
        try:
            with gdal_settings():
                return self._ready().prepare(city, previous)
        except CapecamError as error:  # as a value: Ray would dress it up
            return error

    def load_city(self, city: City, prepared: RunConstants, known: ImageHashes) -> None:
        """Get ready."""
        self._ready().load_city(city, prepared, known)

    def make(self, cell: Cell) -> CellResult | StoppedError:
        """Make a cell."""
        with gdal_settings():
            try:
                return self._ready().attempt(cell, lambda _: None)
            except DeviceError:
                os._exit(1)
            except StoppedError as error:  # as a value: Ray would dress it up
                return error

    def _ready(self) -> CellRunner:
        self._runner = self._runner or CellRunner(self._settings)
        return self._runner


class RayExecutor:
    """A workshop on a Ray cluster. A worker or node that dies costs only its cells in flight.

    Args:
        settings: of the run.
        address: of the cluster, or ``LOCAL``.

    Raises:
        UsageError: Ray is not installed, or there is no such cluster.
    """

    def __init__(self, settings: Settings, address: str) -> None:
        ray = self._ray = _connected(address)
        self._settings = _absolute_settings(settings)
        self._share, self.count = _shares(settings, ray.cluster_resources(), len(ray.nodes()))
        self._actors = [self._start() for _ in range(self.count)]
        self._city: Any = None
        self._prepared: Any = None

    def _start(self) -> Any:
        return self._ray.remote(**self._share)(Actor).remote(self._settings)

    def prepare(self, city: City, previous: RunRecord | None) -> RunConstants:
        """See :class:`capecam.run.executors.Executor`."""
        city = _absolute_city(city)
        try:
            prepared = self._ray.get(self._actors[0].prepare.remote(city, previous))
        except self._ray.exceptions.RayError as error:
            raise WorkerError(
                f"a Ray worker ended before its first cell: {error}"
                "; look into Ray's log on its node"
            ) from error
        if isinstance(prepared, CapecamError):
            raise prepared
        self._city, self._prepared = self._ray.put(city), self._ray.put(prepared)
        found: RunConstants = prepared
        return found

    def make(
        self, cells: Iterable[Cell], known: ImageHashes, tick: Callable[[int], object]
    ) -> Generator[CellResult, None, None]:
        """See :class:`capecam.run.executors.Executor`; cells of a lost worker run again."""
        contents = self._ray.put(known)
        todo, losses = CellQueue(cells), Counter[str]()
        pending = dict(self._load_city(actor, contents) for actor in self._actors)
        idle: list[Any] = []
        while pending:
            (ended, *_), _ = self._ray.wait(list(pending), num_returns=1)
            actor, cell = pending.pop(ended)
            made: CellResult | StoppedError | None = None
            try:
                made = self._ray.get(ended)
                idle.append(actor)
            except self._ray.exceptions.RayActorError as error:
                log.warning("a Ray worker is gone: %s", str(error).splitlines()[0])
                pending.update([self._load_city(self._start(), contents)])
                made = None if cell is None else _lost(cell, losses, todo)
            if isinstance(made, StoppedError):
                raise made
            if made is not None:
                tick(made.report.tiles if made.report else 0)
                yield made
            while idle and (cell := todo.take()) is not None:
                worker = idle.pop()
                pending[worker.make.remote(cell)] = worker, cell
            if idle and all(in_hand is None for _, in_hand in pending.values()):
                return  # only replacements are still on their way, and nothing is left for them

    def _load_city(self, actor: Any, contents: Any) -> tuple[Any, tuple[Any, Cell | None]]:
        """What is pending when a worker gets ready: it has no cell in hand."""
        return actor.load_city.remote(self._city, self._prepared, contents), (actor, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the workers, and a cluster that was started for this run."""
        self._ray.shutdown()


def _connected(address: str) -> Any:
    """Ray, which only this workshop needs: it is an extra."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing here calls home
    try:
        ray: Any = import_module("ray")
    except ImportError:
        raise UsageError("--cluster needs Ray; install it with: pip install capecam[ray]") from None
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == LOCAL:
            ray.init(address="local", include_dashboard=False, **options)
        else:
            _knock(address)
            ray.init(address=address, **options)
    except (OSError, ValueError) as error:
        message = " ".join(str(error).split())
        raise UsageError(
            f"--cluster {address}: no Ray cluster answers ({message})"
            "; start one with ray start --head, or use local-ray"
        ) from error
    return ray


def _lost(cell: Cell, losses: Counter[str], pending: CellQueue) -> CellResult | None:
    """A cell whose worker is lost is made again, unless it has taken too many along."""
    losses[cell.name] += 1
    if losses[cell.name] == ATTEMPTS:
        return CellResult(cell, None, f"{ATTEMPTS} workers ended at it")
    pending.put_back(cell)
    return None


def _knock(address: str) -> None:
    """Ray itself tries for minutes where nobody is at home.

    Raises:
        OSError: nothing listens there.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()


def _shares(
    settings: Settings, resources: Mapping[str, float], nodes: int
) -> tuple[dict[str, float], int]:
    """What a worker takes of the cluster, and how many there are."""
    compute = settings.compute
    gpus = 0.0 if compute.device == "cpu" else resources.get("GPU", 0.0)
    if gpus:
        most = int(gpus / compute.gpus_per_worker)
        return {"num_gpus": compute.gpus_per_worker, "num_cpus": 1}, min(
            compute.workers or most, most
        )
    cpus = int(resources.get("CPU", 1))
    count = min(compute.workers or nodes, cpus)
    return {"num_cpus": max(1, cpus // count)}, count


def _absolute_settings(settings: Settings) -> Settings:
    """Workers on other nodes start in other folders."""
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
