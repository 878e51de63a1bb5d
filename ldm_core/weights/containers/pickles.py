"""Pickles, interpreted and never run: the only results are plain values and descriptions of tensors.

The standard library's :func:`pickletools.genops` lists the opcodes and :class:`_Interpreter` follows them; Python's own
unpickler is not used. A name becomes a :class:`~ldm_core.weights.containers.pickle_names.Global`. A call of a name that
describes a tensor gives the description; a call of any other name gives an object that does nothing. Names that run
code are refused. Bytes, operations and names are limited, and so are memory and time. Imports no torch.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from typing import Any

from ldm_core.errors import CheckpointError, UnsafeError
from ldm_core.weights.containers.pickle_names import MOST, Global, runs_code
from ldm_core.weights.containers.pickled_tensors import CALLS, Inert

LIMIT = 64 << 20
"""Bytes of a checkpoint's pickle, at most; the tensors lie outside it."""
_MOST_OPERATIONS = 2_000_000  # a tensor takes 35; Stable Diffusion with all its optimizer has some 10,000
_MOST_COPIED = 64 << 20  # bytes that calls may copy: a list passed again and again would fill any memory
_LONGEST_NUMBER = 64  # bytes
_NAME = 4096  # bytes
_LONGEST_LINES = {
    **dict.fromkeys((b"F", b"I", b"L", b"g", b"p"), (_LONGEST_NUMBER,)),
    **dict.fromkeys((b"S", b"V"), (1 << 20,)),
    b"P": (_NAME,),
    **dict.fromkeys((b"c", b"i"), (_NAME, _NAME)),
}
"""Opcode -> the most bytes of each line behind it."""
_MOST_MEMO = 1 << 32


def interpret(data: bytes, start: int, where: str, persistent: Callable[[Any], Any]) -> tuple[Any, int]:
    """The value of the pickle at `start`, and its end. Dictionaries keep their text keys alone.

    `where` names file and member in errors; `persistent` turns a persistent id into a value. CheckpointError for a
    damaged or too large pickle, UnsafeError for one with a way to run code.
    """
    interpreter = _Interpreter(data, start, where, persistent)
    source = interpreter.source
    try:
        return interpreter.run(), source.tell()
    except CheckpointError:
        raise
    except (LookupError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(
            f"{where}: its pickle does not read at byte {source.tell()} ({_reason(error)}); the file is damaged, or "
            "torch.save did not write it"
        ) from None


def _reason(error: Exception) -> str:
    if isinstance(error, LookupError):
        return "it takes a value that was never stored"
    text = str(error) or type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in text[:120])


class _Interpreter:
    def __init__(self, data: bytes, start: int, where: str, persistent: Callable[[Any], Any]) -> None:
        self.data, self.where, self.persistent = data, where, persistent
        self.source = io.BytesIO(data)
        self.source.seek(start)
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.names: dict[tuple[str, str], Global] = {}
        self.copied = 0

    def run(self) -> Any:
        """Follow the opcodes up to STOP."""
        opcodes = pickletools.genops(self.source)
        for _ in range(_MOST_OPERATIONS):
            self.check(self.source.tell())
            opcode, argument, _ = next(opcodes)
            operation = _OPERATIONS.get(opcode.name)
            if operation is not None:
                operation(self, argument)
            elif opcode.name == "STOP":
                return self.stack.pop()
            else:
                raise ValueError(f"there is no operation {opcode.name}")
        raise ValueError(f"it has more than {_MOST_OPERATIONS:,} operations")

    def check(self, at: int) -> None:
        """ValueError if the number or line of the opcode at `at` is too long: genops parses any length."""
        code = self.data[at : at + 1]
        if code in (b"\x8a", b"\x8b"):  # LONG1, LONG4
            count = int.from_bytes(self.data[at + 1 : at + (2 if code == b"\x8a" else 5)], "little")
            if count > _LONGEST_NUMBER:
                raise ValueError(f"a number has {count} bytes")
        for most in _LONGEST_LINES.get(code, ()):
            end = self.data.find(b"\n", at + 1, at + most + 2)
            if end < 0:
                raise ValueError("a line has no end")
            if b"\\" in self.data[at:end] and most == _NAME:  # genops undoes escapes, which a name has none of
                raise ValueError("a name has a backslash")
            at = end

    # ------------------------------------------------------------------------------------------------- stack

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def marked(self) -> list[Any]:
        """Take the values above the last mark, and the mark."""
        found, self.stack = self.stack, self.marks.pop()
        return found

    def collect(self, made: Callable[[list[Any]], Any]) -> None:
        """Push one value made of all above the last mark."""
        values = self.marked()  # first: it replaces the stack
        self.push(made(values))

    def mark(self) -> None:
        """Begin a list of values."""
        self.marks.append(self.stack)
        self.stack = []

    def drop(self) -> None:
        """Forget the top value, or a mark."""
        if self.stack:
            self.stack.pop()
        else:
            self.marked()

    def keep(self, place: int) -> None:
        """Store the top value."""
        if not 0 <= place < _MOST_MEMO:
            raise ValueError(f"it stores a value at {str(place)[:30]}")
        self.memo[place] = self.stack[-1]

    # ------------------------------------------------------------------------------------------------- names

    def named(self, module: Any, name: Any) -> Global:
        """A name; CheckpointError if it is a way to run code."""
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name is no text")
        found = self.names.get((module, name))
        if found is None:
            shown = "".join(c if c.isprintable() else "?" for c in f"{module}.{name}"[:100])
            if runs_code(module, name):
                raise UnsafeError(
                    f"{self.where}: refused: its pickle refers to {shown}, which runs code and belongs in no file of "
                    "weights. Nothing was run; take the weights as .safetensors, or from another place"
                )
            if len(self.names) >= MOST:
                raise ValueError(f"it refers to more than {MOST:,} names")
            found = self.names[module, name] = Global(module, name)
        return found

    def global_(self, path: str) -> None:
        """A name given as two lines, joined by genops."""
        self.push(self.named(*path.split(" ", 1)))

    def stack_global(self) -> None:
        """A name given by two values."""
        name, module = self.stack.pop(), self.stack.pop()
        self.push(self.named(module, name))

    def extension(self) -> None:
        """A name given by a number in a table of the writing process."""
        raise UnsafeError(
            f"{self.where}: refused: its pickle uses the extension registry, by which names are hidden; "
            "torch.save never does"
        )

    def call(self, function: Any, args: Any) -> Any:
        """Stand-in for the result of a call."""
        if type(args) is not tuple:
            raise ValueError("it calls with no tuple of arguments")
        if isinstance(function, Inert):
            return function
        if not isinstance(function, Global):
            raise ValueError("it calls what is no name")
        if function.path == "torch._tensor._rebuild_from_type_v2":  # a tensor with attributes, or of a subclass
            return self.call(args[0], args[2]) if len(args) == 4 and args[0] != function else Inert(function.path)
        known = CALLS.get(function.path)
        if known is None:
            return Inert(function.path)
        self.copied += sum(len(a) * (16 if type(a) in (list, dict) else 1) for a in args if type(a) in _SIZED)
        if self.copied > _MOST_COPIED:
            raise ValueError("its calls copy more than any checkpoint's")
        return known(*args)

    def reduce(self) -> None:
        """REDUCE and NEWOBJ."""
        args = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], args)

    def reduce_with_keywords(self) -> None:
        """NEWOBJ_EX."""
        self.stack.pop()
        self.reduce()

    def instance(self, path: str) -> None:
        """INST: the name in two lines, the arguments above the mark."""
        named = self.named(*path.split(" ", 1))
        self.push(self.call(named, tuple(self.marked())))

    def object(self) -> None:
        """OBJ: the class and the arguments above the mark."""
        named, *args = self.marked()
        self.push(self.call(named, tuple(args)))

    def build(self) -> None:
        """BUILD: an object's state; no object here has one."""
        self.stack.pop()
        self.stack[-1]

    # -------------------------------------------------------------------------------------------- containers

    def extend(self, values: list[Any]) -> None:
        """Put `values` in the list below them."""
        target = self.stack[-1]
        if type(target) is list:
            target.extend(values)
        elif not isinstance(target, Inert):
            raise ValueError("it appends to what is no list")

    def fill(self, values: list[Any]) -> None:
        """Put keys and values in the dictionary below them."""
        target = self.stack[-1]
        if type(target) is dict:
            target.update(_items(values))
        elif not isinstance(target, Inert):
            raise ValueError("it sets items of what is no dictionary")

    def add(self) -> None:
        """ADDITEMS: the members of a set are of no use here."""
        self.marked()
        if not isinstance(self.stack[-1], Inert):
            raise ValueError("it adds to what is no set")

    def tuple_of(self, count: int) -> None:
        """A tuple of the top values."""
        if len(self.stack) < count:
            raise IndexError
        values = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.push(values)

    # ------------------------------------------------------------------------------------------------ values

    def old_text(self, text: str) -> None:
        """A string of Python 2, without an encoding; genops gives it as Latin-1."""
        try:
            self.push(text.encode("latin-1").decode("utf-8"))
        except UnicodeDecodeError:
            self.push(text)

    def frame(self, count: int) -> None:
        """FRAME: a number of bytes belonging together, of interest to a stream alone."""
        if count > len(self.data) - self.source.tell():
            raise ValueError("it was cut short within a frame")

    def protocol(self, number: int) -> None:
        """PROTO."""
        if number > 5:
            raise ValueError("its protocol is newer than 5")


_SIZED = (list, dict, tuple, str, bytes)


def _items(values: list[Any]) -> dict[str, Any]:
    """Keys other than text (the classes of callbacks) lead to nothing needed; hashing them might not end."""
    if len(values) % 2:
        raise ValueError("a key has no value")
    return {k: v for k, v in zip(values[::2], values[1::2], strict=True) if type(k) is str}


_NUMBERS = "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT"
_TEXTS = "UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8"
_OPERATIONS: dict[str, Callable[[_Interpreter, Any], None]] = {
    **dict.fromkeys(f"{_NUMBERS} {_TEXTS}".split(), _Interpreter.push),
    "NONE": lambda w, _: w.push(None),
    "NEWTRUE": lambda w, _: w.push(True),
    "NEWFALSE": lambda w, _: w.push(False),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _Interpreter.old_text),
    "MARK": lambda w, _: w.mark(),
    "POP": lambda w, _: w.drop(),
    "POP_MARK": lambda w, _: (w.marked(), None)[1],
    "DUP": lambda w, _: w.push(w.stack[-1]),
    "EMPTY_LIST": lambda w, _: w.push([]),
    "EMPTY_DICT": lambda w, _: w.push({}),
    "EMPTY_TUPLE": lambda w, _: w.push(()),
    "EMPTY_SET": lambda w, _: w.push(Inert("set")),
    "LIST": lambda w, _: w.collect(list),
    "DICT": lambda w, _: w.collect(_items),
    "TUPLE": lambda w, _: w.collect(tuple),
    "FROZENSET": lambda w, _: w.collect(lambda values: Inert("frozenset")),
    "TUPLE1": lambda w, _: w.tuple_of(1),
    "TUPLE2": lambda w, _: w.tuple_of(2),
    "TUPLE3": lambda w, _: w.tuple_of(3),
    "APPEND": lambda w, _: w.extend([w.stack.pop()]),
    "APPENDS": lambda w, _: w.extend(w.marked()),
    "SETITEM": lambda w, _: w.fill([w.stack.pop(), w.stack.pop()][::-1]),
    "SETITEMS": lambda w, _: w.fill(w.marked()),
    "ADDITEMS": lambda w, _: w.add(),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda w, place: w.push(w.memo[place])),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Interpreter.keep),
    "MEMOIZE": lambda w, _: w.keep(len(w.memo)),
    "PERSID": lambda w, saved: w.push(w.persistent(saved)),
    "BINPERSID": lambda w, _: w.push(w.persistent(w.stack.pop())),
    "GLOBAL": _Interpreter.global_,
    "STACK_GLOBAL": lambda w, _: w.stack_global(),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), lambda w, _: w.extension()),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda w, _: w.reduce()),
    "NEWOBJ_EX": lambda w, _: w.reduce_with_keywords(),
    "INST": _Interpreter.instance,
    "OBJ": lambda w, _: w.object(),
    "BUILD": lambda w, _: w.build(),
    "PROTO": _Interpreter.protocol,
    "FRAME": _Interpreter.frame,
}
"""Opcode -> its effect; those of out-of-band buffers are missing, since no file has such buffers."""
