"""Options that commands share, and the options of settings, made from the settings tree."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from capecam import __version__
from capecam.errors import UsageError
from capecam.io.paths import is_there
from capecam.runtime import logs
from capecam.settings import Setting, leaves
from capecam.settings.loading import load
from capecam.store.file_names import REVIEW, check_is_run

Function = TypeVar("Function", bound=Callable[..., None])

INPUT, NETWORK, EXPLANATION, DETECTIONS, OUTPUT, MACHINE = PANELS = (
    "Input", "Network", "Explanation", "Detections", "Output", "Machine",
)  # fmt: skip
"""Titles of the parts of the help of ``run``."""

PANEL_OF = {
    "checkpoint": NETWORK, "model": NETWORK, "tiling": NETWORK, "tiling.cell_size": MACHINE,
    "imagery": INPUT, "mosaic": INPUT,
    "explain": EXPLANATION, "objects": EXPLANATION, "audit": EXPLANATION,
    "detections": DETECTIONS,
    "out": OUTPUT, "qgis": OUTPUT, "run": OUTPUT,
    "compute": MACHINE, "run.shard": MACHINE, "run.in_process": MACHINE,
}  # fmt: skip
"""Titles by setting, or by section for all others of it."""

GROUPS = {
    "Begin": ("demo", "init", "inspect"),
    "Make a map": ("plan", "run", "finish", "verify"),
    "Look at it": ("view", "report", "panel", "explain"),
    "Judge it": ("review", "evaluate", "calibrate", "audit"),
    "Count": ("summarize", "sample", "estimate"),
    "Take it elsewhere": ("export", "export-model"),
    "Measure speed": ("bench",),
}
"""Commands by title, as the help lists them."""

HELP_COLUMNS = 120
"""Width up to which the help fills a terminal."""

CONFIG_HELP = "configuration (docs/configuration.md)"
Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCES",
        help="images, folders of images, globs, or @list.txt",
        rich_help_panel=INPUT,
    ),
]
Config = Annotated[Path | None, typer.Option("--config", metavar="FILE.yaml", help=CONFIG_HELP)]
RunConfig = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE.yaml", help=CONFIG_HELP, rich_help_panel=INPUT),
]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="folder of a run")]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="NAME", help="auto, cpu, cuda or cuda:1  [default: as in the run]"
    ),
]
ResultFolder = Annotated[
    Path | None,
    typer.Option("--to", metavar="FOLDER", help="folder to write  [default: OUT, if possible]"),
]
Reviews = Annotated[
    str | None,
    typer.Option(
        "--reviews", metavar="[FILE]", help="review file  [default with no FILE: OUT/review.gpkg]"
    ),
]
"""Option of commands of the class ``OptionalFile``; see :func:`reviews_path`."""
PLACE = "degrees, or X,Y in the CRS of the imagery"
"""How a place is given with ``--at``, for the help."""
Top = Annotated[
    int | None,
    typer.Option("--top", metavar="N", min=1, help="the first N detections of the review queue"),
]
Truth = Annotated[
    Path | None,
    typer.Option("--truth", metavar="FILE", help="vector file of annotated polygons"),
]
Area = Annotated[
    Path | None,
    typer.Option(
        "--area", metavar="FILE", help="polygons of the annotated area  [default: everywhere]"
    ),
]
Iou = Annotated[float, typer.Option("--iou", metavar="X", help="minimum IoU of a match")]
ReviewFile = Annotated[
    Path | None,
    typer.Option("--reviews", metavar="FILE", help="review file  [default: OUT/review.gpkg]"),
]
ZoneName = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="COLUMN",
        help="column with the names of zones  [default: the first column of text]",
    ),
]
Earlier = Annotated[
    Path, typer.Argument(metavar="OUT", help="folder of a run (the earlier one of two)")
]
Later = Annotated[Path | None, typer.Argument(metavar="OUT2", help="folder of the later run")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of text")]

log = logging.getLogger("capecam")


def _show_version(is_given: bool) -> None:
    if is_given:
        print(f"capecam {__version__}")
        raise typer.Exit


def _set_verbose(is_given: bool) -> None:
    if is_given:
        logs.set_level(logging.DEBUG)


def _set_quiet(is_given: bool) -> None:
    if is_given:
        logs.set_level(logging.ERROR)


PROGRESS = ("auto", "json")


def _set_progress(kind: str) -> str:
    """Check the kind of progress; with JSON, all messages from now on are JSON, too."""
    if kind not in PROGRESS:
        raise typer.BadParameter(f"must be {' or '.join(PROGRESS)}, got {kind!r}")
    if kind == "json":
        logs.use_json()
    return kind


ProgressKind = Annotated[
    str,
    typer.Option(
        "--progress",
        metavar="auto|json",
        help="how to say how far it is: for people, or as JSON (docs/operations.md)",
        autocompletion=lambda: PROGRESS,
        callback=_set_progress,
    ),
]


def quiet() -> bool:
    """Return True if only errors are to be printed, which is the logger's level."""
    return not log.isEnabledFor(logging.INFO)


FILES_READ = ("truth", "area", "zones", "footprints", "geometry", "sample", "sample2", "add")
"""Names of options of commands but ``run`` and ``plan`` that take a file, which must be there."""

COMMON = {
    "verbose": typer.Option(
        "--verbose", "-v", callback=_set_verbose, help="print debug messages and tracebacks"
    ),
    "quiet": typer.Option("--quiet", "-q", callback=_set_quiet, help="print errors only"),
    "version": typer.Option(
        "--version", callback=_show_version, is_eager=True, help="print the version and exit"
    ),
}


class Command(TyperCommand):
    """Command whose help groups arguments and options by subject, in plain text."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each ``rich_help_panel``, in the order in which they come."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (row := parameter.get_help_record(ctx)) is not None:
                is_argument = parameter.param_type_name == "argument"
                title = "Arguments" if is_argument else "Options"
                title = getattr(parameter, "rich_help_panel", None) or title
                first = parameter.metavar if is_argument else row[0]  # without its Python type
                sections.setdefault(title, []).append((first or row[0], row[1]))
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)


class CommandGroup(TyperGroup):
    """All commands, listed by ``GROUPS`` with whole sentences."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, and then the options, which are few."""
        width = max(map(len, self.commands))
        for title, names in GROUPS.items():
            rows = [
                (f"{name:<{width}}", self.commands[name].get_short_help_str(HELP_COLUMNS))
                for name in names
                if name in self.commands
            ]
            with formatter.section(title):
                formatter.write_dl(rows)
        options = [parameter.get_help_record(ctx) for parameter in self.get_params(ctx)]
        with formatter.section("Options"):
            formatter.write_dl([row for row in options if row is not None])


class Commands(typer.Typer):
    """Commands of one subject, with the help of ``Command``."""

    def command(  # type: ignore[override]
        self, name: str, *, cls: type[TyperCommand] = Command
    ) -> Callable[[Function], Function]:
        """Register a function as a command; see typer."""
        return super().command(name, cls=cls)


class OptionalFile(Command):
    """Command whose ``--reviews`` may stand without a value, which typer's options cannot."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments after giving ``--reviews`` an empty value where it has none."""
        following = [*args[1:], "--"]
        given = [
            "--reviews=" if arg == "--reviews" and after.startswith("-") else arg
            for arg, after in zip(args, following, strict=True)
        ]
        parsed: list[str] = super().parse_args(ctx, given)
        return parsed


def reviews_path(out: Path, value: str) -> Path:
    """Return the review file that ``--reviews`` names: without a name, that of the run."""
    return Path(value) if value else out / REVIEW


def with_common_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of ``COMMON`` to a command; their callbacks do the work.

    The folders of runs and the files that it reads are checked before it imports anything slow.
    """
    outs = [p.name for p in _parameters(command) if p.annotation in (Out, Earlier, Later)]
    files = [p.name for p in _parameters(command) if p.name in FILES_READ]

    def called(**given: Any) -> None:
        for out in outs:
            if given[out] is not None:
                check_is_run(given[out])
        absent = [
            name for name in files if isinstance(given[name], Path) and not is_there(given[name])
        ]
        if absent:
            told = ", ".join(f"--{name} {given[name]}" for name in absent)
            raise UsageError(f"{told}: there is no such file; check its path")
        command(**{name: value for name, value in given.items() if name not in COMMON})

    common = [_keyword(name, Annotated[bool, o], False) for name, o in COMMON.items()]
    return _with_signature(called, command, [*_parameters(command), *common])


def _parameters(command: Callable[..., None]) -> list[inspect.Parameter]:
    """Return the parameters of a command as keyword-only ones."""
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    return [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]


def _keyword(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _with_signature(
    called: Callable[..., None], command: Callable[..., None], parameters: list[inspect.Parameter]
) -> Callable[..., None]:
    """Return ``called`` with a command's name and help, and with parameters for typer to read."""
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in parameters}
    called.__doc__, called.__name__ = command.__doc__, command.__name__
    return called


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Add SOURCES, --config and the options of settings to a command.

    The command gets ``settings`` in their place; its other parameters stay.
    """
    settings_by_name = {_parameter(setting.key): setting for setting in leaves() if setting.option}

    def called(**given: Any) -> None:
        options = {s.key: _listed(s, given.pop(name)) for name, s in settings_by_name.items()}
        options["sources"] = given.pop("sources") or None
        command(settings=load(given.pop("config"), options), **given)

    first = [_keyword("sources", Sources), _keyword("config", RunConfig)]
    by_panel = sorted(settings_by_name.items(), key=lambda item: PANELS.index(_panel(item[1])))
    extra = [_option(name, setting) for name, setting in by_panel]
    rest = [p for p in _parameters(command) if p.name != "settings"]
    return _with_signature(called, command, [*first, *extra, *rest])


def _parameter(key: str) -> str:
    return key.replace(".", "_")


def _panel(setting: Setting) -> str:
    return PANEL_OF.get(setting.key) or PANEL_OF[setting.key.partition(".")[0]]


def _listed(setting: Setting, value: Any) -> Any:
    """Split the comma-separated value of a list of texts."""
    is_list = setting.annotation == tuple[str, ...] and value is not None
    return value.split(",") if is_list else value


def _option(name: str, setting: Setting) -> inspect.Parameter:
    """Return the option of a setting for typer; its default is applied by the settings tree."""
    option = setting.option
    if option is None:
        raise ValueError(f"{setting.key} has no option")
    kind = setting.annotation if setting.annotation in (int, float, bool) else str
    shown = setting.default if kind is not bool else None
    if isinstance(shown, tuple):
        shown = ",".join(shown)
    choices = getattr(setting.annotation, "__args__", ()) if kind is str else ()
    names = [choice for choice in choices if isinstance(choice, str)]
    default = "" if shown is None else f"  [default: {shown}]"
    info = typer.Option(
        option.flag,
        metavar=None if kind is bool else option.metavar or "|".join(names) or "NAME",
        help=setting.help + default,
        show_default=False,
        autocompletion=(lambda: names) if names else None,
        rich_help_panel=_panel(setting),
    )
    return _keyword(name, Annotated[kind | None, info])
