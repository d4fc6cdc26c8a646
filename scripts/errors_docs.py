"""Write docs/errors.md from the exceptions in the code. A test compares the two.

Every ``raise XError("what was found; what to do")`` is a row: placeholders become words, and what
follows the last semicolon is the cure. It is read from the source by ``ast``; nothing is run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "capecam"
PAGE = ROOT / "docs" / "errors.md"

HEAD = """# Messages

Every message that ends a command or fails an image, made from the code by `scripts/errors_docs.py`.
Search this page for the part of the message that has no name or number of yours in it: *words like
these* stand for those. On the terminal a message is one line behind `capecam:`; a failed image is
named first, and is in `run.json` and `cells.gpkg`, too. With `-v` the traceback is shown.

| exit code | what it says |
|---|---|
| 0 | done |
| 1 | the machine, or a mistake of capecam's; the same command goes on where it stopped |
| 2 | the call, the configuration, the checkpoint or all inputs cannot be used |
| 3 | done, but some images failed or a product is bad |
| 130 | interrupted; the same command goes on where it stopped |

"3, 2" is a message about one image: it fails alone, and the exit code is 3; it is 2 if no image is
left, or if the command was about that image only. Settings are in
[configuration.md](configuration.md), what may be read in [inputs.md](inputs.md), what happens at
night in [operations.md](operations.md).
"""

AREAS = {
    "call": ("The call and the configuration", ""),
    "checkpoint": ("The checkpoint", "Most begin with the path of the file."),
    "images": ("Images", "Each begins with the path of the image, or of a file beside it."),
    "vectors": (
        "Vector files",
        "Areas of interest, footprints, zones, truth. Most begin with the path of the file.",
    ),
    "output": ("The output folder", ""),
    "products": ("What is made of a run: panels, reports, scores, audits", ""),
    "machine": ("The run and the machine", ""),
}

BY_CLASS = {
    "ImageError": "images", "CheckpointError": "checkpoint", "OutputError": "output",
    "StoppedError": "machine", "NotFiniteError": "machine", "Made": "machine",
}  # fmt: skip
BY_ROOM = {
    "audit": "products", "panels": "products", "report": "products", "evaluation": "products",
    "export": "products", "years": "products", "reopen": "products", "verify": "products",
    "score": "products", "vectorfiles": "vectors", "vectorformats": "vectors", "zones": "vectors",
    "annotations": "vectors", "interest": "vectors", "summary": "vectors", "raster": "images",
    "finding": "images", "sources": "images", "checksums": "images", "cluster": "machine",
}  # fmt: skip
"""A room decides, then the class, and then it is about the call."""

INSIDE = {
    "StructureError": ("ImageError", "not a usable GeoTIFF: {}"),
    "YAMLError": ("SettingsError", "*path* is not valid YAML: {}; correct that line"),
}
"""Errors that others pass on: by which class, and in what words."""

WORDS = {
    "error": "reason", "strerror": "reason", "message": "reason", "said": "reason",
    "where": "", "prefix": "", "wanted": "what is wanted", "args": "kind",
    "st_size": "size", "guided": "method", "expected": "what is expected",
}  # fmt: skip
"""Names in the code that say little to a reader."""

PATHS = {
    "path", "file", "beside", "out", "target", "found", "run json", "source", "folder", "placed",
}  # fmt: skip
"""At the beginning of a message, they say no more than that there is one."""

SPEAKERS = {"configfile": "_in_words"}
"""Functions that put other libraries' errors into words."""

AGAIN = "--retry-failed tries again"
"""Of a cell whose worker ended."""

MOST_VARIANTS = 40
"""Of one message; beyond, only the first of a choice is followed."""

LITERAL, PLACEHOLDER = re.compile(r"[A-Za-z]{2}"), re.compile(r"\*[^*]*\*")
"""A message without a word of its own passes on another."""

DEEPEST = 8
"""Functions and names in each other."""


@dataclass(frozen=True, slots=True)
class Kind:
    """An exception class: its exit code, and what to do if the message does not say."""

    exit_code: int
    cure: str


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """A row of the page."""

    message: str
    cure: str
    code: str


@dataclass(slots=True)
class Module:
    """A file of the package, as far as messages need it."""

    name: str
    tree: ast.Module
    constants: Mapping[str, Any]
    scopes: list[ast.FunctionDef] = field(init=False)
    """All functions and methods, of which several may have one name."""

    def __post_init__(self) -> None:
        self.scopes = [n for n in ast.walk(self.tree) if isinstance(n, ast.FunctionDef)]

    @property
    def functions(self) -> dict[str, ast.FunctionDef]:
        """By name; of methods of one name, the last."""
        return {scope.name: scope for scope in self.scopes}


def page() -> str:
    """The whole page."""
    found: dict[str, set[Entry]] = {area: set() for area in AREAS}
    for area, entry in entries():
        found[area].add(entry)
    return HEAD + "".join(
        f"\n## {title}\n\n{note}{chr(10) * 2 if note else ''}"
        "| message | what it means, what to do | exit code |\n|---|---|---|\n"
        + "".join(map(row, told(found[area])))
        for area, (title, note) in AREAS.items()
    )


def row(entry: Entry) -> str:
    """A row of the table."""
    return f"| {_cell(entry.message)} | {_sentence(entry.cure)} | {entry.code} |\n"


def told(entries: set[Entry]) -> list[Entry]:
    """In the order of the words; a message with several cures is one row."""
    cures: dict[tuple[str, str], list[str]] = {}
    usual = {kind.cure for kind in classes().values()}
    for entry in sorted(entries):
        cures.setdefault((entry.message, entry.code), []).append(entry.cure)
    found = [
        Entry(message, "; or ".join([c for c in some if c not in usual] or some[:1]), code)
        for (message, code), some in cures.items()
    ]
    return sorted(found, key=lambda e: (re.sub(r"\W+", " ", e.message).lower().strip(), e))


def entries() -> Iterator[tuple[str, Entry]]:
    """All messages, with their area."""
    kinds = classes()
    for module in modules():
        room = module.name.split("/", maxsplit=1)[0]
        for name, text in raised(module, kinds):
            kind = "SettingsError" if name == "ValueError" else name
            if name in INSIDE:
                kind, words = INSIDE[name]
                text = words.format(text)  # noqa: PLW2901
            if name.startswith("exit "):
                kinds = {**kinds, name: Kind(int(name.split()[1]), "")}
            area = BY_ROOM.get(room) or BY_CLASS.get(kind, "call")
            if kind in ("CheckpointError", "OutputError", "StoppedError", "Made"):
                area = BY_CLASS[kind] if area != "products" else area
            if entry := entry_of(text, kinds[kind], kind):
                yield area, entry


def entry_of(text: str, kind: Kind, name: str) -> Entry | None:
    """None for what only passes on another message."""
    text = " ".join(text.split())
    while match := re.match(r"\*([^*]+)\*: ", text):
        if match[1] not in PATHS:
            break
        text = text[match.end() :]
    message, semicolon, cure = text.rpartition("; ")
    if not semicolon or cure.startswith("got ") or cure.count(")") > cure.count("("):
        message, cure = text.rstrip(), kind.cure
    if not LITERAL.search(PLACEHOLDER.sub("", message)):
        return None
    code = "3, 2" if name in ("ImageError", "NotFiniteError") else str(kind.exit_code)
    return Entry(message, cure, "3" if name == "Made" else code)


def classes() -> dict[str, Kind]:
    """By name: those of ``errors``, whose second paragraph says what to do."""
    found = {"Made": Kind(3, AGAIN)}
    for node in ast.parse((PACKAGE / "errors.py").read_text()).body:
        if not isinstance(node, ast.ClassDef):
            continue
        above = found.get(node.bases[0].id) if isinstance(node.bases[0], ast.Name) else None
        code = next(
            (
                line.value.value
                for line in node.body
                if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant)
            ),
            above.exit_code if above else 1,
        )
        _, _, rest = (ast.get_docstring(node) or "").partition("\n\n")
        found[node.name] = Kind(code, " ".join(rest.split()).rstrip("."))
    return found


def modules() -> Iterator[Module]:
    """All files of the package."""
    trees = {p: ast.parse(p.read_text()) for p in sorted(PACKAGE.rglob("*.py"))}
    names = {p: str(p.relative_to(PACKAGE).with_suffix("")) for p in trees}
    own = {names[p].removesuffix("/__init__"): _constants(tree, {}) for p, tree in trees.items()}
    for path, tree in trees.items():
        taken = {
            alias.name: own[room][alias.name]
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("capecam.")
            if (room := str(node.module).removeprefix("capecam.").replace(".", "/")) in own
            for alias in node.names
            if alias.name in own[room]
        }
        yield Module(names[path], tree, taken | _constants(tree, taken))


def raised(module: Module, kinds: Mapping[str, Kind]) -> Iterator[tuple[str, str]]:
    """Class and text of each message that a module can give."""
    if speaker := SPEAKERS.get(module.name):
        texts = _returned(module.functions[speaker], module, 0)
        yield from (("SettingsError", text) for text in texts)
    for scope in module.scopes:
        local = _assigned(scope)
        for node in _own(scope):
            yield from _said(node, module, local, kinds)


def _said(
    node: ast.AST, module: Module, local: Mapping[str, ast.expr], kinds: Mapping[str, Kind]
) -> Iterator[tuple[str, str]]:
    """Class and text of what a node says: an exception, the end of a command or of a cell."""
    room = module.name.split("/", maxsplit=1)[0]
    match node:
        case ast.Call(func=ast.Name(id="Made"), args=[_, _, text]):
            yield from (("Made", said) for said in _texts(text, module, local))
        case ast.Call(func=ast.Name(id="_fail"), args=[text, code]):
            known, number = _evaluated(code, module.constants)
            if known:
                yield from ((f"exit {number}", said) for said in _texts(text, module, local))
        case ast.Call(func=ast.Name(id=name), args=[text, *_]) if name in INSIDE or (
            name in kinds and name != "Made"
        ):
            yield from ((name, said) for said in _texts(text, module, local))
        case ast.Call(func=ast.Name(id="ValueError"), args=[text]) if room == "settings":
            yield from (("ValueError", _by_pydantic(t)) for t in _texts(text, module, local))
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()], value=ast.JoinedStr() as text):
            # A reason that is kept, not raised: it fails an image all the same.
            kind = "ImageError" if BY_ROOM.get(room) == "images" else "Made"
            yield from ((kind, said) for said in _texts(text, module, local) if "; " in said)


def _by_pydantic(said: str) -> str:
    """What becomes of a validator's message in ``configfile``."""
    said = said.replace("*what* *name*", "unknown *name*")
    return f"*key*: {said}" + ("" if "; " in said else ", got *value*")


def _own(scope: ast.FunctionDef) -> Iterator[ast.AST]:
    """Nodes of a function, without those of functions in it."""
    for node in ast.iter_child_nodes(scope):
        if not isinstance(node, ast.FunctionDef):
            yield node
            yield from _own(node)  # type: ignore[arg-type]


def _constants(tree: ast.Module, known: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a module's constants, as far as they are written down there."""
    found: dict[str, Any] = {}
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and getattr(node, "value", None) is not None:
            ok, value = _evaluated(node.value, {**known, **found})  # type: ignore[attr-defined]
            if ok and not callable(value):
                found[target.id] = value
    return found


def _evaluated(node: ast.expr, names: Mapping[str, Any]) -> tuple[bool, Any]:
    """The value of an expression of constants alone; calls are of a few harmless functions."""
    safe = {"len": len, "map": map, "str": str, "sorted": sorted, "tuple": tuple}
    used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    methods = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
    if not used <= {*names, *safe} or not methods <= {"join"}:
        return False, None
    try:
        expression = ast.fix_missing_locations(ast.Expression(node))
        code = compile(expression, "constant", "eval")
        return True, eval(code, {"__builtins__": safe, **names})
    except (TypeError, ValueError, NameError, KeyError, AttributeError):
        return False, None


def _assigned(scope: ast.FunctionDef) -> dict[str, ast.expr]:
    """Expressions by the name that a function gives them; the first of each, loops over constants
    as a subscript of these."""
    found: dict[str, ast.expr] = {}
    for node in ast.walk(scope):
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.NamedExpr(target=ast.Name(id=name), value=value)
            ):
                found.setdefault(name, value)
            case ast.For(target=ast.Tuple(elts=elts), iter=ast.Name() as table):
                for i, target in enumerate(elts):
                    if isinstance(target, ast.Name):
                        found[target.id] = ast.Subscript(table, ast.Constant(i), ast.Load())
    return found


def _texts(  # noqa: PLR0911 one case a kind of expression
    node: ast.expr, module: Module, local: Mapping[str, ast.expr], deep: int = 0
) -> list[str]:
    """What an expression can say, with words for what is not known before."""
    if deep > DEEPEST and not isinstance(node, ast.Constant):
        return [_placeholder(node)]
    again = (module, local, deep + 1)
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=values):
            return _products([_texts(value, *again) for value in values])
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _products([_texts(left, *again), _texts(right, *again)])
        case ast.IfExp(body=body, orelse=orelse):
            return [*_texts(body, *again), *_texts(orelse, *again)]
        case ast.BoolOp(values=values):
            return [text for value in values for text in _texts(value, *again)]
        case ast.FormattedValue(value=value):
            ok, text = _evaluated(ast.JoinedStr([node]), module.constants)
            return [text] if ok else _texts(value, *again)
        case ast.Name(id=name) if name in local:
            return _followed(local[name], again) or [_placeholder(node)]
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if (
            name.startswith("_") and name in module.functions
        ):
            return _returned(module.functions[name], module, deep) or [_placeholder(node)]
        case ast.Call(func=ast.Attribute(value=ast.Dict(values=values), attr="get"), args=args):
            return [t for value in [*values, *args[1:]] for t in _texts(value, *again)]
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=int(i))) if isinstance(
            rows := module.constants.get(name), tuple
        ) and isinstance(rows[0], tuple):
            return [str(row[i]) for row in rows]
    return [_placeholder(node)]


def _followed(value: ast.expr, again: tuple[Module, Mapping[str, ast.expr], int]) -> list[str]:
    """A name's texts, where what it stands for is made of texts."""
    texts = ast.Constant | ast.JoinedStr | ast.IfExp | ast.BinOp | ast.Subscript
    if isinstance(value, texts) or (
        isinstance(value, ast.Call)
        and (isinstance(value.func, ast.Attribute) or ast.unparse(value.func).startswith("_"))
    ):
        found = _texts(value, *again)
        plain = [PLACEHOLDER.sub("", text) for text in found]
        return found if plain == found or any(map(LITERAL.search, plain)) else []
    return []


def _returned(scope: ast.FunctionDef, module: Module, deep: int) -> list[str]:
    """What a function of texts can return."""
    local = _assigned(scope)
    returns = [n.value for n in _own(scope) if isinstance(n, ast.Return) and n.value is not None]
    found = [
        text
        for value in returns
        if not (isinstance(value, ast.Constant) and value.value is None)
        for text in _texts(value, module, local, deep + 1)
    ]
    plain = [text for text in found if re.search(r"[A-Za-z]", PLACEHOLDER.sub("", text))]
    return list(dict.fromkeys(plain))


def _products(parts: list[list[str]]) -> list[str]:
    """All ways to put parts together, as far as there are few."""
    count = 1
    for i, choices in enumerate(parts):
        count *= len(choices)
        if count > MOST_VARIANTS:
            parts[i] = choices[:1]
            count //= len(choices)
    return ["".join(found) for found in product(*parts)]


def _placeholder(node: ast.expr) -> str:
    word = _word(node)
    word = WORDS.get(word, word).strip("_").replace("_", " ")
    return f"*{word.lower()}*" if word else ""


def _word(node: ast.AST) -> str:  # noqa: PLR0911, PLR0912
    """What a placeholder is about."""
    match node:
        case ast.Attribute(value=value, attr="iloc" | "__name__"):
            return _word(value)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=ast.Attribute(attr="join" | "CRS" | "readlink"), args=[first, *_]):
            return _word(first)
        case ast.Call(func=ast.Name(id="len")):
            return "number"
        case ast.Call(func=ast.Name(id="type")):
            return "kind"
        case ast.Call(func=ast.Name(id="in_words" | "damage")):
            return "reason"
        case ast.Subscript(slice=ast.Constant(value=str(key))):
            return key
        case ast.Call(func=ast.Name(id="map"), args=[_, second, *_]):
            return _word(second)
        case ast.Call(func=ast.Name(id=name), args=[first, *_]) if not name.startswith("_"):
            return _word(first)
        case ast.Call(func=ast.Attribute(value=value)) if not isinstance(value, ast.Constant):
            return (
                _word(node.func)
                if isinstance(value, ast.Name) and value.id == "self"
                else _word(value)
            )
        case ast.Call(func=ast.Name(id=name)):
            return name
        case (
            ast.Subscript(value=value) | ast.Starred(value=value) | ast.FormattedValue(value=value)
        ):
            return _word(value)
        case ast.BinOp(left=left) | ast.BoolOp(values=[left, *_]) | ast.IfExp(body=left):
            return _word(left)
        case ast.GeneratorExp(elt=part) | ast.ListComp(elt=part) | ast.JoinedStr(values=[part, *_]):
            return _word(part)
    return "value"


def _cell(text: str) -> str:
    text = re.sub(r"\*\*", "* *", text)
    return text.replace("|", "\\|").replace("<", "\\<")


def _sentence(cure: str) -> str:
    text = re.sub(r"(?<![\w`-])(--[a-z][\w-]*)", r"`\1`", _cell(cure))
    text = text.replace("docs/configuration.md", "[configuration.md](configuration.md)")
    return text[:1].upper() + text[1:]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
