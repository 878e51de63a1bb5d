"""The observer for Weights & Biases."""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm_core import hookimpl, storage
from ldm_core.contracts import Site
from ldm_core.errors import ConfigError, LDMError, StorageError
from ldm_plugin_wandb.config import WandbConfig

KEY = "WANDB_API_KEY"
ID_FILE = "wandb.json"


class WandbObserver:
    """Scalars, pictures and the recipe of a run, as one run of Weights & Biases.

    The run's id is drawn once and kept in the run's folder (``wandb.json``), so a run resumed from a checkpoint goes on
    there as well. Each stage counts its own steps: ``denoiser/loss`` is drawn over ``denoiser/step``. The command line
    and the repository, noted by wandb itself, stay out: a command may hold secrets, and the recipe says all of a run.
    Offline, files lie in ``wandb/`` in the run's folder, or are uploaded to it at the end if it is a URL.
    """

    def __init__(self, config: WandbConfig, site: Site) -> None:
        if config.mode == "online" and not os.environ.get(KEY):
            raise ConfigError(
                f"observers.wandb.mode: online needs an API key in the environment variable {KEY}; set it, or use "
                "mode: offline"
            )
        self._config = config
        self._run: Any = None
        self._upload: tuple[Path, str] | None = None
        self._known: set[str] = set()

    # ------------------------------------------------------------------------------------------------- hooks

    @hookimpl
    def ldm_run_start(self, recipe: Mapping[str, Any], out: str) -> None:
        """Begin the run, or go on with the one named in the folder."""
        import wandb

        config = self._config
        online = config.mode == "online" or (config.mode == "auto" and bool(os.environ.get(KEY)))
        settings = wandb.Settings(console="off", quiet=True, disable_git=True, disable_code=True, x_disable_meta=True)
        try:
            self._run = wandb.init(
                project=config.project,
                entity=config.entity or None,
                name=config.name or storage.base_name(out),
                tags=list(config.tags) or None,
                id=_identity(out),
                resume="allow",
                mode="online" if online else "offline",
                dir=str(self._folder(out)),
                config=json.loads(json.dumps(dict(recipe), default=str)),
                settings=settings,
            )
        except wandb.Error as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise LDMError(
                f"wandb: cannot begin the run ({reason}); check {KEY} and the network, or use mode: offline"
            ) from error

    @hookimpl
    def ldm_step(self, stage: str, step: int, logs: Mapping[str, float]) -> None:
        """Log the numbers, if there are any."""
        if logs and self._run is not None:
            self._log(stage, step, dict(logs))

    @hookimpl
    def ldm_images(self, stage: str, step: int, name: str, url: str) -> None:
        """Log the picture."""
        if not self._config.pictures or self._run is None:
            return
        import wandb
        from PIL import Image

        try:
            picture = Image.open(io.BytesIO(storage.read_bytes(url)))
        except (StorageError, OSError) as error:
            warnings.warn(f"wandb: {error}", stacklevel=2)
            return
        self._log(stage, step, {_series(name): wandb.Image(picture, caption=f"{name}, step {step}")})

    @hookimpl
    def ldm_run_end(self, status: str) -> None:
        """Finish the run; wandb marks one with a bad end."""
        if self._run is None:
            return
        import wandb

        self._run.summary["status"] = status
        self._run.finish(exit_code=0 if status == "done" else 1)
        self._run = None
        if wandb.run is None:
            # finish() does not wait for the last bytes of an offline run's file; this does (seen with 0.31)
            wandb.teardown()
        if self._upload is not None:
            self._send(*self._upload)

    # --------------------------------------------------------------------------------------------- inner part

    def _folder(self, out: str) -> Path:
        """The folder for wandb's own files: it appends a folder ``wandb`` by itself."""
        own = storage.local_path(self._config.folder or out)
        if own is None and self._config.folder:
            raise ConfigError(f"observers.wandb.folder: {storage.shown(self._config.folder)} is a URL; wandb needs a "
                              "local folder")  # fmt: skip
        if own is None:
            own = Path(tempfile.mkdtemp(prefix="ldm-wandb-"))
            self._upload = (own, out)
        own.mkdir(parents=True, exist_ok=True)
        return own

    def _log(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
        if stage not in self._known:
            self._known.add(stage)
            self._run.define_metric(f"{stage}/step", hidden=True)
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self._run.log({f"{stage}/step": step, **{f"{stage}/{name}": value for name, value in values.items()}})

    def _send(self, folder: Path, out: str) -> None:
        """Put the files of an offline run into the run's folder; files not uploaded stay in place."""
        for path in sorted(p for p in (folder / "wandb").rglob("*") if p.is_file() and not p.is_symlink()):
            parts = path.relative_to(folder).parts
            if any(part.startswith("latest-run") for part in parts) or path.suffix == ".log":
                continue
            try:
                storage.atomic_write(storage.join(out, *parts), path.read_bytes())
            except StorageError as error:
                warnings.warn(f"wandb: {error}; its files stay in {folder}", stacklevel=2)
                return
        shutil.rmtree(folder, ignore_errors=True)


def _identity(out: str) -> str:
    """The id in the run's folder, or a new one, put there."""
    url = storage.join(out, ID_FILE)
    if storage.exists(url):
        try:
            return str(json.loads(storage.read_text(url))["id"])
        except (ValueError, KeyError, TypeError):
            warnings.warn(f"wandb: {storage.shown(url)} is damaged; a new run begins there", stacklevel=2)
    name = secrets.token_hex(6)
    if storage.exists(url) and storage.read_bytes(url).strip() not in (b"", b"{}"):
        return name  # someone's file of that name stays
    storage.atomic_write(url, json.dumps({"id": name}) + "\n")
    return name


def _series(name: str) -> str:
    """``samples-00001000.png`` -> ``samples``: pictures at intervals are one series, and steps tell them apart."""
    stem = storage.base_name(name).rpartition(".")[0] or name
    head, mark, number = stem.rpartition("-")
    return head if mark and number.isdecimal() else stem
