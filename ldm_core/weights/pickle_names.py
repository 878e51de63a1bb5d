"""Which names in a pickle are known, which are harmless strangers, and which are ways to run code.

No name is ever imported or called, so the list of ways to run code is no wall: it is how a file that was made to do
harm is told from an old one that mentions a training library, and refused by name. Imports no torch.
"""

from __future__ import annotations

import attrs


def _words(text: str) -> list[str]:
    return text.split()


_RUNS_CODE = frozenset(
    _words(
        "os posix nt posixpath ntpath subprocess _posixsubprocess commands popen2 sys importlib "
        "_frozen_importlib _frozen_importlib_external imp runpy zipimport pkgutil site sysconfig socket _socket "
        "ssl socketserver select pty tty shutil tempfile glob pathlib._local fileinput io _io ctypes _ctypes "
        "cffi _cffi_backend mmap webbrowser antigravity pickle _pickle cPickle pickletools dill cloudpickle "
        "joblib marshal shelve jsonpickle types code codeop _codeop operator _operator functools _functools "
        "itertools asyncio multiprocessing concurrent threading _thread signal atexit sched http urllib urllib2 "
        "requests httpx aiohttp ftplib smtplib telnetlib poplib imaplib xmlrpc cgi wsgiref pip setuptools "
        "distutils ensurepip venv pdb bdb timeit trace profile cProfile pydoc doctest unittest inspect gc "
        "linecache traceback platform pexpect paramiko fabric sh plumbum invoke sqlite3 ast symtable builtin "
        "resource faulthandler tracemalloc rlcompleter readline cmd lib2to3 idlelib turtle tkinter nose pytest "
        "_pytest"
    )
)
"""Modules of which nothing belongs in a file of weights."""

_RUNS_CODE_IN = (
    "torch.hub",
    "torch.jit",
    "torch._C",
    "torch.package",
    "torch.serialization",
    "torch.storage._load_from_bytes",
    "torch.load",
    "torch.save",
    "torch.compile",
    "torch.classes",
    "torch.ops",
    "torch.distributed",
    "torch.multiprocessing",
    "torch.utils.cpp_extension",
    "torch.utils.collect_env",
    "torch.utils.model_zoo",
    "torch.utils.data.datapipes",
    "torch.utils._config_module",
    "torch._dynamo",
    "torch._inductor",
    "torch.fx",
    "torch.testing",
    "torch.onnx",
    "torch.functional",
    "numpy.load",
    "numpy.testing",
    "numpy.f2py",
    "numpy.distutils",
    "numpy.fromfile",
    "numpy.memmap",
    "pandas.eval",
    "pandas.read_pickle",
    "pandas.io",
    "transformers.dynamic_module_utils",
    "hydra.utils",
    "logging.config",
    "pathlib.Path.write_text",
    "copyreg.__newobj__",
    "copyreg.add_extension",
    "distutils",
)
"""Names, with all below them, that run code in otherwise harmless packages."""

_HARMLESS = frozenset({"torch.serialization._get_layout"})

_BUILTINS = frozenset({"builtins", "__builtin__", "__builtins__"})
_PLAIN_BUILTINS = frozenset(
    _words(
        "object int float complex bool str bytes bytearray list dict tuple set frozenset slice range type long "
        "unicode xrange basestring Ellipsis NotImplemented None True False"
    )
)
"""The only names of `builtins` that data has."""

_NEVER = frozenset(
    _words(
        "os posix nt sys subprocess system popen eval exec execfile compile getattr setattr delattr globals "
        "locals vars import_module builtins attrgetter methodcaller itemgetter partial reduce shutil socket "
        "importlib ctypes pickle runpy pty"
    )
)
"""Words that make any dotted name one that runs code: a module's own imports are reached through it."""

MOST = 10_000
"""Different names that a pickle may mention."""


@attrs.frozen
class Global:
    """A name that a pickle mentions, which stands for nothing."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """``collections.OrderedDict``."""
        return f"{self.module}.{self.name}"


def runs_code(module: str, name: str) -> bool:
    """Whether `module`.`name` is a known way to run code, or could only be there for that."""
    path = f"{module}.{name}"
    if path in _HARMLESS:
        return False
    if module in _BUILTINS:
        return name not in _PLAIN_BUILTINS and not name.endswith(("Error", "Exception", "Warning"))
    parts = path.split(".")
    if parts[0] in _RUNS_CODE or parts[0] in _BUILTINS or any(part in _NEVER for part in parts[1:]):
        return True
    if any(part.startswith("__") and part.endswith("__") for part in (*parts[1:], *name.split("."))):
        return True
    return any(path == each or path.startswith(each + ".") for each in _RUNS_CODE_IN)
