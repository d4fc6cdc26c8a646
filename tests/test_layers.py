"""A module imports only from layers below it (DESIGN section 7)."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import capecam

PACKAGE = Path(capecam.__file__).parent
LAYERS = [
    {"errors", "logs", "files", "file_names"},
    {"children"},
    {"grid", "draw", "columns", "vectorformats", "recordcheck"},
    {"attribution", "graph", "device"},
    {"settings", "ledger", "lock", "vectorfiles", "yamlfile"},
    {"styles", "configfile", "weights", "network"},
    {"raster", "interest", "board"}, {"heat_layer"},
    {"finding", "checksums"},
    {"sources", "model", "changes"},
    {"batch", "backward", "recorded", "unusual"},
    {"maps", "detected", "precision", "upsampling", "accuracy", "clock", "behind"},
    {"engine"},
    {"fit", "checkpoint"},
    {"stitch"},
    {"calibration", "vectors", "matching"}, {"tracing"},
    {"surroundings", "outlines", "tables", "recall", "measuring"},
    {"witness"},
    {"evidence", "sieve"},
    {"outputs"},
    {"cell"},
    {"detections"},
    {"report", "qgis"},
    {"city", "prepare"},
    {"maker"},
    {"reopen", "workerprocess"},
    {"workers", "record", "audit", "panels"},
    {"cluster"},
    {"run"},
    {"years"},
    {"zones"},
    {"inspection", "plan", "progress", "api", "verify", "export", "annotations", "score"},
    {"summary", "evaluation", "illustrate"},
    {"scenes"}, {"demo"},
    {"benchmarks", "options"},
    {"cli"},
    {"__main__"},
]  # fmt: skip
RASTER = {"rasterio"}
TORCH = {"torch", "segmentation_models_pytorch", "safetensors", "timm"}


def imports(path: Path) -> set[str]:
    """Full names of everything that a file imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def files() -> list[tuple[str, Path]]:
    """(module, file), a package's files under the package's name."""
    found = [
        (p.relative_to(PACKAGE).parts[0].removesuffix(".py"), p) for p in PACKAGE.rglob("*.py")
    ]
    return [(module, path) for module, path in found if module != "__init__"]


def test_imports_point_down() -> None:
    level = {module: n for n, layer in enumerate(LAYERS) for module in layer}
    assert {module for module, _ in files()} <= set(level), "a module without a layer"
    for module, path in files():
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "capecam" and parts[1] in level and parts[1] != module:
                assert level[parts[1]] < level[module], f"{module} imports {parts[1]}"


def name_of(path: Path) -> str:
    """Of the module in a file, as it is imported."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def module_of(name: str, modules: set[str]) -> str | None:
    """The module of ours in which an imported name is defined."""
    return (
        name if name in modules else module_of(name.rpartition(".")[0], modules) if name else None
    )


def test_no_module_needs_itself() -> None:
    """Not by way of others either, inside a package or across: each can be read after the last."""
    modules = {name_of(path): path for path in PACKAGE.rglob("*.py")}
    needs = {
        module: {module_of(name, set(modules)) for name in imports(path)} - {None}
        for module, path in modules.items()
    }
    order = list(TopologicalSorter(needs).static_order())  # CycleError names the way round
    assert set(order) == set(modules)
    assert order.index("capecam.grid") < order.index("capecam.cell")  # it does see imports


def test_what_is_private_stays_in_its_module() -> None:
    def is_private(name: str) -> bool:
        return name.startswith("_") and not name.startswith("__")

    for _, path in files():
        tree = ast.parse(path.read_text())
        ours = {n.split(".")[-1] for n in imports(path) if n.startswith("capecam.")}
        assert not {name for name in ours if is_private(name)}, path
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert not (node.value.id in ours and is_private(node.attr)), ast.unparse(node)


def test_the_two_worlds_meet_only_where_they_should() -> None:
    for module, path in files():
        roots = {name.split(".")[0] for name in imports(path)}
        if roots & RASTER:
            assert module in {"raster", "vectors", "tracing"}, f"{module} knows rasters"
        if module in {"errors", "grid", "settings", "raster", "sources", "vectors"}:
            assert not roots & TORCH, f"{module} knows torch"


def test_one_module_opens_rasters_and_one_calls_autograd() -> None:
    for module, path in files():
        text = path.read_text()
        assert "rasterio.open(" not in text or module == "raster"
        assert "autograd.grad(" not in text or module == "engine"
        # The other libraries' and the notebook's ways are measured, not used.
        assert ".backward(" not in text or module == "benchmarks"
