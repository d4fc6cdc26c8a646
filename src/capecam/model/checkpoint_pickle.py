"""Read a pickle without running it: names and calls in it become inert stand-ins.

Nothing is imported, called or allocated because a pickle says so. ``torch.load(weights_only=True)``
does not give that: it allocates what the file asks for (``bytearray(10**12)``, the storages of a
file from before PyTorch 1.6), crashes on hashing deeply nested keys, and compares no checksums.
"""

from __future__ import annotations

import io
import pickle
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from capecam.errors import CheckpointError

LIMIT_BYTES = 4 << 20
"""Maximum size of one pickle, without the numbers of its tensors. That of FPN-resnext50_32x4d with
the state of Adam takes 0.2 MB."""

NAME_CHARACTERS = 200
"""Maximum length of a name: a long one could be memoized and repeated a million times."""


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """A function or a class, by its full name."""

    path: str


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A call that a pickle asks for, and that is not made."""

    function: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """A reference to data outside the pickle: the numbers of a tensor."""

    to: Any


class PickleContent(NamedTuple):
    """Content of a pickle: values, lists, tuples, dicts with string keys, and stand-ins."""

    value: Any
    references: list[Reference]
    """All references, also those that are not in the value."""


HARMLESS = frozenset({
    "collections.OrderedDict", "collections.Counter", "collections.defaultdict",
    "builtins.set", "builtins.frozenset", "builtins.complex", "builtins.bytearray",
    "builtins.dict", "builtins.list", "builtins.int", "builtins.float", "builtins.str",
    "builtins.bool", "builtins.slice", "builtins.range", "_codecs.encode",
    "torch.Size", "torch.device", "torch.Tensor", "torch.nn.parameter.Parameter",
    "torch.nn.parameter.Buffer", "torch.serialization._get_layout",
    "torch._tensor._rebuild_from_type_v2",
    "numpy.dtype", "numpy.ndarray", "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar", "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath", "argparse.Namespace",
    "datetime.datetime", "datetime.timedelta",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
})  # fmt: skip
"""Names that checkpoints hold beside tensors: numbers, paths and hyperparameters. A file with any
other name is refused, although nothing would be run: it is not the checkpoint it claims to be."""

HARMLESS_FAMILIES = re.compile(
    r"torch\.(storage\.)?\w*Storage|torch\._utils\._rebuild_\w+"
    r"|torch\.(q?u?int\d+\w*|float\d*\w*|bfloat16|half|double|complex\d+|bool|strided"
    r"|per_(tensor|channel)_\w+)"
)

INHERITED = (
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "PUT", "BINPUT", "LONG_BINPUT",
    "MEMOIZE", "GET", "BINGET", "LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT",
    "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    "EMPTY_LIST", "LIST", "EMPTY_DICT", "GLOBAL", "STACK_GLOBAL", "BINPERSID",
)  # fmt: skip
"""Opcodes that Python's own unpickler may interpret: none calls, hashes or allocates more than the
file holds."""


def interpret_pickle(stream: io.BytesIO) -> PickleContent:
    """Read one pickle, and leave the stream behind it.

    Raises:
        CheckpointError: the pickle names something that no state dict needs, or is damaged.
    """
    interpreter = _Interpreter(stream, encoding="latin-1")
    try:
        return PickleContent(interpreter.load(), interpreter.references)
    except (
        pickle.UnpicklingError, struct.error, EOFError,
        ValueError, IndexError, KeyError, TypeError, AttributeError,
    ) as error:  # fmt: skip
        raise CheckpointError(
            "damaged or not a PyTorch checkpoint (its pickle ends in "
            f"{type(error).__name__}: {str(error)[:80]!r})"
        ) from error


class _Interpreter(pickle._Unpickler):
    """Python's unpickler without the opcodes that could do harm."""

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]]
        for name in INHERITED
    }

    def __init__(self, stream: io.BytesIO, *, encoding: str) -> None:
        super().__init__(stream, encoding=encoding)
        self.references: list[Reference] = []
        self._pairs_left = LIMIT_BYTES // 4

    def find_class(self, module: str, name: str) -> Name:
        """Return a stand-in for a function or class.

        Raises:
            CheckpointError: the name is not one that checkpoints hold.
        """
        path = f"{module}.{name}".replace("__builtin__.", "builtins.", 1)
        harmless = path in HARMLESS or HARMLESS_FAMILIES.fullmatch(path)
        if len(path) > NAME_CHARACTERS or not harmless:
            raise CheckpointError(
                f"refused, because it wants to run {path[:100]}; "
                "save the state_dict alone, best as safetensors"
            )
        return Name(path)

    def persistent_load(self, pid: Any) -> Reference:
        """Return a stand-in for the numbers of a tensor."""
        self.references.append(Reference(pid))
        return self.references[-1]

    def _reduce(self) -> None:
        """Replace a function and its arguments by a stand-in for the call."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise TypeError("a call of something that is no function")
        if function.path == "collections.OrderedDict":
            pairs = arguments[0] if arguments else ()
            self._pairs_left -= len(pairs)  # one list may be the argument of many calls
            if self._pairs_left < 0:
                raise ValueError("more entries of dicts than a pickle of its size describes")
            self.stack.append({key: value for key, value in pairs if isinstance(key, str)})
        else:
            self.stack.append(Call(function.path, arguments))

    def _build(self) -> None:
        """Drop attributes, such as the versions in a state dict."""
        self.stack.pop()

    def _append(self) -> None:
        self._extend([self.stack.pop()])

    def _appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: list[Any]) -> None:
        owner = self.stack[-1]
        if isinstance(owner, list):
            owner.extend(items)
        elif not isinstance(owner, Call):
            raise TypeError("items for something that is no list")

    def _dict(self) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self._update(items)

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def _setitems(self) -> None:
        self._update(self.pop_mark())

    def _update(self, items: list[Any]) -> None:
        """Add entries with string keys; others are dropped, since hashing them could crash."""
        owner = self.stack[-1]
        if isinstance(owner, dict):
            pairs = zip(items[::2], items[1::2], strict=True)
            owner.update((key, value) for key, value in pairs if isinstance(key, str))
        elif not isinstance(owner, Call):
            raise TypeError("entries for something that is no dict")

    dispatch |= {
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _reduce,
        pickle.BUILD[0]: _build,
        pickle.APPEND[0]: _append,
        pickle.APPENDS[0]: _appends,
        pickle.ADDITEMS[0]: _appends,
        pickle.DICT[0]: _dict,
        pickle.SETITEM[0]: _setitem,
        pickle.SETITEMS[0]: _setitems,
        pickle.EMPTY_SET[0]: dispatch[pickle.EMPTY_LIST[0]],  # a set would hash its items
        pickle.FROZENSET[0]: dispatch[pickle.LIST[0]],
        pickle.BYTEARRAY8[0]: dispatch[pickle.BINBYTES8[0]],  # a bytearray would be allocated first
    }
