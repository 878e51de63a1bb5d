"""Repositories of the Hugging Face Hub as a filesystem of fsspec: ``hf://OWNER/NAME``, ``hf://datasets/OWNER/NAME``.

huggingface_hub's own filesystem finds and lists files; each read is one request for the bytes that are asked for, where
its own would fetch blocks of megabytes around them. Credentials are huggingface_hub's: ``HF_TOKEN``, or those that
``hf auth login`` keeps. Only this module imports huggingface_hub (the extra ``hub``), and none but
:mod:`ldm_core.storage.options` and :mod:`ldm_core.storage.attempts` import it, once a URL asks for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from json import JSONDecodeError
from typing import Any

import attrs
from huggingface_hub import HfApi, HfFileSystem, RepoFolder, get_token, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from ldm_core.errors import clean
from ldm_core.storage.failures import RefusedError, status_of
from ldm_core.storage.local import memory, require_size

_FORM = "write hf://OWNER/NAME/FILE, or hf://datasets/OWNER/NAME/FILE, with a revision as NAME@REVISION"
_CHUNK = 2**18


class HubFileSystem(HfFileSystem):
    """huggingface_hub's, with lines that a user can act on for what the Hub refuses, and one request to look at a file
    in a folder of any size."""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = super()._strip_protocol(path)
        return stripped.removeprefix("models/")  # its listings leave that out

    def resolve_path(self, path: str, revision: str | None = None) -> Any:
        """See HfFileSystem; RefusedError for no address, and for a repository or revision that is not there."""
        with refusals(path):
            return super().resolve_path(path, revision)

    def info(self, path: str, refresh: bool = False, revision: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """See HfFileSystem, which would list the whole folder; FileNotFoundError where there is nothing."""
        place = self.resolve_path(path, revision)
        if not place.path or _in_bucket(path):
            return super().info(path, refresh=refresh, revision=revision, **kwargs)
        with refusals(path):
            api = HfApi(endpoint=self.endpoint, token=self.token)
            where = {"repo_type": place.repo_type, "revision": place.revision}
            found = api.get_paths_info(place.repo_id, [place.path_in_repo], **where)
        if not found:
            raise FileNotFoundError(path)
        if isinstance(found[0], RepoFolder):
            return {"name": place.unresolve(), "type": "directory", "size": 0}
        return {"name": place.unresolve(), "type": "file", "size": found[0].size, "blob_id": found[0].blob_id}


def _in_bucket(path: str) -> bool:
    """True for the Hub's plain storage, which has no revisions."""
    return path.startswith("buckets/")


@contextlib.contextmanager
def refusals(path: str) -> Iterator[None]:
    """Failures of the Hub that stay as a :class:`~ldm_core.storage.failures.RefusedError`; all others as they are."""
    try:
        yield
    except (OSError, ValueError, NotImplementedError) as error:
        if (said := refusal(error, path)) is None:
            raise
        raise RefusedError(said) from None  # the client's own text has URLs and advice of its own


def refusal(error: BaseException, path: str) -> str | None:
    """The failure in one line, and what to do; None for one that may pass, and for a file that is not there."""
    cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ is not None else error
    if isinstance(cause, OfflineModeIsEnabled):
        return "the variable HF_HUB_OFFLINE is set, and it would have to be fetched"
    if isinstance(cause, GatedRepoError):
        return "its owner asks for consent to terms; accept them on the repository's page, and " + _log_in()
    if isinstance(cause, RevisionNotFoundError):
        return "the repository has no such revision; give a branch, a tag or a commit behind the '@'"
    if isinstance(cause, RepositoryNotFoundError):
        kind, address = ("data set", "") if path.startswith("datasets/") else ("model", " (hf://datasets/ for data)")
        return f"the Hub shows no such {kind}; check the spelling{address}, or, if it is private, {_log_in()}"
    if isinstance(cause, EntryNotFoundError):
        return None
    if isinstance(cause, ValueError | NotImplementedError) and not isinstance(cause, JSONDecodeError):
        return f"that is no address on the Hub ({clean(str(cause).splitlines()[0], 100)}); {_FORM}"
    if isinstance(cause, HfHubHTTPError):
        status = status_of(cause)[0]
        if status == 401:
            return f"the Hub does not take these credentials; {_log_in()}"
        if status == 403:
            return f"the Hub forbids it; {_log_in()}"
    return None


def _log_in() -> str:
    """Advice that goes by whether there is a token. The token itself is in no message."""
    if get_token():
        return "use a token with the right to it (hf auth login, or HF_TOKEN)"
    return "log in (hf auth login, or HF_TOKEN)"


@attrs.frozen
class Answer:
    """The bytes of an answer, the headers ``Content-Range`` (of a part) and ``Content-Length``, and the file's mark."""

    data: bytes
    content_range: str
    length: int | None
    mark: str


def fetch(fs: HubFileSystem, inner: str, start: int, stop: int | None, timeouts: tuple[float, float]) -> Answer | None:
    """Bytes start..stop of a file in one request; None if it ends before them. `timeouts`: seconds to connect, and
    without a byte.

    A server without ranges sends the whole file. Its mark is the Hub's own: where the bytes come from another server,
    the first answer has it.
    """
    place = fs.resolve_path(inner)
    if _in_bucket(inner):
        url = fs.url(inner)
    else:
        where = {"repo_type": place.repo_type, "revision": place.revision, "endpoint": fs.endpoint}
        url = hf_hub_url(place.repo_id, place.path_in_repo, **where)
    headers = build_hf_headers(token=fs.token)
    headers |= {"Range": f"bytes={start}-{'' if stop is None else stop - 1}", "Accept-Encoding": "identity"}
    connect, read = timeouts
    with (
        refusals(inner),
        get_session().stream("GET", url, headers=headers, timeout=(connect, read, read, connect)) as answer,
    ):
        if answer.status_code == 416:
            return None
        hf_raise_for_status(answer)
        data = bytearray()
        for piece in answer.iter_bytes(_CHUNK):
            data += piece
            require_size(len(data), memory())
        first = (answer.history[0] if answer.history else answer).headers
        length = answer.headers.get("Content-Length", "")
        return Answer(
            bytes(data),
            answer.headers.get("Content-Range", "") if answer.status_code == 206 else "",
            int(length) if length.isdigit() else None,
            first.get("X-Linked-ETag") or first.get("ETag") or "",
        )
