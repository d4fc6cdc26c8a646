"""The network of a run as a STAC item, with the machine learning model extension (MLM 1.4).

https://github.com/stac-extensions/mlm
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from capecam.settings import ClassSettings
from capecam.store.run_folder import RunFolder

MLM = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"

FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"

TASKS = ["semantic-segmentation"]

ARTIFACTS = {".safetensors": "safetensors.torch.save_file"}
"""Kinds of files by suffix; others are of ``torch.save``."""

BANDS = ["red", "green", "blue"]

BAND_OBJECTS = [{"name": name} for name in BANDS]
"""Bands as MLM wants them in the properties, and STAC then in an asset, too."""


def model_name(run: RunFolder) -> str:
    """Return the name of the network's file, in the letters that MLM allows."""
    file, checkpoint = run.settings.checkpoint, run.record.checkpoint
    name = file.stem if file else checkpoint.architecture
    allowed = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-._")
    return allowed if re.match(r"[A-Za-z]..", allowed) else f"model-{allowed}"


def model_properties(run: RunFolder) -> dict[str, Any]:
    """Return the properties of the item that describe the network."""
    record, size = run.record, run.settings.tiling.size
    checkpoint, model, classes = record.checkpoint, run.settings.model, run.settings.model.classes
    scaling = None
    if checkpoint.mean and checkpoint.std:
        unit = 255 / model.input_max
        scaling = [
            {"type": "z-score", "mean": round(mean * unit, 9), "stddev": round(std * unit, 9)}
            for mean, std in zip(checkpoint.mean, checkpoint.std, strict=True)
        ]
    endings = {0: "what its training used", 1: "a sigmoid"}
    ending = endings.get(checkpoint.channels, "softmax over the channels")
    properties: dict[str, Any] = {
        "mlm:name": model_name(run),
        "mlm:architecture": checkpoint.architecture,
        "mlm:tasks": TASKS,
        "mlm:framework": "PyTorch",
        "mlm:framework_version": _release(record.versions.get("torch", "")),
        "mlm:total_parameters": checkpoint.parameters or None,
        "mlm:batch_size_suggestion": record.batch_size,
        "mlm:accelerator": "cuda" if record.device == "cuda" else None,
        "mlm:accelerator_summary": f"as it was run: {record.device}, {record.precision}",
        "mlm:input": [
            {
                "name": "image",
                "description": "pixels of 0..255, one value_scaling a band; 0 where there is no "
                "imagery",
                "bands": BANDS,
                "input": {
                    "shape": [-1, len(BANDS), size, size],
                    "dim_order": ["batch", "bands", "height", "width"],
                    "data_type": "float32",
                },
                "value_scaling": scaling,
                "resize_type": None,
            }
        ],
        "mlm:output": [
            {
                "name": "logits",
                "description": f"{ending} gives probabilities",
                "tasks": TASKS,
                "result": {
                    "shape": [-1, checkpoint.channels or -1, size, size],
                    "dim_order": ["batch", "channel", "height", "width"],
                    "data_type": "float32",
                },
                "classification:classes": class_objects(classes),
            }
        ],
        "mlm:hyperparameters": {
            "tiling": run.settings.tiling.model_dump(
                mode="json", include={"size", "overlap", "stride"}
            ),
            "explanation": {
                "target_layer": checkpoint.target_layer,
                **run.settings.explain.model_dump(
                    mode="json", include={"methods", "score", "where"}
                ),
            },
            "explanation_of_objects": run.settings.objects.model_dump(
                mode="json", include={"method", "stride", "layer"}
            ),
        },
        "bands": BAND_OBJECTS,
    }
    return {key: value for key, value in properties.items() if value is not None}


def class_objects(classes: tuple[ClassSettings, ...]) -> list[dict[str, Any]]:
    """Return classes as the classification extension has them."""
    return [
        {
            "value": value,
            "name": re.sub(r"[^0-9A-Za-z-]+", "_", entry.name).strip("_") or f"class_{value}",
            "description": entry.name,
            "color_hint": entry.color[1:].upper(),
        }
        for value, entry in enumerate(classes)
    ]


def model_asset(checkpoint: Path, sha256: str, folder: Path) -> Mapping[str, Any]:
    """Return the file of the network as an asset.

    Args:
        checkpoint: the file, or the folder that it is saved in.
        sha256: of the file.
        folder: of the item, from which the path is.
    """
    href = Path(os.path.relpath(checkpoint.resolve(), folder.resolve())).as_posix()
    return {
        "href": quoted(href),
        "title": checkpoint.name,
        "type": "application/octet-stream; framework=pytorch",
        "roles": ["mlm:model", "mlm:weights"],
        "mlm:artifact_type": ARTIFACTS.get(checkpoint.suffix, "torch.save"),
        "file:checksum": multihash(sha256),
        "bands": BAND_OBJECTS,
    }


def quoted(path: str) -> str:
    """Return a path as a URI has it; names of files may have spaces."""
    return quote(path, safe="/!$&'()*+,;=:@~", errors="surrogateescape")


def multihash(sha256: str) -> str:
    """Return a checksum as the file extension has it: with a code for sha256 and its length."""
    return f"1220{sha256}"


def _release(version: str) -> str | None:
    """Return a version without what follows its three numbers; None if it has other ones."""
    match = re.match(r"\d+\.\d+\.\d+", version)
    return match and match[0]
