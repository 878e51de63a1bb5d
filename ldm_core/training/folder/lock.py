"""A run's folder belongs to one run at a time: a file ``lock`` names its holder and is kept fresh.

On the machine of its holder a lock is stale when its process is gone; anywhere else, when it stops being refreshed.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

from ldm_core import storage
from ldm_core.config.documents import parse_json
from ldm_core.errors import LockError, StorageError
from ldm_core.training.engine.collective import from_main
from ldm_core.training.engine.world import World

FILE = "lock"
_NOBODY = "an unknown machine"
BEAT = 20.0
"""Seconds between refreshes."""
PATIENCE = 75.0
"""Seconds between refreshes of another machine's lock, before it is stale."""
OLD = 900.0
"""Seconds until it is stale without a look; clocks of machines differ by less."""


@attrs.frozen
class Holder:
    """The holder of a lock."""

    token: str
    host: str
    machine: str
    """Tells machines, boots and containers of the same host name apart; process numbers mean nothing across them."""
    pid: int
    started: str
    """Start of the process, as the system counts it: a reused number is another process."""
    since: float
    beat: float

    @classmethod
    def me(cls) -> Holder:
        """Our own process, now, under a new token."""
        now = time.time()
        return cls(secrets.token_hex(8), socket.gethostname(), _machine(), os.getpid(), _start_of("self"), now, now)

    @classmethod
    def parse(cls, text: str) -> Holder | None:
        """Read a lock file; None if it does not read."""
        try:
            plain = parse_json(text, "it", ValueError)
            return cls(**{a.name: _KINDS[str(a.type)](plain[a.name]) for a in attrs.fields(cls)})
        except (ValueError, KeyError, TypeError, OverflowError):
            return None

    def text(self) -> str:
        """The content of the lock file."""
        return json.dumps(attrs.asdict(self), indent=1)

    @property
    def shown(self) -> str:
        """The holder, for a message."""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host}, since {since}"

    def gone(self) -> bool | None:
        """Say whether the process is certainly gone; None: it cannot be told from here."""
        if self.machine != _machine():
            return None
        if not Path("/proc/self").exists():
            return _gone_by_signal(self.pid)
        return _start_of(str(self.pid)) != self.started


_KINDS: dict[str, Callable[[Any], Any]] = {"str": str, "int": int, "float": float}


def _machine() -> str:
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # elsewhere than on Linux there is no proc: the host's name must do
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _start_of(pid: str) -> str:
    """A process's start in clock ticks since boot (field 22 of proc's stat); empty without such a process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    state, *fields = text.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]


def _gone_by_signal(pid: int) -> bool | None:
    if os.name != "posix":
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return None  # a process has the number; only its beat tells if it is the same one


class Lock:
    """A folder's lock, held from :meth:`take` to :meth:`release` and refreshed by a thread in between."""

    def __init__(self, url: str, holder: Holder, *, beat: float) -> None:
        self._url, self._holder, self._beat = url, holder, beat
        self._ended = threading.Event()
        self.lost = False
        """True if another run took it: this process was stopped or cut off for too long to refresh it."""
        self._thread = threading.Thread(target=self._keep, name="ldm-lock", daemon=True)
        self._thread.start()

    @classmethod
    def take(
        cls,
        folder: str,
        say: Callable[[str], None],
        *,
        beat: float = BEAT,
        patience: float = PATIENCE,
    ) -> Lock:
        """Take the lock of `folder`; :class:`LockError` if another run has it. A stale one is taken over with a
        note. The lock of another machine is watched for up to `patience` seconds before it counts as stale."""
        url = storage.join(folder, FILE)
        for _ in range(5):
            mine = Holder.me()
            if storage.create(url, mine.text().encode()):
                return cls(url, mine, beat=beat)
            there = _read(url)
            if there is None:
                continue  # released in between
            if there.host == _NOBODY and not _is_a_lock(url):
                raise LockError(f"{storage.shown(url)} is no lock of a run; move it away, or give another `out`")
            if not _stale(url, there, say, patience):
                raise LockError(
                    f"{storage.shown(folder)} is in use by another run ({there.shown}); wait for it, stop it, or give "
                    f"another `out`. If it is certainly gone, delete {storage.shown(url)}"
                )
            if _take_over(url, there, mine):
                say(f"the lock of {there.shown} was left behind and is taken over")
                return cls(url, mine, beat=beat)
        raise LockError(f"{storage.shown(folder)}: other runs keep taking its lock; try again, or give another `out`")

    def release(self) -> None:
        """Let go: remove the file, if it is still this process's."""
        self._ended.set()
        self._thread.join(timeout=5)
        try:
            there = _read(self._url)
            if there is not None and there.token == self._holder.token:
                storage.remove(self._url)
        except StorageError:
            pass  # it goes stale

    def _keep(self) -> None:
        while not self._ended.wait(self._beat):
            try:
                there = _read(self._url)
                if there is not None and there.token != self._holder.token:
                    self.lost = True
                    return
                if not self._ended.is_set():
                    storage.atomic_write(self._url, attrs.evolve(self._holder, beat=time.time()).text())
            except StorageError:
                continue  # the next beat may come through


@contextlib.contextmanager
def held(folder: str, world: World, say: Callable[[str], None]) -> Iterator[Lock | None]:
    """Hold the lock of `folder` inside the block: the first process of a run takes it for all of them. If it is
    another's, all raise :class:`LockError`. Gives the lock in the first process, None in the others."""
    taken: list[Lock] = []
    from_main(world, lambda: taken.append(Lock.take(folder, say)))
    try:
        yield taken[0] if taken else None
    finally:
        for lock in taken:
            lock.release()


def _read(url: str) -> Holder | None:
    """The holder, None without one. An unreadable lock counts as held by nobody known, for long."""
    try:
        text = storage.read_text(url)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    return Holder.parse(text) or Holder("", _NOBODY, "", 0, "", 0.0, 0.0)


def _is_a_lock(url: str) -> bool:
    """Say whether an unreadable file may be half of a lock: empty, or the begin of our JSON."""
    try:
        text = storage.read_text(url).strip()
    except StorageError:
        return False
    return not text or text.startswith('{"')


def _stale(url: str, holder: Holder, say: Callable[[str], None], patience: float) -> bool:
    gone = holder.gone()
    if gone is not None:
        return gone
    if time.time() - holder.beat > OLD:
        return True
    say(f"{storage.shown(url)} says that {holder.shown} is at work here; watching up to {patience:.0f} s if it lives")
    end = time.monotonic() + patience
    while time.monotonic() < end:
        time.sleep(min(1.0, patience / 10))
        now = _read(url)
        if now is None or now.token != holder.token:
            return now is None  # released: the next try to take it shows; or taken by a third
        if now.beat != holder.beat:
            return False
    return True


def _take_over(url: str, stale: Holder, mine: Holder) -> bool:
    """Replace a stale lock: of several processes, the one with the claim on this very holder does it, and only
    while the lock is still the holder's."""
    claim = f"{url}-{stale.token or 'unknown'}"
    if not storage.create(claim, mine.text().encode()):
        other = _read(claim)
        if other is not None and (other.gone() or time.time() - other.beat > OLD):
            storage.remove(claim)  # its maker died in the middle; the next try is a fresh one
        else:
            time.sleep(0.2)
        return False
    try:
        now = _read(url)
        if now is None or now.token != stale.token:
            return False
        storage.atomic_write(url, mine.text())
        return True
    finally:
        storage.remove(claim)
