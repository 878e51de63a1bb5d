"""Pickles made to do harm or to confuse, byte by byte: what runs code, how it is said, where it hides."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

WAYS: tuple[str, ...] = (
    "os.system",
    "posix.system",
    "nt.system",
    "os.popen",
    "os.execv",
    "subprocess.Popen",
    "subprocess.check_output",
    "builtins.eval",
    "builtins.exec",
    "builtins.compile",
    "builtins.__import__",
    "builtins.getattr",
    "builtins.setattr",
    "builtins.open",
    "builtins.globals",
    "__builtin__.eval",
    "__builtin__.apply",
    "importlib.import_module",
    "runpy.run_path",
    "socket.create_connection",
    "pty.spawn",
    "shutil.rmtree",
    "ctypes.CDLL",
    "webbrowser.open",
    "pickle.loads",
    "_pickle.loads",
    "marshal.loads",
    "types.FunctionType",
    "types.CodeType",
    "code.interact",
    "operator.attrgetter",
    "operator.methodcaller",
    "functools.partial",
    "functools.reduce",
    "torch.load",
    "torch.hub.load",
    "torch.jit.load",
    "torch.serialization.load",
    "torch.storage._load_from_bytes",
    "torch.utils.cpp_extension.load",
    "sys.exit",
    "numpy.load",
    "numpy.testing._private.utils.runstring",
    "pip.main",
    "timeit.timeit",
    "cProfile.run",
    "pdb.run",
    "asyncio.run",
    "copyreg.add_extension",
    "urllib.request.urlopen",
    "io.open",
    "logging.config.listen",
    "multiprocessing.Process",
    "commands.getoutput",
    "dill.loads",
    "torch._utils.os.system",
    "collections.abc.sys.modules",
    "collections.OrderedDict.__init__.__globals__.get",
    "numpy.core.multiarray.builtins.eval",
)
"""Names that run code, or lead there."""


def text(value: str) -> bytes:
    """A string of protocol 2 and later."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def named(path: str) -> bytes:
    """GLOBAL: module and name as two lines."""
    module, _, name = path.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def reduced(path: str, argument: str) -> bytes:
    """`path` called with one text."""
    return named(path) + text(argument) + b"\x85R"


def on_stack(path: str, argument: str) -> bytes:
    """STACK_GLOBAL, the module being the first word: names of protocol 4 may have dots."""
    module, _, name = path.partition(".")
    return text(module) + text(name) + b"\x93" + text(argument) + b"\x85R"


def spoken(path: str, argument: str) -> Iterator[tuple[str, bytes]]:
    """The same call by every opcode that makes one."""
    module, _, name = path.rpartition(".")
    yield "reduce", reduced(path, argument)
    yield "stack_global", on_stack(path, argument)
    yield "inst", b"(" + f"S'{argument}'\n".encode() + f"i{module}\n{name}\n".encode()
    yield "obj", b"(" + named(path) + text(argument) + b"o"
    yield "newobj", named(path) + text(argument) + b"\x85\x81"
    yield "newobj_ex", named(path) + text(argument) + b"\x85}\x92"
    yield "build", b"ctorch.nn\nModule\n)\x81}" + text("x") + reduced(path, argument) + b"sb"
    yield "setstate", b"ctorch.nn\nModule\n)\x81" + named(path) + b"b"
    yield "unused", named(path)
    yield "dropped", reduced(path, argument) + b"0N"
    yield "memo", reduced(path, argument) + b"q\x070h\x07"
    yield "python2_text", b"U" + bytes([len(module)]) + module.encode() + b"V" + name.encode() + b"\n\x93)R"


def hidden(call: bytes, tensor: bytes) -> Iterator[tuple[str, bytes]]:
    """A call at every place of a checkpoint; `tensor` pushes a good one."""
    state = b"}" + text("w") + tensor + b"s"
    good = text("state_dict") + state
    yield "whole", call
    yield "beside", b"}(" + good + text("extra") + call + b"u"
    yield "before", b"}(" + text("extra") + call + good + b"u"
    yield "in_state", b"}" + text("state_dict") + b"}(" + text("w") + tensor + text("v") + call + b"us"
    yield "in_list", b"}(" + good + text("lr_schedulers") + b"](" + call + b"eu"
    yield "in_tuple", b"}(" + good + text("extra") + call + b"\x85\x85\x85u"
    yield "as_key", b"}(" + good + text("callbacks") + b"}" + call + b"Nsu"
    yield "in_set", b"}(" + good + text("extra") + b"\x8f(" + call + b"\x90u"
    yield "as_state", b"}(" + good + text("extra") + b"ctorch.nn\nModule\n)\x81" + call + b"bu"
    yield "after_good", b"}" + good + b"s" + call + b"0"
    yield "in_id", b"}(" + good + text("x") + b"(" + text("storage") + call + text("0") + text("cpu") + b"K\x01tQu"
    yield "deep", b"}(" + good + text("extra") + b"]" * 200 + call + b"a" * 200 + b"u"


class Command:
    """What Python's own pickler writes for an object with ``__reduce__``."""

    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.args


def pickled(canary: Path) -> Iterator[tuple[str, bytes]]:
    """By Python's pickler, in every protocol: a shell command and an expression that would make the canary."""
    code = f"open({str(canary)!r}, 'w').close()"
    for protocol in range(6):
        for name, command in (
            ("system", Command(os.system, f"touch {canary}")),
            ("exec", Command(exec, code)),
            ("eval", Command(eval, code)),
        ):
            value = {"state_dict": {}, "callbacks": [command]} if protocol % 2 else command
            yield f"{name}_protocol{protocol}", pickle.dumps(value, protocol)


def senseless(tensor: Callable[..., bytes]) -> Iterator[tuple[str, bytes]]:
    """Bodies (without PROTO and STOP) that describe no checkpoint; `tensor` describes one of any numbers."""

    def state(value: bytes) -> bytes:
        return b"}" + text("w") + value + b"s"

    huge = 1 << 61
    yield "negative_size", state(tensor(shape=(-1, 2)))
    yield "negative_stride", state(tensor(stride=(-3, 1)))
    yield "negative_offset", state(tensor(offset=-1))
    yield "overflowing_size", state(tensor(shape=(huge, huge)))
    yield "overflow_to_small", state(tensor(shape=(1 << 32, 1 << 32)))
    yield "enormous_number", state(tensor(shape=(1 << 70, 1)))
    yield "beyond_storage", state(tensor(shape=(3, 3)))
    yield "offset_beyond", state(tensor(offset=1))
    yield "stride_beyond", state(tensor(stride=(4, 1)))
    yield "expanded", state(tensor(shape=(1 << 40,), stride=(0,)))
    yield "fewer_strides", state(tensor(stride=(1,)))
    yield "many_axes", state(tensor(shape=(1,) * 65, stride=(1,) * 65))
    yield "numel_beyond_member", state(tensor(numel=7))
    yield "numel_negative", state(tensor(numel=-6))
    yield "numel_enormous", state(tensor(numel=1 << 63))
    yield "unknown_storage", state(tensor(key="9"))
    yield "storage_outside", state(tensor(key="../0"))
    yield "storage_by_number", state(tensor(key=0))
    yield "unknown_class", state(tensor(kind="torch.WrongStorage"))
    yield "wider_elements", state(tensor(kind="torch.DoubleStorage"))
    yield "id_no_tuple", state(b"Nq\x00Q")
    yield "id_of_text", b"Phello\n"
    yield "no_state", b"}" + text("epoch") + b"K\x01s"
    yield "empty_state", b"}" + text("state_dict") + b"}s"
    yield "two_states", b"}(" + text("a") + state(tensor()) + text("b") + state(tensor()) + b"u"
    yield "a_list", b"](" + tensor() + b"e"
    yield "a_tensor", tensor()
    yield "a_module", b"ctorch.nn.modules.linear\nLinear\n)\x81}b"
    yield "name_with_newline", b"}" + text("w\n\x1b[2J") + tensor() + b"s"
    yield "long_name", b"}" + text("w" * 2000) + tensor() + b"s"
    yield "ext1", b"\x82\x01)R"
    yield "ext2", b"\x83\x01\x00)R"
    yield "ext4", b"\x84\x01\x00\x00\x00)R"
    yield "buffer", b"\x97"
    yield "protocol6", b"\x80\x06N"
    yield "unknown_opcode", b"\xff"
    yield "empty_stack", b"R"
    yield "pop_nothing", b"0"
    yield "no_mark", b"K\x01u"
    yield "odd_items", b"}(" + text("w") + b"u"
    yield "unset_memo", b"h\x05"
    yield "memo_enormous", b"Np99999999999999999999\n"
    yield "memo_negative", b"Np-1\n"
    yield "text_beyond", b"X\xff\xff\xff\x7fabc"
    yield "text8_beyond", b"\x8d" + b"\xff" * 7 + b"\x7fabc"
    yield "bytes_negative", b"T\xff\xff\xff\xffabc"
    yield "frame_beyond", b"\x95" + b"\xff" * 8 + b"N"
    yield "number_of_megabytes", b"\x8b\x00\x00\x10\x00" + b"\x01" * (1 << 20)
    yield "number_negative_length", b"\x8b\xff\xff\xff\xff"
    yield "number_of_digits", b"I" + b"9" * 5000 + b"\n"
    yield "not_utf8", b"X\x02\x00\x00\x00\xff\xfe"
    yield "no_quotes", b"Shello\n"
    yield "call_no_name", b"K\x01)R"
    yield "call_no_tuple", named("collections.OrderedDict") + b"]R"
    yield "append_to_number", b"K\x01Na"
    yield "item_of_number", b"K\x01NNs"
    yield "unhashable_pairs", named("collections.OrderedDict") + b"](]e\x85R"
    yield "lists_in_lists", b"]" * 200_000 + b"a" * 199_999
    yield "tuples_as_key", b"}" + b")" + b"\x85" * 200_000 + b"Ns"
    yield "shared_tuples_as_key", b"}" + b")" + b"2\x86" * 100 + b"Ns"
    yield "itself", b"]q\x00h\x00a"
    yield "doubling_lists", b"]" + b"".join(b"q%c0](h%ch%ce" % (n, n, n) for n in range(100))
    yield "copied_lists", (b"](" + b"N" * 100_000 + b"eq\x000" + (named("torch.Size") + b"h\x00\x85R0") * 500 + b"N")
    yield "many_names", b"".join(f"cmodule{n}\nname\n0".encode() for n in range(10_100)) + b"N"
    yield "aliases", b"}(" + b"".join(text(f"w{n}") + tensor(of="big") for n in range(80)) + b"u"
