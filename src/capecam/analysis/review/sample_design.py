"""How a sample was drawn, as it is kept in the review file: enough to draw it again.

The design keeps all blocks of the frame, by stratum: what was not drawn matters as much for an
estimate as what was. Maps may be made again afterwards; the sample stays as valid as it was.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capecam.analysis.review.blocks import BlockGrid, BlockList
from capecam.analysis.review.design import Strata, draw, random_ranks
from capecam.errors import UsageError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

COLUMNS = (
    "draw", "phase", "stratum", "zone", "blocks", "looks", "spread", "step_x", "step_y", "seed",
    "detections", "members",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class SampleDesign:
    """A frame of N blocks in H strata, and the looks in each."""

    blocks: BlockList
    strata: Strata
    zones: tuple[str, ...]
    """(H,) name of the zone of each stratum."""
    spread: Floats
    """(H,) sum over a stratum of what the map was expected to have wrong."""
    seed: int
    detections: str
    """Digest of the detections when the sample was drawn; those of a later run may differ."""
    phase: int = 1
    """How often looks were added, plus 1."""

    @property
    def stratum_names(self) -> list[str]:
        """Return (H,) the names of strata: their numbers, from 1."""
        return [str(number + 1) for number in range(len(self.zones))]

    @property
    def digest(self) -> str:
        """Return the digest by which rows of the sample belong to this design.

        More looks do not change it: they are the next ones of the same draw.
        """
        facts = [*self.blocks.grid.step, self.seed, self.detections, *self.members()]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def members(self) -> list[str]:
        """Return (H,) the blocks of each stratum as text."""
        keys = self.blocks.keys
        return [_packed(keys[self.strata.stratum == number]) for number in range(len(self.zones))]

    def drawn(self) -> Integers:
        """Return (n,) the indices of the blocks that were drawn."""
        places = self.blocks.places
        return draw(self.strata, random_ranks(places[:, 0], places[:, 1], self.seed))

    def to_table(self) -> pd.DataFrame:
        """Return the rows of the layer ``sample_design``."""
        digest, names, members = self.digest, self.stratum_names, self.members()
        count = len(names)
        step_x, step_y = self.blocks.grid.step
        return pd.DataFrame({
            "draw": [digest] * count, "phase": self.phase, "stratum": names, "zone": self.zones,
            "blocks": self.strata.sizes, "looks": self.strata.looks, "spread": self.spread,
            "step_x": step_x, "step_y": step_y, "seed": self.seed,
            "detections": [self.detections] * count, "members": members,
        })  # fmt: skip

    @classmethod
    def of_table(cls, table: pd.DataFrame, path: Path) -> SampleDesign:
        """Read the layer ``sample_design``.

        Args:
            table: its rows; those of the last phase count.
            path: the review file, for messages.

        Raises:
            UsageError: there is no design, or it was changed.
        """
        if table.empty:
            raise UsageError(f"{path}: holds no sample; draw one with capecam sample OUT")
        if missing := [name for name in COLUMNS if name not in table]:
            raise UsageError(
                f"{path}: the layer sample_design has no column {', '.join(missing)}"
                "; draw the sample again into another file"
            )
        try:
            last = table[table["phase"].astype(int) == table["phase"].astype(int).max()]
            design = cls._of_rows(last)
        except (ValueError, TypeError, KeyError, zlib.error) as error:
            raise _changed(path) from error
        if set(table["draw"]) != {design.digest}:
            raise _changed(path)
        return design

    @classmethod
    def _of_rows(cls, rows: pd.DataFrame) -> SampleDesign:
        rows = rows.assign(number=rows["stratum"].astype(int)).sort_values("number")
        members = [_unpacked(text) for text in rows["members"]]
        keys = np.concatenate(members)
        order = np.argsort(keys)
        stratum = np.repeat(np.arange(len(rows)), [len(own) for own in members])[order]
        row = (keys[order] + (1 << 31)) >> 32
        places = np.stack([keys[order] - (row << 32), row], axis=1)
        first = rows.iloc[0]
        grid = BlockGrid((float(first["step_x"]), float(first["step_y"])))
        zones = tuple("" if pd.isna(name) else str(name) for name in rows["zone"])
        _, zone = np.unique(zones, return_inverse=True)
        looks = rows["looks"].to_numpy(np.int64)
        strata = Strata(stratum, np.asarray(zone, np.int64), looks)
        return cls(
            BlockList(grid, places), strata, zones, rows["spread"].to_numpy(np.float64),
            int(first["seed"]), str(first["detections"]), int(first["phase"]),
        )  # fmt: skip


def map_digest(detections: pd.DataFrame) -> str:
    """Return a digest of the ids and areas of detections, whatever else is known of them."""
    rows = zip(detections["id"], detections["area_m2"], strict=True)
    text = "\n".join(sorted(f"{name} {area:.3f}" for name, area in rows))
    return hashlib.sha256(text.encode()).hexdigest()


def _changed(path: Path) -> UsageError:
    return UsageError(
        f"{path}: the layer sample_design was changed, so that nobody can tell what the sample "
        "stands for; bring back the file as capecam sample has made it"
    )


def _packed(keys: Integers) -> str:
    """Return ascending numbers as text."""
    steps = np.diff(keys, prepend=0).astype("<i8").tobytes()
    return base64.b64encode(zlib.compress(steps, 9)).decode()


def _unpacked(text: Any) -> Integers:
    steps = np.frombuffer(zlib.decompress(base64.b64decode(str(text))), "<i8")
    return np.cumsum(steps).astype(np.int64)
