"""``ldm-run reconstruct``: pictures through a first stage and back, with their PSNR."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from ldm_core.cli.catalog import installed
from ldm_core.cli.declaration import argument, command, option
from ldm_core.cli.options import device_option, force_option, json_option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ldm_core.sampling.picture_folder import PictureFolder


@attrs.frozen(kw_only=True)
class ReconstructOptions:
    """A first stage, the pictures that go through it, and the folder of the results."""

    stage: str = argument("STAGE_OR_RUN", "A run's folder, or its first_stage.safetensors.", completes="file")
    pictures: tuple[str, ...] = argument("IMAGES...", "Pictures: paths, URLs or patterns.", completes="file")
    image_size: str | None = option(
        None,
        "Fit pictures to this size first.",
        metavar="N|HxW",
        group="Pictures",
        otherwise="their own, cropped to the stride",
    )
    tile: int = option(
        1024,
        "Pictures of more pixels than a square of this side pass in pieces; 0: whole ones.",
        metavar="N",
        group="Pictures",
        minimum=0,
    )
    tile_memory: int = option(
        3072, "MiB that the stage takes for pieces, or about it.", metavar="N", group="Pictures", minimum=16
    )
    out: str | None = option(
        None,
        "Where the PNGs go.",
        metavar="FOLDER",
        group="Pictures",
        otherwise="reconstructions or, where that is there, reconstructions-2, ...",
        completes="folder",
    )
    force: bool = force_option("Overwrite pictures of the same names in --out.", "Pictures")
    device: str | None = device_option("Pictures")
    json: bool = json_option()


@command(
    ReconstructOptions,
    examples=[
        "ldm-run reconstruct runs/demo photo.jpg",
        "ldm-run reconstruct runs/demo 'photos/*.png' --image-size 256 --out rebuilt",
    ],
)
def reconstruct(options: ReconstructOptions) -> int:
    """Encode and decode pictures with a trained first stage (a run's folder, or its first_stage.safetensors), write
    the results as PNGs and print the PSNR of each."""
    from ldm_core import storage
    from ldm_core.cli.inputs import read_size
    from ldm_core.cli.output import reporting, say, table
    from ldm_core.recipe import artifacts
    from ldm_core.sampling.picture_folder import PictureFolder
    from ldm_core.weights.convert import finder

    with reporting(options.json) as document:
        size = read_size(options.image_size, "--image-size")
        urls = [url for pattern in options.pictures for url in storage.expand(pattern)]
        path = finder(installed())(options.stage, artifacts.STAGE_FILE)
        stage = _Stage.load(path, options)
        names = [_file_name(i, url) for i, url in enumerate(urls)]
        folder = PictureFolder.take(options.out, "reconstructions", names, force=options.force)
        rows = _rebuilt(stage, dict(zip(names, urls, strict=True)), size, folder)
        mean = sum(row["psnr"] for row in rows) / len(rows)
        document.update(
            status="done",
            stage=path,
            out=folder.url,
            images=[{**row, "psnr": _finite_number(row["psnr"])} for row in rows],
            mean_psnr=_finite_number(mean),
        )
        if not options.json:
            lines = [(f"{row['psnr']:.2f} dB", row["image"], row["path"]) for row in rows]
            say("\n".join([*table(lines), f"{mean:.2f} dB  mean of {len(rows)}"]))
    return 0


@attrs.frozen
class _Stage:
    """A trained first stage: uint8 (c, H, W) through it and back, the channels c, the latents' strides."""

    rebuild: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
    channels: int
    stride: tuple[int, ...]

    @classmethod
    def load(cls, path: str, options: ReconstructOptions) -> _Stage:
        """Load the stage at `path`; imports torch."""
        from ldm_core.model import fill, trained
        from ldm_core.model.tiles.tiling import Tiling
        from ldm_core.recipe import artifacts
        from ldm_core.recipe.resolve import resolve
        from ldm_core.sampling.run import reconstruct

        channels = artifacts.stage_header(path).extra.get("image_channels", 3)
        recipe = resolve({"first_stage": path, "image_channels": channels}, installed())
        where = fill.device_named(options.device)
        stage = trained.load_stage(recipe, installed(), path, where)
        tiling = Tiling(options.tile, options.tile_memory << 20)
        return cls(
            lambda picture: reconstruct(stage, picture[None], where, tiling=tiling)[0],
            channels,
            recipe.first_stage.config.latent.stride,
        )


def _rebuilt(
    stage: _Stage, urls: Mapping[str, str], size: tuple[int, int] | None, folder: PictureFolder
) -> list[dict[str, Any]]:
    """Write the reconstruction of each picture (file name -> URL); return a row of facts for each."""
    from ldm_core import storage
    from ldm_core.data import images
    from ldm_core.errors import Interrupted

    rows: list[dict[str, Any]] = []
    try:
        for name, url in urls.items():
            picture = images.decode_image(storage.read_bytes(url), stage.channels, url)
            picture = fitted(picture, size, stage.stride, url)
            rebuilt = stage.rebuild(picture)
            target = folder.write(name, images.png_bytes(rebuilt, {"source": storage.shown(url)}))
            rows.append({"image": url, "psnr": psnr(picture, rebuilt), "size": list(picture.shape[1:]), "path": target})
    except KeyboardInterrupt:
        told = f"{len(rows)} of {len(urls)} pictures are finished and lie in {folder.url}"
        raise Interrupted(f"{told}; the same command begins anew, in another folder") from None
    finally:
        folder.leave()
    return rows


def _file_name(index: int, url: str) -> str:
    from ldm_core import storage

    return f"{index:04d}-{storage.base_name(url).rpartition('.')[0] or storage.base_name(url)}.png"


def fitted(
    picture: NDArray[np.uint8], size: tuple[int, int] | None, stride: tuple[int, ...], name: str
) -> NDArray[np.uint8]:
    """Fit a picture, uint8 (c, H, W), to `size`; or cut it to a size that the stride divides."""
    from ldm_core.data.geometry import fit
    from ldm_core.errors import ConfigError

    if size is not None:
        if any(pixels % s for pixels, s in zip(size, stride, strict=True)):
            raise ConfigError(
                f"--image-size {size[0]}x{size[1]}: not divisible by the first stage's factor {stride[0]}"
            )
        result: NDArray[np.uint8] = fit({"image": picture}, {"image": "image"}, size)["image"]
        return result
    height, width = (pixels - pixels % s for pixels, s in zip(picture.shape[1:], stride, strict=True))
    if not height or not width:
        raise ConfigError(
            f"{name}: {picture.shape[1]}x{picture.shape[2]} pixels are fewer than the first stage's factor "
            f"{stride[0]}; set --image-size"
        )
    top, left = (picture.shape[1] - height) // 2, (picture.shape[2] - width) // 2
    return picture[:, top : top + height, left : left + width]


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Compute the peak signal-to-noise ratio of two pictures of 8 bits, in dB; infinite where they are equal."""
    import numpy as np

    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def _finite_number(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no infinity
