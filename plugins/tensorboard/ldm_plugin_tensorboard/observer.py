"""The observer for TensorBoard's event files; it needs the package tensorboard, and neither TensorFlow nor torch."""

from __future__ import annotations

import shutil
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from ldm_core import hookimpl, storage
from ldm_core.config import documents
from ldm_core.contracts import Site
from ldm_core.errors import LDMError, StorageError
from ldm_plugin_tensorboard.config import TensorBoardConfig

_PNG = b"\x89PNG\r\n\x1a\n"
_RGB = 3


class TensorBoardObserver:
    """Scalars, pictures and the recipe of a run as event files, one TensorBoard run a stage.

    ``denoiser`` and ``denoiser_validation`` are runs of their own, so that TensorBoard draws equal tags over each
    other. A resumed run begins another file, and tells TensorBoard to forget the steps to come in the files before it.
    If the folder is a URL, the files are written locally and uploaded: now and then, at the end of each stage, and at
    the end of the run.
    """

    def __init__(self, config: TensorBoardConfig, site: Site) -> None:
        self._config = config
        self._url = ""
        self._local: Path | None = None
        self._writers: dict[str, EventFileWriter] = {}
        self._uploaded: dict[Path, int] = {}
        self._last_upload = 0.0

    # ------------------------------------------------------------------------------------------------- hooks

    @hookimpl
    def ldm_run_start(self, recipe: Mapping[str, Any], out: str) -> None:
        """Find the folder and write the recipe down."""
        self._url = self._config.folder or storage.join(out, "tensorboard")
        self._local = storage.local_path(self._url)
        if self._local is None:
            self._local = Path(tempfile.mkdtemp(prefix="ldm-tensorboard-"))
        self._last_upload = time.monotonic()
        text = documents.dump_yaml(dict(recipe))
        block = "\n".join("    " + line for line in text.splitlines())  # Markdown's way of leaving text as it is
        self._write("", 0, _text("recipe", block))

    @hookimpl
    def ldm_step(self, stage: str, step: int, logs: Mapping[str, float]) -> None:
        """Write the numbers, if there are any."""
        if logs and self._local is not None:
            values = [Summary.Value(tag=_tag(name), simple_value=value) for name, value in logs.items()]
            self._write(stage, step, *values)
            if time.monotonic() - self._last_upload > self._config.upload_seconds:
                self._upload()

    @hookimpl
    def ldm_images(self, stage: str, step: int, name: str, url: str) -> None:
        """Write the picture as it is stored."""
        if not self._config.pictures or self._local is None:
            return
        try:
            data = storage.read_bytes(url)
        except StorageError as error:
            warnings.warn(f"tensorboard: {error}", stacklevel=2)
            return
        if not data.startswith(_PNG):
            return  # TensorBoard needs width and height, which are read from the header below
        width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
        picture = Summary.Image(height=height, width=width, colorspace=_RGB, encoded_image_string=data)
        self._write(stage, step, Summary.Value(tag=_series(name), image=picture))

    @hookimpl
    def ldm_stage_end(self, stage: str, status: str) -> None:
        """Put the events on the disk, and at the folder's URL if it is one."""
        self._upload()

    @hookimpl
    def ldm_run_end(self, status: str) -> None:
        """Close the files; if the folder is a URL, upload them and remove the local ones."""
        if self._local is None:
            return
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
        if storage.local_path(self._url) is None:
            if self._send():
                shutil.rmtree(self._local, ignore_errors=True)
            else:
                warnings.warn(f"tensorboard: the event files stay in {self._local}", stacklevel=2)
        self._local = None

    # --------------------------------------------------------------------------------------------- inner part

    def _write(self, stage: str, step: int, *values: Summary.Value) -> None:
        assert self._local is not None
        now = time.time()
        writer = self._writers.get(stage)
        if writer is None:
            folder = self._local / stage if stage else self._local
            try:
                writer = EventFileWriter(str(folder), flush_secs=self._config.flush_seconds)
            except OSError as error:
                raise LDMError(f"tensorboard: cannot write to {folder}: {error.strerror or error}") from error
            self._writers[stage] = writer
            # TensorBoard drops what earlier files of this folder say of this step and those after it.
            writer.add_event(Event(wall_time=now, step=step, session_log=SessionLog(status=SessionLog.START)))
        writer.add_event(Event(wall_time=now, step=step, summary=Summary(value=values)))

    def _upload(self) -> None:
        for writer in self._writers.values():
            writer.flush()
        if self._local is not None and storage.local_path(self._url) is None:
            self._send()
            self._last_upload = time.monotonic()

    def _send(self) -> bool:
        """Upload the files grown since; warn if that fails, as the training is worth more."""
        assert self._local is not None
        for path in sorted(p for p in self._local.rglob("*") if p.is_file()):
            size = path.stat().st_size
            if self._uploaded.get(path) == size:
                continue
            try:
                url = storage.join(self._url, *path.relative_to(self._local).parts)
                storage.atomic_write(url, path.read_bytes())
            except StorageError as error:
                warnings.warn(f"tensorboard: {error}", stacklevel=2)
                return False
            self._uploaded[path] = size
        return True


def _tag(name: str) -> str:
    """Validation has the tags of training: one panel shows both."""
    return name.removeprefix("val_")


def _series(name: str) -> str:
    """``samples-00001000.png`` -> ``samples``: pictures at intervals are one series, and steps tell them apart."""
    stem = storage.base_name(name).rpartition(".")[0] or name
    head, mark, number = stem.rpartition("-")
    return head if mark and number.isdecimal() else stem


def _text(tag: str, text: str) -> Summary.Value:
    """A text as TensorBoard's text dashboard reads it: a string tensor marked with the plugin's name."""
    tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()], tensor_shape=TensorShapeProto())
    mark = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    return Summary.Value(tag=tag, metadata=mark, tensor=tensor)
