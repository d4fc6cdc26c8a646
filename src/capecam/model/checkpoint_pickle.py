"""A pickle as what it is: a list of instructions. They are followed with inert stand-ins.

Nothing is imported, called or allocated on the pickle's word: a name stays a name, a call stays a
call that nobody makes. ``torch.load(weights_only=True)`` is not used, because what it allows can
still be told to allocate (``bytearray(10**12)``, a memo of 2**31 places), or to stand for hours.
"""

from __future__ import annotations

import io
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from capecam.errors import CheckpointError

LIMIT_BYTES = 4 << 20
"""Of one pickle, without the numbers of its tensors. That of FPN-resnext50_32x4d with the state of
Adam takes 0.2 MB; four million instructions take ten seconds."""


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """A function or a class, by its full name."""

    path: str


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """What calling something would have made."""

    function: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """To something that is kept outside the pickle: the numbers of a tensor."""

    to: Any


@dataclass(frozen=True, slots=True)
class Described:
    """What a pickle says there is."""

    content: Any
    references: list[Reference]
    """All of them, also those that are not in the content."""


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
"""What checkpoints hold beside tensors: numbers, paths and hyper-parameters. No other name may
occur, although none would be run: a file that asks for one is not what it says it is."""

HARMLESS_FAMILIES = re.compile(
    r"torch\.(storage\.)?\w*Storage|torch\._utils\._rebuild_\w+"
    r"|torch\.(q?u?int\d+\w*|float\d*\w*|bfloat16|half|double|complex\d+|bool|strided"
    r"|per_(tensor|channel)_\w+)"
)

VALUES = (
    "INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
)  # fmt: skip
"""Instructions that carry a value."""


def interpret_pickle(stream: io.BytesIO) -> Described:
    """Read one pickle: values, lists, tuples, dicts, and stand-ins for the rest.

    Of a dict only what has a text as its key is kept. The stream is left behind the pickle.

    Raises:
        CheckpointError: it names what no state dict needs, or is damaged.
    """
    machine = _Machine()
    known = machine.instructions()
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            known[opcode.name](argument)
        return Described(machine.stack.pop(), machine.references)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"damaged or not a PyTorch checkpoint ({_short(error)})") from error


def _short(error: Exception) -> str:
    return f"its pickle ends in {type(error).__name__}: {str(error)[:80]!r}"


class _Machine:
    """The stack machine that a pickle is written for."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        """Stacks that a MARK has put aside."""
        self.memo: dict[int, Any] = {}
        self.references: list[Reference] = []

    def instructions(self) -> dict[str, Callable[[Any], None]]:
        """What to do, by the name of an instruction."""
        own = (
            "MARK", "POP", "POP_MARK", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET",
            "LONG_BINGET", "DUP", "TUPLE", "LIST", "FROZENSET", "DICT", "TUPLE1", "TUPLE2",
            "TUPLE3", "APPEND", "APPENDS", "ADDITEMS", "SETITEM", "SETITEMS", "GLOBAL",
            "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID", "NONE", "NEWTRUE",
            "NEWFALSE", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_SET", "EMPTY_DICT",
        )  # fmt: skip
        known = {name: getattr(self, f"_{name.lower()}") for name in own}
        known |= dict.fromkeys(VALUES, self._value)
        return known | dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda _: None)

    def _value(self, value: Any) -> None:
        self.stack.append(value)

    def _none(self, _: None) -> None:
        self.stack.append(None)

    def _newtrue(self, _: None) -> None:
        self.stack.append(True)

    def _newfalse(self, _: None) -> None:
        self.stack.append(False)

    def _empty_tuple(self, _: None) -> None:
        self.stack.append(())

    def _empty_list(self, _: None) -> None:
        self.stack.append([])

    _empty_set = _empty_list

    def _empty_dict(self, _: None) -> None:
        self.stack.append({})

    def _to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def _mark(self, _: None) -> None:
        self.below.append(self.stack)
        self.stack = []

    def _pop(self, _: None) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._to_mark()

    def _pop_mark(self, _: None) -> None:
        self._to_mark()

    def _put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, _: None) -> None:
        self._put(len(self.memo))

    def _get(self, place: int) -> None:
        self.stack.append(self.memo[place])

    _binget = _long_binget = _get

    def _dup(self, _: None) -> None:
        self.stack.append(self.stack[-1])

    def _tuple(self, _: None) -> None:
        items = tuple(self._to_mark())
        self.stack.append(items)

    def _list(self, _: None) -> None:
        items = self._to_mark()
        self.stack.append(items)

    _frozenset = _list

    def _dict(self, _: None) -> None:
        items = self._to_mark()
        self.stack.append({})
        self._set(items)

    def _last(self, count: int) -> tuple[Any, ...]:
        if len(self.stack) < count:
            raise IndexError("nothing on the stack")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        return items

    def _tuple1(self, _: None) -> None:
        self.stack.append(self._last(1))

    def _tuple2(self, _: None) -> None:
        self.stack.append(self._last(2))

    def _tuple3(self, _: None) -> None:
        self.stack.append(self._last(3))

    def _append(self, _: None) -> None:
        self._extend(self._last(1))

    def _appends(self, _: None) -> None:
        self._extend(self._to_mark())

    _additems = _appends

    def _extend(self, items: Any) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)
        elif not isinstance(self.stack[-1], Call):
            raise TypeError("items for what is no list")

    def _setitem(self, _: None) -> None:
        self._set(self._last(2))

    def _setitems(self, _: None) -> None:
        self._set(self._to_mark())

    def _set(self, items: Any) -> None:
        owner = self.stack[-1]
        if isinstance(owner, dict):
            pairs = zip(items[::2], items[1::2], strict=True)
            owner.update((key, value) for key, value in pairs if isinstance(key, str))
        elif not isinstance(owner, Call):
            raise TypeError("entries for what is no dict")

    def _global(self, argument: str) -> None:
        self._name(*argument.split(" ", 1))

    def _stack_global(self, _: None) -> None:
        self._name(*self._last(2))

    def _name(self, module: str, name: str) -> None:
        path = f"{module}.{name}".replace("__builtin__.", "builtins.", 1)
        if path not in HARMLESS and not HARMLESS_FAMILIES.fullmatch(path):
            raise CheckpointError(
                f"refused, because it wants to run {path[:100]}; "
                "save the state_dict alone, best as safetensors"
            )
        self.stack.append(Name(path))

    def _reduce(self, _: None) -> None:
        function, arguments = self._last(2)
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise TypeError("a call of what is no function")
        if function.path != "collections.OrderedDict":
            self.stack.append(Call(function.path, arguments))
            return
        self.stack.append({})
        for pair in arguments[0] if arguments else ():
            self._set(pair)

    _newobj = _reduce

    def _build(self, _: None) -> None:
        self._last(1)  # attributes, such as a state dict's versions: nothing that is needed

    def _binpersid(self, _: None) -> None:
        self.references.append(Reference(*self._last(1)))
        self.stack.append(self.references[-1])
