"""Documents that must say what the code does."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import typer
import yaml

from capecam import cli
from capecam.attribution import methods
from capecam.demo.writing import write_demo
from capecam.detections import export
from capecam.errors import CapecamError
from capecam.settings import METHODS, leaves
from capecam.settings.loading import load
from capecam.views.panels.panel_data import PanelStyle
from capecam.views.panels.selection import PanelSelection

ROOT = Path(__file__).parents[1]


@cache
def trees() -> dict[Path, ast.Module]:
    """Syntax trees of the code, by path."""
    return {path: ast.parse(path.read_text()) for path in (ROOT / "src").rglob("*.py")}


def script(name: str) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def test_the_configuration_page_is_up_to_date() -> None:
    made = script("configuration_docs").page()
    assert (ROOT / "docs/configuration.md").read_text() == made, "run scripts/configuration_docs.py"


def test_the_table_of_columns_is_up_to_date() -> None:
    text = (ROOT / "docs/outputs.md").read_text()
    assert "<!-- columns -->" in text
    assert text == script("columns_docs").fill(text), "run scripts/columns_docs.py"


@pytest.mark.parametrize("page", ["docs/performance.md", "docs/method.md", "docs/review.md"])
def test_tables_of_results_are_up_to_date(page: str) -> None:
    text = (ROOT / page).read_text()
    assert "<!-- results " in text
    assert text == script("performance_docs").fill(text), "run scripts/performance_docs.py"


def texts(node: ast.AST) -> Iterator[str]:
    """String literals below a node; values in an f-string are one ``{}`` each."""
    for child in ast.walk(node):
        if isinstance(child, ast.JoinedStr):
            yield "".join(v.value if isinstance(v, ast.Constant) else "{}" for v in child.values)
        elif isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.value


def test_messages_on_the_errors_page_are_those_of_the_code() -> None:
    said = "\n".join(text for tree in trees().values() for text in texts(tree))
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", (ROOT / "docs/errors.md").read_text(), re.M)
    messages = [row for row in rows if not re.fullmatch(r"message|exit code|-+|\d+", row.strip())]
    assert len(messages) > 20
    for message in messages:
        for part in re.split(r"\*[^*]+\*", message):
            assert part.strip(" :()") in said, message


def errors_below(kind: type[Exception]) -> Iterator[str]:
    for sub in kind.__subclasses__():
        yield sub.__name__
        yield from errors_below(sub)


def test_every_message_says_what_to_do() -> None:
    """After a semicolon, or because the rule that is broken, or a computed end, is the remedy."""
    says_it = re.compile(r"; |must be|at least|\{\}$|first$|read: $|or name a folder")
    kinds = {CapecamError.__name__, *errors_below(CapecamError)}
    messages = [
        text
        for path, tree in trees().items()
        if not path.name.startswith("checkpoint")  # read_weights adds what to do
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in kinds
        for text in list(texts(node))[:1]
        if " " in text.strip("{}: ")
    ]
    assert len(messages) > 150
    assert [text for text in messages if not says_it.search(text)] == []


def test_method_names_are_the_formulas() -> None:
    assert (*methods.CAMS, methods.GUIDED, methods.SHARED) == METHODS


@pytest.mark.parametrize("name", ["capetown", "demo"])
def test_shipped_configurations_are_valid(name: str) -> None:
    settings = load(ROOT / "configs" / f"{name}.yaml")
    assert [c.name for c in settings.model.classes][1:] == [
        "solar panel", "water heater", "pool heater",
    ]  # fmt: skip


@pytest.mark.thorough
def test_the_example_in_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """As it stands, on a sample city small enough for a test."""
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/api.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    write_demo(Path("demo"), seed=3, size=190)
    path = Path("demo/demo.yaml")
    tree = yaml.safe_load(path.read_text())
    tree["explain"]["calibration_tiles"] = 2
    tree["tiling"] = {"overlap": 0}
    tree["objects"] = {"explain": 2}
    tree["run"] = {"in_process": True}
    path.write_text(yaml.safe_dump(tree))
    exec(compile(example, "api.md", "exec"), {})
    assert "torch.Size([2, 4, 320, 320]) torch.Size([2, 3, 10, 10])" in capsys.readouterr().out


PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def code_of(page: Path) -> list[str]:
    """Lines of code blocks, fenced or indented, and spans of code in lines of text."""
    text = re.sub(r"\\\n\s*", " ", page.read_text())
    fenced = re.findall(r"^```(?:bash|sh)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    indented = re.findall(r"^    (\S.*)$", rest, re.MULTILINE)
    spans = re.findall(r"(?<!`)`([^`]+)`(?!`)", rest)
    return [line for block in fenced for line in block.splitlines()] + indented + spans


COMMANDS = ("capecam", ".venv/bin/capecam", "capecam:latest")
"""The command as it is typed; the last one is an image for containers."""


def calls_of(code: str) -> list[list[str]]:
    """Arguments of each ``capecam`` in a line of a shell; empty where it is only the name."""
    if "capecam" not in code:
        return []
    try:
        words = shlex.split(" ".join(code.split()), comments=True)
    except ValueError:  # an apostrophe: prose
        return []
    inner = [call for word in words if " " in word for call in calls_of(word)]
    starts = [i for i, word in enumerate(words) if word in COMMANDS]
    calls = [[w for w in words[i + 1 :] if w != "..."] for i in starts[:1]]
    return [call for call in calls if call] + inner


def every_call() -> list[tuple[str, list[str]]]:
    found = [
        (page.name, call) for page in PAGES for code in code_of(page) for call in calls_of(code)
    ]
    assert len(found) > 60
    return found


def filled(word: str) -> str:
    """A word of a call, with something for what the reader is to put there."""
    word = re.sub(r"\$\{?\w+\}?", "1", word)
    word = {"ID": "1_2_3", "N": "2", "I/N": "1/2", "M2": "1", "PX": "2"}.get(word, word)
    word = {"LON,LAT": "1,2"}.get(word, word)
    word = {"LOW,HIGH": "0,1", "R,G,B": "1,2,3", "X0,Y0,X1,Y1": "0,0,1,1"}.get(word, word)
    return word.split("|")[0] if re.fullmatch(r"[a-z:\[\]]+(\|[a-z:\[\]]+)+", word) else word


REFUSED = (CapecamError, KeyError, AssertionError, *typer.BadParameter.__mro__[:3])
"""What a call that is none ends in; typer brings a copy of click, or takes the installed one."""


def check_call(call: list[str]) -> None:
    """Raises where a call names what there is not, or gives a value that cannot be."""
    name, *words = call
    words = [filled(word) for word in words]
    group = typer.main.get_command(cli.app)
    if name in {"--help", *(flag for p in group.params for flag in p.opts)}:
        return
    command = group.commands[name]
    if not words or words[-1] in {flag for p in command.params for flag in p.opts}:
        return  # the command or its option is only named; that it exists is known by now
    given = command.make_context(name, list(words)).params
    if name in ("run", "plan"):
        keys = {s.key: given[s.key.replace(".", "_")] for s in leaves() if s.option}
        if keys["explain.methods"]:
            keys["explain.methods"] = keys["explain.methods"].split(",")
        load(None, keys)
    elif name == "panel":
        PanelSelection.parse(given["detection"] or [], given["at"] or [], given["top"])
        PanelStyle(given["ramp"], given["all_classes"])
    elif name == "export":
        assert given["labels"] or given["kind"] in export.FORMATS


def test_every_command_line_of_the_documents_is_one() -> None:
    """Parsed by the command's own parser, and not run. Many are run elsewhere, too: the demo by
    ``make demo`` and its tests, docs/api.md above, nights by ``tests/test_cli.py``."""
    wrong = []
    for page, call in every_call():
        try:
            check_call(call)
        except REFUSED as error:
            wrong.append(f"{page}: capecam {' '.join(call)}: {error!r}")
    assert wrong == []


@pytest.mark.parametrize(
    "call", ["rum x", "run --hurry x", "run --align bend x", "panel out --top many",
             "finish out now", "export out --format shp", "run --methods gradcan x",
             "panel out --ramp grey --top 1"],
)  # fmt: skip
def test_a_command_line_that_is_none_is_noticed(call: str) -> None:
    with pytest.raises(REFUSED):
        check_call(call.split())


def test_options_come_from_the_settings() -> None:
    """The command line, YAML and docs/configuration.md say the same: all are made of the tree."""
    wanted = {setting.option.flag for setting in leaves() if setting.option}
    extra = {"run": {"--progress"}, "plan": {"--progress", "--json", "--measure"}}
    commands = typer.main.get_command(cli.app).commands
    for name, own in extra.items():
        flags = {flag for p in commands[name].params for flag in p.opts if flag.startswith("--")}
        common = {"--config", "--help", "--verbose", "--quiet", "--version"}
        assert flags - common - own == wanted


OTHERS = [
    *("--head", "--index-url", "--bind", "--nv"),
    *("--build-arg", "--gpus", "--user", "--volume"),
]
"""Options of ray start, pip and Apptainer; of Docker."""


def test_options_that_are_only_named_exist() -> None:
    commands = typer.main.get_command(cli.app).commands.values()
    known = {flag for c in commands for p in c.params for flag in (*p.opts, *p.secondary_opts)}
    for script in (*ROOT.glob("scripts/*.py"), *ROOT.glob("benchmarks/*.py")):
        known.update(re.findall(r'"(--[a-z][\w-]*)"', script.read_text()))
    known |= {"--help", *OTHERS}
    for page in PAGES:
        named = {m for code in code_of(page) for m in re.findall(r"^(--[a-z][\w-]*)", code)}
        assert named - known == set(), page.name


def test_targets_of_make_exist() -> None:
    known = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = {m for code in code_of(page) for m in re.findall(r"^\s*make (\w+)", code)}
        assert named <= known, page.name


def test_files_that_are_named_exist() -> None:
    pattern = r"(?<![\w/.-])((?:scripts|benchmarks|configs|tests|src|docs)/[\w./*-]*\w[*/]?)"
    for page in PAGES:
        named = set(re.findall(pattern, page.read_text()))
        assert [name for name in sorted(named) if not [*ROOT.glob(name)]] == [], page.name


def heading(line: str) -> str:
    """The anchor of a heading, as Git hosts make it."""
    return re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert anchor in map(heading, headings), target


def test_the_readme_names_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{page.name})" in readme, page.name


ARCHITECTURE = ROOT / "docs/architecture.md"
SOURCES = ROOT / "src/capecam"
FILES = {"json", "parquet", "gpkg", "tif", "vrt", "qgz", "html", "csv", "md"}
"""Endings of files, which are named like something in a module: ``cell.json``."""


def packages() -> set[str]:
    """Packages of capecam, and the modules beside them."""
    modules = {path.stem for path in SOURCES.iterdir() if path.suffix == ".py"}
    folders = {path.parent.name for path in SOURCES.glob("*/__init__.py")}
    return (modules | folders) - {"__init__", "__main__"}


def exists(package: str, names: list[str]) -> bool:
    """Whether ``package.a.b`` exists: modules, then names in them, methods included."""
    module = importlib.import_module(f"capecam.{package}")
    while names and hasattr(module, "__path__"):
        if not importlib.util.find_spec(f"{module.__name__}.{names[0]}"):
            break
        module = importlib.import_module(f"{module.__name__}.{names.pop(0)}")
    found = module
    for name in names:
        if name not in getattr(found, "__annotations__", {}) and not hasattr(found, name):
            return False
        found = getattr(found, name, None)
    return True


def test_the_architecture_names_what_there_is() -> None:
    spans = re.findall(r"`([a-z_]+)((?:\.\w+)+)(?:\(\))?`", ARCHITECTURE.read_text())
    drawn = re.findall(r">([^<]+)</text>", ARCHITECTURE.with_suffix(".svg").read_text())
    for text in drawn:
        spans += re.findall(r"(?<![\w/])([a-z]+)((?:\.\w+)+)", text)
    named = [(first, rest[1:].split(".")) for first, rest in spans if rest[1:] not in FILES]
    assert len(named) > 40
    missing = [f"{first}.{'.'.join(rest)}" for first, rest in named if not exists(first, [*rest])]
    assert missing == []


def test_the_architecture_has_every_package() -> None:
    _, _, table = ARCHITECTURE.read_text().partition("## Packages")
    first = re.findall(r"^\| ([^|]+) \|", table.partition("\n## ")[0], re.MULTILINE)
    named = [name for cell in first for name in re.findall(r"`(\w+)`", cell)]
    assert len(named) == len(set(named))
    assert set(named) == packages(), "docs/architecture.md: the table of packages"


def test_every_dependency_has_its_reason_and_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    page = (ROOT / "docs/contributing.md").read_text()
    rows = dict(re.findall(r"^\| ([\w., -]+?) \| ([^|]+) \|", page, re.MULTILINE))
    told = {name: rows[key] for key in rows for name in key.split(", ")}
    for wanted in [*project["dependencies"], *(line for extra in extras for line in extra)]:
        name, bounds = re.fullmatch(r"([\w.-]+)(?:\[.*\])?([^;]*)(?:;.*)?", wanted).groups()
        if name != "capecam":
            assert told[name] == (bounds or "any"), name
