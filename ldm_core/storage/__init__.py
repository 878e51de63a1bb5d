"""Reading and writing by path or fsspec URL, whole files only, with errors a user can act on.

A local path and a ``file://`` URL are the same thing; ``s3://`` is read and written, ``http(s)://`` and
``hf://`` (the Hugging Face Hub) are read. s3fs and its like are imported when a URL asks for them, never before. What
a remote storage fails to do, and may do a little later, is tried again (:mod:`ldm_core.storage.retry`); every failure
that stays is a :class:`ldm_core.errors.StorageError` that names the URL without its credentials. :func:`configure` sets
the server's address and the limits.

Everything here may be called from several threads, and from processes that were forked after it was used.
"""

from __future__ import annotations

from ldm_core.storage.files import MOST_TEXT as MOST_TEXT
from ldm_core.storage.files import FileInfo as FileInfo
from ldm_core.storage.files import append_text as append_text
from ldm_core.storage.files import atomic_path as atomic_path
from ldm_core.storage.files import atomic_write as atomic_write
from ldm_core.storage.files import create as create
from ldm_core.storage.files import exists as exists
from ldm_core.storage.files import expand as expand
from ldm_core.storage.files import info as info
from ldm_core.storage.files import is_folder as is_folder
from ldm_core.storage.files import list_files as list_files
from ldm_core.storage.files import make_folder as make_folder
from ldm_core.storage.files import open_read as open_read
from ldm_core.storage.files import read_bytes as read_bytes
from ldm_core.storage.files import read_text as read_text
from ldm_core.storage.files import remove as remove
from ldm_core.storage.options import configure as configure
from ldm_core.storage.options import current as current
from ldm_core.storage.options import filesystem as filesystem
from ldm_core.storage.options import secrets_among as secrets_among
from ldm_core.storage.paths import base_name as base_name
from ldm_core.storage.paths import join as join
from ldm_core.storage.paths import local_path as local_path
from ldm_core.storage.paths import parent as parent
from ldm_core.storage.paths import protocol as protocol
from ldm_core.storage.paths import shown as shown
from ldm_core.storage.paths import told_without_folders as told_without_folders
from ldm_core.storage.paths import without_folders as without_folders
from ldm_core.storage.retry import StorageWarning as StorageWarning
