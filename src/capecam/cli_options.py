"""What the commands have in common: options that all have, and one for every setting that has one.

They come from the settings tree, so that nothing about a setting is written down twice.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from capecam import __version__
from capecam.runtime import logs
from capecam.settings import Setting, leaves
from capecam.settings.loading import load

Sources = Annotated[
    list[str] | None,
    typer.Argument(metavar="SOURCES", help="images, folders of images, globs, or @list.txt"),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE.yaml", help="settings (docs/configuration.md)"),
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]

log = logging.getLogger("capecam")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"capecam {__version__}")
        raise typer.Exit


def _say_more(wanted: bool) -> None:
    if wanted:
        logs.set_level(logging.DEBUG)


def _say_less(wanted: bool) -> None:
    if wanted:
        logs.set_level(logging.ERROR)


def quiet() -> bool:
    """Whether only errors are to be printed: the logger's level says so."""
    return not log.isEnabledFor(logging.INFO)


EVERYWHERE = {
    "verbose": typer.Option(
        "--verbose", "-v", callback=_say_more, help="say more, with tracebacks"
    ),
    "quiet": typer.Option("--quiet", "-q", callback=_say_less, help="print errors only"),
    "version": typer.Option(
        "--version", callback=_show_version, is_eager=True, help="print the version and exit"
    ),
}


def everywhere(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that all have; they act by themselves."""

    def called(**given: Any) -> None:
        command(**{name: value for name, value in given.items() if name not in EVERYWHERE})

    common = [_keyword(name, Annotated[bool, o], False) for name, o in EVERYWHERE.items()]
    return _dressed(called, command, [*_parameters(command), *common])


def _parameters(command: Callable[..., None]) -> list[inspect.Parameter]:
    """Of a command, all to be given by name."""
    own = inspect.signature(command, eval_str=True).parameters.values()
    return [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]


def _keyword(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _dressed(
    called: Callable[..., None], command: Callable[..., None], parameters: list[inspect.Parameter]
) -> Callable[..., None]:
    """``called`` with the command's name and help, and with these parameters for typer to see."""
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in parameters}
    called.__doc__, called.__name__ = command.__doc__, command.__name__
    return called


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command SOURCES, --config and an option for every setting that has one.

    It gets ``settings`` instead; its other parameters stay.
    """
    offered = {_parameter(setting.key): setting for setting in leaves() if setting.option}

    def called(**given: Any) -> None:
        options = {s.key: _listed(s, given.pop(name)) for name, s in offered.items()}
        options["sources"] = given.pop("sources") or None
        command(settings=load(given.pop("config"), options), **given)

    first = [_keyword("sources", Sources), _keyword("config", Config)]
    extra = [_option(name, setting) for name, setting in offered.items()]
    rest = [p for p in _parameters(command) if p.name != "settings"]
    return _dressed(called, command, [*first, *extra, *rest])


def _parameter(key: str) -> str:
    return key.replace(".", "_")


def _listed(setting: Setting, value: Any) -> Any:
    """Lists of texts are comma-separated."""
    is_list = setting.annotation == tuple[str, ...] and value is not None
    return value.split(",") if is_list else value


def _option(name: str, setting: Setting) -> inspect.Parameter:
    """A setting as an option of typer; its own default stays in the settings tree."""
    option = setting.option
    if option is None:
        raise ValueError(f"{setting.key} has no option")
    kind = setting.annotation if setting.annotation in (int, float, bool) else str
    shown = setting.default if kind is not bool else None
    if isinstance(shown, tuple):
        shown = ",".join(shown)
    choices = getattr(setting.annotation, "__args__", ()) if kind is str else ()
    names = "|".join(c for c in choices if isinstance(c, str))
    default = "" if shown is None else f"  [default: {shown}]"
    info = typer.Option(
        option.flag,
        metavar=None if kind is bool else option.metavar or names or "NAME",
        help=setting.help + default,
        show_default=False,
    )
    return _keyword(name, Annotated[kind | None, info])
