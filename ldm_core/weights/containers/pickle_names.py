"""Names in a pickle: known ones, harmless strangers, and ways to run code.

No name is ever imported or called, so the list of ways to run code is no wall: it is how a file that was made to do
harm is told from an old one that mentions a training library, and refused by name. Imports no torch.
"""

from __future__ import annotations

import attrs


def _words(text: str) -> list[str]:
    return text.split()


_RUNS_CODE = frozenset(
    _words(
        "os posix nt posixpath ntpath subprocess _posixsubprocess commands popen2 sys importlib _frozen_importlib "
        "_frozen_importlib_external imp runpy zipimport pkgutil site sysconfig socket _socket ssl socketserver select "
        "pty tty shutil tempfile glob fileinput io _io _pyio ctypes _ctypes cffi _cffi_backend mmap webbrowser "
        "antigravity pickle _pickle cPickle pickletools dill cloudpickle joblib marshal shelve jsonpickle types code "
        "codeop operator _operator functools _functools itertools asyncio multiprocessing concurrent threading "
        "_thread signal atexit sched http urllib urllib2 requests httpx aiohttp ftplib smtplib telnetlib poplib "
        "imaplib xmlrpc cgi wsgiref pip setuptools distutils ensurepip venv pdb bdb timeit trace profile cProfile "
        "pydoc doctest unittest inspect gc linecache platform pexpect paramiko fabric sh plumbum invoke sqlite3 ast "
        "symtable rlcompleter readline cmd lib2to3 idlelib turtle tkinter nose pytest _pytest bz2 gzip lzma zipfile "
        "tarfile zipapp copy copyreg copy_reg"
    )
)
"""Modules of which nothing belongs in a file of weights, but for the names in `_HARMLESS`."""

_HARMLESS = frozenset(
    _words(
        "types.SimpleNamespace copyreg._reconstructor copy_reg._reconstructor itertools.count itertools.chain "
        "torch.serialization._get_layout"
    )
)

_RUNS_CODE_IN = tuple(
    _words(
        "torch.hub torch.jit torch.package torch.serialization torch.storage._load_from_bytes torch.load torch.save "
        "torch.compile torch.classes torch.ops torch.distributed.rpc torch.multiprocessing torch.utils.cpp_extension "
        "torch.utils.collect_env torch.utils.model_zoo torch.utils.bottleneck torch._dynamo torch._inductor "
        "torch.fx.graph_module torch.testing._internal torch.from_file torch.UntypedStorage.from_file numpy.load "
        "numpy.save numpy.testing numpy.f2py numpy.distutils numpy.fromfile numpy.memmap numpy.lib.npyio "
        "numpy.ctypeslib pandas.eval pandas.read_pickle pandas.io transformers.dynamic_module_utils hydra.utils "
        "logging.config logging.FileHandler codecs.open"
    )
)
"""Names, with all below them, that run code, or read and write files, in otherwise harmless packages."""

_BUILTINS = frozenset({"builtins", "__builtin__", "__builtins__"})
_PLAIN_BUILTINS = frozenset(
    _words(
        "object int float complex bool str bytes bytearray list dict tuple set frozenset slice range type long "
        "unicode xrange basestring Ellipsis NotImplemented None True False"
    )
)
"""The only names of `builtins` that data has, besides errors."""

_MODULES = frozenset(_words("os posix nt sys subprocess builtins importlib ctypes shutil socket pty runpy"))
"""As part of a longer name, these are reached through a module that imports them."""
_FUNCTIONS = frozenset(
    _words("system popen Popen eval exec execfile execv spawn getattr setattr delattr import_module fork unlink rmtree")
)
"""As the name itself."""

MOST = 10_000
"""Different names that a pickle may mention."""


@attrs.frozen
class Global:
    """A name in a pickle; it stands for nothing."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """``collections.OrderedDict``."""
        return f"{self.module}.{self.name}"


def runs_code(module: str, name: str) -> bool:
    """True if `module`.`name` is a known way to run code, or could only be there for that."""
    path = f"{module}.{name}"
    if path in _HARMLESS:
        return False
    if module in _BUILTINS:
        return name not in _PLAIN_BUILTINS and not name.endswith(("Error", "Exception", "Warning"))
    parts, names = path.split("."), name.split(".")
    if parts[0] in _RUNS_CODE or _MODULES & set(parts[1:]) or _FUNCTIONS & set(names):
        return True
    if any(part.startswith("__") and part.endswith("__") for part in (*parts[1:], *names)):
        return True
    return any(path == each or path.startswith(each + ".") for each in _RUNS_CODE_IN)
