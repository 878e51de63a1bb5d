"""Pickles, walked and never run: an interpreter of the opcodes whose only results are plain values and descriptions.

Python's own unpickler is not used. A name stands for itself
(:class:`~ldm_core.weights.containers.pickle_names.Global`); calling
one that describes a tensor gives the description, calling any other gives an object that does nothing. Names that are
known ways to run code are refused. The bytes, the operations and the names are limited, so that memory and time are.
Imports no torch.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import Any

from ldm_core.errors import CheckpointError, UnsafeError
from ldm_core.weights.containers.pickle_names import MOST, Global, runs_code
from ldm_core.weights.containers.pickled_tensors import CALLS, Inert

LIMIT = 64 << 20
"""Bytes that a checkpoint's pickle may have; the tensors lie outside it."""
_MOST_OPERATIONS = 2_000_000  # a tensor takes 35; Stable Diffusion with all its optimizer has some 10,000
_MOST_COPIED = 64 << 20  # bytes that calls may copy: a list passed again and again would fill any memory
_LONGEST_NUMBER = 64  # bytes
_MOST_MEMO = 1 << 32


def walk(data: bytes, start: int, where: str, persistent: Callable[[Any], Any]) -> tuple[Any, int]:
    """The value of the pickle that begins at `start`, and where it ends. Dictionaries keep their text keys alone.

    `where` names file and member in errors; `persistent` turns a persistent id into a value. CheckpointError where
    the pickle is damaged or too large, UnsafeError where it mentions a way to run code.
    """
    walker = _Walker(data, start, where, persistent)
    try:
        return walker.run(), walker.at
    except CheckpointError:
        raise
    except (LookupError, ValueError, TypeError, OverflowError, RecursionError, struct.error) as error:
        raise CheckpointError(
            f"{where}: its pickle does not read at byte {walker.at} ({_said(error)}); the file is damaged, or "
            "torch.save did not write it"
        ) from None


def _said(error: Exception) -> str:
    if isinstance(error, LookupError):
        return "it takes a value that was never stored"
    text = str(error) or type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in text[:120])


class _Walker:
    def __init__(self, data: bytes, start: int, where: str, persistent: Callable[[Any], Any]) -> None:
        self.data, self.at, self.where, self.persistent = data, start, where, persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.names: dict[tuple[str, str], Global] = {}
        self.copied = 0

    def run(self) -> Any:
        """Follow the opcodes up to STOP."""
        for _ in range(_MOST_OPERATIONS):
            if self.at >= len(self.data):
                raise ValueError("it has no end")
            code = self.data[self.at]
            self.at += 1
            if code == 0x2E:  # STOP
                return self.stack.pop()
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise ValueError(f"there is no operation 0x{code:02x}")
            operation(self)
        raise ValueError(f"it has more than {_MOST_OPERATIONS:,} operations")

    # ----------------------------------------------------------------------------------------------- reading

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        end = self.at + count
        if count < 0:
            raise ValueError("a length is negative")
        if end > len(self.data):
            raise ValueError(f"it was cut short: {count} bytes are missing")
        found = self.data[self.at : end]
        self.at = end
        return found

    def number(self, code: str) -> Any:
        """One packed little-endian number."""
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def line(self, most: int = 4096) -> bytes:
        """Text up to the next newline."""
        end = self.data.find(b"\n", self.at, self.at + most + 1)
        if end < 0:
            raise ValueError("a line has no end")
        found = self.data[self.at : end]
        self.at = end + 1
        return found

    # ------------------------------------------------------------------------------------------------- stack

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def marked(self) -> list[Any]:
        """What lies above the last mark, which goes."""
        found, self.stack = self.stack, self.marks.pop()
        return found

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
        """A name; CheckpointError where it is a way to run code."""
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

    def global_(self) -> None:
        """A name given as two lines."""
        module, name = (self.line().decode("utf-8") for _ in range(2))
        self.push(self.named(module, name))

    def stack_global(self) -> None:
        """A name given by two values."""
        name, module = self.stack.pop(), self.stack.pop()
        self.push(self.named(module, name))

    def extension(self) -> None:
        """A name given by a number in a table of the process that wrote."""
        raise UnsafeError(
            f"{self.where}: refused: its pickle uses the extension registry, by which names are hidden; "
            "torch.save never does"
        )

    def call(self, function: Any, args: Any) -> Any:
        """What stands for the result of a call."""
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

    def instance(self) -> None:
        """INST: the name in two lines, the arguments above the mark."""
        module, name = (self.line().decode("utf-8") for _ in range(2))
        named = self.named(module, name)
        args = tuple(self.marked())
        self.push(self.call(named, args))

    def object(self) -> None:
        """OBJ: the class and the arguments above the mark."""
        named, *args = self.marked()
        self.push(self.call(named, tuple(args)))

    def build(self) -> None:
        """BUILD: an object's state, which nothing here has."""
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
        """ADDITEMS: what a set holds is of no use here."""
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

    def text(self, count: int) -> str:
        """UTF-8, as pickle has it."""
        return self.take(count).decode("utf-8", "surrogatepass")

    def old_text(self, data: bytes) -> str:
        """A string of Python 2, which had no encoding."""
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return data.decode("latin-1")

    def quoted(self) -> str:
        """STRING: a literal in quotes."""
        line = self.line(1 << 20).strip()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise ValueError("a text is not in quotes")
        return self.old_text(codecs.escape_decode(line[1:-1])[0])  # type: ignore[attr-defined]

    def decimal(self) -> Any:
        """INT: a number, or a truth value."""
        line = self.line(_LONGEST_NUMBER)
        return {b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line)

    def long(self, count: int) -> int:
        """LONG1 and LONG4."""
        if count > _LONGEST_NUMBER:
            raise ValueError(f"a number has {count} bytes")
        return int.from_bytes(self.take(count), "little", signed=True)

    def frame(self) -> None:
        """FRAME: how many bytes belong together, which only matters to a stream."""
        if self.number("<Q") > len(self.data) - self.at:
            raise ValueError("it was cut short within a frame")

    def protocol(self) -> None:
        """PROTO."""
        if self.number("<B") > 5:
            raise ValueError("its protocol is newer than 5")


_SIZED = (list, dict, tuple, str, bytes)


def _items(values: list[Any]) -> dict[str, Any]:
    """Keys that are no text (the classes of callbacks) lead to nothing that is needed; hashing them might not end."""
    if len(values) % 2:
        raise ValueError("a key has no value")
    return {k: v for k, v in zip(values[::2], values[1::2], strict=True) if type(k) is str}


def _pushing(value: Callable[[_Walker], Any]) -> Callable[[_Walker], None]:
    def operation(w: _Walker) -> None:
        found = value(w)  # before the stack is looked up: a mark may have replaced it
        w.push(found)

    return operation


def _named_by_number(w: _Walker) -> None:
    w.extension()


_OPERATIONS: dict[int, Callable[[_Walker], None]] = {
    ord("("): _Walker.mark,
    ord("0"): _Walker.drop,
    ord("1"): lambda w: (w.marked(), None)[1],
    ord("2"): lambda w: w.push(w.stack[-1]),
    ord("F"): _pushing(lambda w: float(w.line(_LONGEST_NUMBER))),
    ord("I"): _pushing(_Walker.decimal),
    ord("J"): _pushing(lambda w: w.number("<i")),
    ord("K"): _pushing(lambda w: w.number("<B")),
    ord("L"): _pushing(lambda w: int(w.line(_LONGEST_NUMBER).rstrip(b"L"))),
    ord("M"): _pushing(lambda w: w.number("<H")),
    ord("N"): _pushing(lambda w: None),
    ord("P"): _pushing(lambda w: w.persistent(w.line().decode("ascii"))),
    ord("Q"): _pushing(lambda w: w.persistent(w.stack.pop())),
    ord("R"): _Walker.reduce,
    ord("S"): _pushing(_Walker.quoted),
    ord("T"): _pushing(lambda w: w.old_text(w.take(w.number("<i")))),
    ord("U"): _pushing(lambda w: w.old_text(w.take(w.number("<B")))),
    ord("V"): _pushing(lambda w: w.line(1 << 20).decode("raw-unicode-escape")),
    ord("X"): _pushing(lambda w: w.text(w.number("<I"))),
    ord("a"): lambda w: w.extend([w.stack.pop()]),
    ord("b"): _Walker.build,
    ord("c"): _Walker.global_,
    ord("d"): _pushing(lambda w: _items(w.marked())),
    ord("}"): _pushing(lambda w: {}),
    ord("e"): lambda w: w.extend(w.marked()),
    ord("g"): _pushing(lambda w: w.memo[int(w.line(_LONGEST_NUMBER))]),
    ord("h"): _pushing(lambda w: w.memo[w.number("<B")]),
    ord("i"): _Walker.instance,
    ord("j"): _pushing(lambda w: w.memo[w.number("<I")]),
    ord("l"): _pushing(lambda w: w.marked()),
    ord("]"): _pushing(lambda w: []),
    ord("o"): _Walker.object,
    ord("p"): lambda w: w.keep(int(w.line(_LONGEST_NUMBER))),
    ord("q"): lambda w: w.keep(w.number("<B")),
    ord("r"): lambda w: w.keep(w.number("<I")),
    ord("s"): lambda w: w.fill([w.stack.pop(), w.stack.pop()][::-1]),
    ord("t"): _pushing(lambda w: tuple(w.marked())),
    ord(")"): _pushing(lambda w: ()),
    ord("u"): lambda w: w.fill(w.marked()),
    ord("G"): _pushing(lambda w: w.number(">d")),
    ord("B"): _pushing(lambda w: w.take(w.number("<I"))),
    ord("C"): _pushing(lambda w: w.take(w.number("<B"))),
    0x80: _Walker.protocol,
    0x81: _Walker.reduce,
    0x82: _named_by_number,
    0x83: _named_by_number,
    0x84: _named_by_number,
    0x85: lambda w: w.tuple_of(1),
    0x86: lambda w: w.tuple_of(2),
    0x87: lambda w: w.tuple_of(3),
    0x88: _pushing(lambda w: True),
    0x89: _pushing(lambda w: False),
    0x8A: _pushing(lambda w: w.long(w.number("<B"))),
    0x8B: _pushing(lambda w: w.long(w.number("<i"))),
    0x8C: _pushing(lambda w: w.text(w.number("<B"))),
    0x8D: _pushing(lambda w: w.text(w.number("<Q"))),
    0x8E: _pushing(lambda w: w.take(w.number("<Q"))),
    0x8F: _pushing(lambda w: Inert("set")),
    0x90: _Walker.add,
    0x91: _pushing(lambda w: (w.marked(), Inert("frozenset"))[1]),
    0x92: _Walker.reduce_with_keywords,
    0x93: _Walker.stack_global,
    0x94: lambda w: w.keep(len(w.memo)),
    0x95: _Walker.frame,
    0x96: _pushing(lambda w: w.take(w.number("<Q"))),
}
"""Opcode -> what it does; those of out-of-band buffers are missing, since no file has such buffers."""
