"""Engines of a run, and of an earlier one as it was: nothing is chosen again."""

from __future__ import annotations

import torch

from capecam.attribution.device import pick_device
from capecam.attribution.engine import Engine
from capecam.attribution.graph.graph_engine import GraphEngine
from capecam.attribution.graph.onnx_engine import OnnxEngine
from capecam.attribution.object_engine import ObjectEngine
from capecam.errors import CheckpointError, SettingsError
from capecam.model.model import Model, check_tile, load_model
from capecam.settings import ObjectSettings, Settings
from capecam.store.run_folder import RunFolder


def load_run_model(run: RunFolder, loaded: Model | None = None) -> Model:
    """Load the network of a run.

    Args:
        run: that used it.
        loaded: the network, if it is loaded already.

    Raises:
        CheckpointError: it is another, or was given in memory and is not here.
    """
    checkpoint, recorded = run.settings.checkpoint, run.record.checkpoint.sha256
    if loaded is not None:
        model = loaded
    elif checkpoint is not None:
        model = load_model(checkpoint, run.settings.model)
    else:
        raise CheckpointError(f"{run.out}: {run.why_no_checkpoint}")
    if model.sha256 != recorded:
        raise CheckpointError(
            f"{checkpoint or model.architecture}: is not the checkpoint of the run: its sha256 is "
            f"{model.sha256}, the run's is {recorded}; bring that one back, or run again"
        )
    return model


ENGINES: dict[str, type[Engine]] = {"autograd": Engine, "graph": GraphEngine, "onnx": OnnxEngine}
"""Engines by ``compute.engine``."""


def build_engine(settings: Settings, model: Model) -> Engine:
    """Build an engine of the settings; if its precision is to be chosen, at float32 for now.

    Raises:
        SettingsError: the network takes no tiles of this size, or has no such maps.
    """
    check_tile(model.network, settings.tiling.tiling)
    explain, compute = settings.explain, settings.compute
    engine = ENGINES[compute.engine](
        model,
        explain.methods,
        score=explain.score,
        where=explain.where,
        precision="fp32" if compute.precision == "auto" else compute.precision,
        device=pick_device(compute.device),
    )
    if compute.channels_last:
        if engine.device.type != "cpu" or compute.engine == "onnx":
            raise SettingsError(
                "compute.channels_last is for PyTorch on a CPU; leave it out, or give --device cpu "
                "and another --engine than onnx"
            )
        engine.use_channels_last()
    return engine


def build_run_engine(run: RunFolder, model: Model, device: str | None = None) -> Engine:
    """Build an engine that explains tiles as the run did, but all of them and all classes.

    Args:
        run: whose methods, score and precision to use.
        model: its network, or one that was derived from it.
        device: None: as in the run's settings. On one of another kind, precision is float32.
    """
    chosen = pick_device(device or run.settings.compute.device)
    explain, record = run.settings.explain, run.record
    engine = Engine(
        model,
        explain.methods,
        score=explain.score,
        precision=record.precision if chosen.type == record.device else "fp32",
        device=chosen,
    )
    if run.settings.compute.channels_last and chosen.type == "cpu":
        engine.use_channels_last()
    return engine


def build_object_engine(
    model: Model, settings: ObjectSettings, precision: str, device: torch.device
) -> ObjectEngine:
    """Build the engine of a run that explains objects."""
    return ObjectEngine(
        model,
        method=settings.method,
        stride=settings.stride,
        layer=settings.layer,
        precision=precision,
        device=device,
    )
