"""The order of packages, and who may use rasterio, torch and autograd (docs/architecture.md).

Everything is read from the syntax tree, with names followed through imports and their aliases.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import capecam

PACKAGE = Path(capecam.__file__).parent

ORDER = """
    errors < runtime tile_size < grid < settings < io model < imagery attribution demo < mosaic
    < store < detections < pipeline < views < run < analysis < viewer < api cli_options < commands
    < cli < __main__
"""
"""A package imports only from those left of the last < before it, and from itself."""

INSIDE = """
    imagery.validation < imagery; views.styles < views.qgis; views.panels < views.report;
"""
"""The same between sub-packages."""

RASTERIO = {"io", "imagery", "mosaic", "detections"}
OPENS_RASTERS = {"io.gdal", "io.cog", "io.overview", "imagery.opening"}
NO_TORCH = {
    *("errors", "runtime", "grid", "settings", "io", "imagery", "mosaic", "store", "detections"),
    *("views.styles", "views.qgis", "views.report"),
}
TORCH = {"torch", "segmentation_models_pytorch", "safetensors", "timm"}
CALLS_AUTOGRAD = {"attribution.engine"}
MEASURES_OTHERS = "analysis.benchmark"
"""The notebook's and the other libraries' ways are measured there, not used."""


def module_name(path: Path) -> str:
    """Dotted name within capecam; "" for capecam itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name: path for path in PACKAGE.rglob("*.py") if (name := module_name(path))}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def imported(syntax: ast.AST) -> Iterator[tuple[str, str]]:
    """(name in the file, full name) of everything that is imported, inside functions, too."""
    for node in ast.walk(syntax):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name.split(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (root, alias.name)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def used(syntax: ast.AST) -> Iterator[str]:
    """Full names of everything that is imported, or reached from it by attributes."""
    names = dict[str, str]()
    for name, full in imported(syntax):
        yield full
        names[name] = full.split(".")[0] if full.startswith(f"{name}.") else full
    for node in ast.walk(syntax):
        if isinstance(node, ast.Attribute):
            root, _, rest = ast.unparse(node).partition(".")
            if root in names and all(part.isidentifier() for part in rest.split(".")):
                yield f"{names[root]}.{rest}"


def ours(full: str) -> str | None:
    """The module of capecam in which an imported name lies."""
    name = full.removeprefix("capecam.")
    while full.startswith("capecam.") and name:
        if name in MODULES:
            return name
        name = name.rpartition(".")[0]
    return None


@cache
def needs(module: str) -> frozenset[str]:
    """Modules of capecam that a module imports."""
    return frozenset(found for _, full in imported(tree(module)) if (found := ours(full)))


def levels(order: str) -> dict[str, int]:
    return {name: n for n, names in enumerate(order.split("<")) for name in names.split()}


def is_in(module: str, places: set[str]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def test_imports_point_down() -> None:
    level = levels(ORDER)
    for module in MODULES:
        package = module.split(".", maxsplit=1)[0]
        for other in needs(module):
            if (theirs := other.split(".")[0]) != package:
                assert level[theirs] < level[package], f"{module} imports {other}"


def test_every_package_has_its_place_in_the_order() -> None:
    assert {module.split(".")[0] for module in MODULES} == set(levels(ORDER))


@pytest.mark.parametrize("rule", [rule for rule in INSIDE.split(";") if rule.strip()])
def test_sub_packages_point_down(rule: str) -> None:
    level = levels(rule)

    def place(module: str) -> str | None:
        return next((p for p in sorted(level, key=len, reverse=True) if is_in(module, {p})), None)

    for module in MODULES:
        for other in needs(module):
            here, there = place(module), place(other)
            if here and there and here != there:
                assert level[there] < level[here], f"{module} imports {other}"


def test_no_module_needs_itself() -> None:
    """Neither directly nor through others; CycleError names the way round."""
    order = list(TopologicalSorter({m: needs(m) - {m} for m in MODULES}).static_order())
    assert set(order) == set(MODULES)
    assert order.index("grid") < order.index("pipeline.cell")  # it does see imports


@pytest.mark.parametrize("depth", [1, 2])
def test_no_package_needs_itself(depth: int) -> None:
    def package(module: str) -> str:
        parts = module.split(".")
        return ".".join(parts[:depth]) if len(parts) > depth else ".".join(parts[:-1] or parts)

    graph: dict[str, set[str]] = {}
    for module in MODULES:
        here = graph.setdefault(package(module), set())
        here |= {package(other) for other in needs(module)} - {package(module)}
    TopologicalSorter(graph).prepare()


def test_private_names_stay_in_their_module() -> None:
    def is_private(name: str) -> bool:
        return name.startswith("_") and not name.startswith("__")

    for module in MODULES:
        for full in used(tree(module)):
            if full.startswith("capecam."):
                assert not any(map(is_private, full.split("."))), f"{module} uses {full}"


def test_rasterio_and_torch_meet_only_where_they_should() -> None:
    for module in MODULES:
        roots = {full.split(".")[0] for full in used(tree(module))}
        assert "rasterio" not in roots or is_in(module, RASTERIO), module
        assert not roots & TORCH or not is_in(module, NO_TORCH), module


def test_few_modules_open_rasters_and_one_calls_autograd() -> None:
    for module in MODULES:
        names = set(used(tree(module)))
        assert "rasterio.open" not in names or is_in(module, OPENS_RASTERS), module
        if names & {"torch.autograd.grad", "torch.autograd.backward"}:
            assert is_in(module, CALLS_AUTOGRAD), module
        calls = [node.func for node in ast.walk(tree(module)) if isinstance(node, ast.Call)]
        if any(isinstance(call, ast.Attribute) and call.attr == "backward" for call in calls):
            assert is_in(module, {MEASURES_OTHERS}), module


@pytest.mark.parametrize(
    "code",
    [
        "import rasterio; rasterio.open(1)",
        "import rasterio as rio; rio.open(1)",
        "from rasterio import open as see; see(1)",
        "def f():\n    import rasterio.io\n    return rasterio.open",
    ],
)
def test_an_alias_hides_nothing(code: str) -> None:
    assert "rasterio.open" in set(used(ast.parse(code)))
