"""The targets of a push, each written whole or not at all: a folder of this machine, or a repository on the Hub."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import attrs
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import disable_progress_bars

from ldm_core import storage
from ldm_core.config.documents import parse_json
from ldm_core.errors import ConfigError, DataError, StorageError, clean
from ldm_core.storage.failures import from_network, one_line, reason, status_of
from ldm_core.storage.hub import refusal

LIST = ".ldm-push.json"
"""The list of the files of a push; a later push may replace these."""
_OWN = {LIST, ".gitattributes"}
_REPOSITORY = re.compile(r"hf://(?:models/)?([\w][\w.-]*/[\w][\w.-]*)/?")
_CHUNK = 8 << 20


@attrs.frozen
class Push:
    """Files by name: bytes, or the URL of the source."""

    files: Mapping[str, bytes | str]

    def size(self, name: str) -> int:
        """Bytes of one."""
        content = self.files[name]
        return len(content) if isinstance(content, bytes) else storage.info(content).size

    def write(self, folder: Path) -> None:
        """Write them all, and their list."""
        for name, content in {**self.files, LIST: listed(self.files)}.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as target:
                if isinstance(content, bytes):
                    target.write(content)
                    continue
                with storage.open_read(content) as source:
                    shutil.copyfileobj(source, target, _CHUNK)


def listed(files: Mapping[str, bytes | str]) -> bytes:
    """The list of a push, as a file."""
    return (json.dumps({"format": 1, "files": sorted(files)}, indent=1) + "\n").encode()


def names_in(text: bytes, where: str) -> set[str]:
    """The names in a list; DataError if it is none."""
    found = parse_json(text, where, DataError)
    names = found.get("files") if isinstance(found, Mapping) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{where}: is no list of a push; give another place")
    return set(names)


def repository(target: str) -> str:
    """``OWNER/NAME`` of an address on the Hub, "" for a local folder; ConfigError for any other place."""
    if storage.protocol(target) == "hf":
        if not (match := _REPOSITORY.fullmatch(target)):
            raise ConfigError(
                f"{clean(storage.shown(target), 120)}: expected hf://OWNER/NAME, a repository of models without a path"
            )
        return match[1]
    if storage.local_path(target) is None:
        raise ConfigError(f"{storage.shown(target)}: expected hf://OWNER/NAME or a folder on this machine")
    return ""


# ------------------------------------------------------------------------------------------------------- a folder


def require_folder(target: str) -> None:
    """ConfigError if there is something, and no push wrote it."""
    path = storage.local_path(target)
    assert path is not None
    if not path.exists():
        return
    if not path.is_dir():
        raise ConfigError(f"{target}: is a file; give a folder")
    there = {p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir() or p.is_symlink()}
    if not there and not path.is_symlink():
        return
    own = path / LIST
    known = names_in(storage.read_bytes(str(own), most=1 << 20), str(own)) if LIST in there else set()
    if strange := sorted(there - known - _OWN):
        raise ConfigError(
            f"{target}: holds {clean(strange[0], 80)}"
            + (f" and {len(strange) - 1} more" if len(strange) > 1 else "")
            + ", which no push wrote; move it away, or give another folder"
        )


def to_folder(push: Push, target: str) -> str:
    """Write the files into a folder, whole, in the place of an older push; its path."""
    require_folder(target)
    path = storage.local_path(target)
    assert path is not None
    path = Path(os.path.abspath(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        try:
            part.chmod(0o755)
            push.write(part)
            old = part.with_suffix(".old")
            if path.exists():
                path.rename(old)
            part.rename(path)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"cannot write {target}: {reason(error, target)}") from error
    return target


# --------------------------------------------------------------------------------------------------- a repository


def require_token() -> None:
    """ConfigError if nobody is logged in."""
    if not get_token():
        raise ConfigError("push: nobody is logged in on the Hub; run `hf auth login`, or set HF_TOKEN")


def to_hub(push: Push, name: str, *, public: bool, message: str) -> str:
    """Upload the files in one commit, into a new repository or the place of an older push; the commit's address.

    A new repository is private unless `public`; an old one stays as it is. StorageError for a refusal of the Hub.
    """
    if not sys.stderr.isatty():
        disable_progress_bars()
    api = HfApi()
    made = False
    try:
        made = not api.repo_exists(name)
        if made:
            api.create_repo(name, private=not public)
        there = set(api.list_repo_files(name))
        known: set[str] = set()
        if LIST in there:
            where = f"hf://{name}/{LIST}"
            known = names_in(storage.read_bytes(where, most=1 << 20), where)
        if strange := sorted(there - known - _OWN):
            raise ConfigError(
                f"hf://{name}: holds {clean(strange[0], 80)}, which no push wrote; give another repository"
            )
        with tempfile.TemporaryDirectory(prefix="ldm-push-") as folder:
            push.write(Path(folder))
            operations: list[CommitOperationAdd | CommitOperationDelete] = [
                CommitOperationAdd(each, Path(folder) / each) for each in sorted([*push.files, LIST])
            ]
            gone = (there & known) - push.files.keys() - _OWN
            operations += [CommitOperationDelete(each) for each in sorted(gone)]
            done = api.create_commit(name, operations, commit_message=message)
    except (HfHubHTTPError, ValueError, OSError) as error:
        raise StorageError(f"cannot push to hf://{name}: {_why(error, name)}{_left(made)}") from None
    except Exception as error:
        if not from_network(error):
            raise
        raise StorageError(f"cannot push to hf://{name}: {reason(error, '')}{_left(made)}") from None
    return str(done.commit_url)


def _left(made: bool) -> str:
    return (
        " (the repository may have been made, and holds nothing of the run; the same command goes on)" if made else ""
    )


def _why(error: Exception, name: str) -> str:
    """One line, with no token and no page of the server."""
    status = status_of(error)[0]
    if status == 413:
        return "the Hub finds it too large; leave samples out, or ask for more room"
    if status == 404:
        return f"the Hub shows no such place; is '{name.partition('/')[0]}' you, or an organisation of yours?"
    if status == 409:
        return "somebody else changed the repository just now; try again"
    return refusal(error, name) or (reason(error, "") if status or isinstance(error, OSError) else one_line(error))
