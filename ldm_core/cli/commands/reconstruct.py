"""``ldm-run reconstruct``: pictures through a first stage and back, with their PSNR."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from ldm_core.cli.options import force_option, json_option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ldm_core.catalog import Catalog


def _reconstruct(stage: str, pictures: tuple[str, ...], image_size: str | None, **options: Any) -> int:
    from ldm_core import storage
    from ldm_core.catalog import Catalog
    from ldm_core.cli.output import reporting, say, table
    from ldm_core.data import images
    from ldm_core.errors import Interrupted
    from ldm_core.recipe import artifacts
    from ldm_core.sampling.picture_folder import PictureFolder
    from ldm_core.weights.convert import finder

    with reporting(bool(options["json_flag"])) as document:
        size = read_size(image_size)
        urls = [url for pattern in pictures for url in storage.expand(pattern)]
        catalog = Catalog.discover()
        path = finder(catalog)(stage, artifacts.STAGE_FILE)
        rebuild, channels, stride = _loaded(path, options["device"], catalog)
        names = [_file_name(i, url) for i, url in enumerate(urls)]
        folder = PictureFolder.take(options["out"], "reconstructions", names, force=bool(options["force_flag"]))
        rows: list[dict[str, Any]] = []
        try:
            for name, url in zip(names, urls, strict=True):
                picture = fitted(images.decode_image(storage.read_bytes(url), channels, url), size, stride, url)
                rebuilt = rebuild(picture)
                target = folder.write(name, images.png_bytes(rebuilt, {"source": storage.shown(url)}))
                row = {"image": url, "psnr": psnr(picture, rebuilt), "size": list(picture.shape[1:]), "path": target}
                rows.append(row)
        except KeyboardInterrupt:
            told = f"{len(rows)} of {len(urls)} pictures are finished and lie in {folder.url}"
            raise Interrupted(f"{told}; the same command begins anew, in another folder") from None
        finally:
            folder.leave()
        mean = sum(row["psnr"] for row in rows) / len(rows)
        document.update(
            status="done",
            stage=path,
            out=folder.url,
            images=[_finite(row) for row in rows],
            mean_psnr=_finite_number(mean),
        )
        if not options["json_flag"]:
            lines = [(f"{row['psnr']:.2f} dB", row["image"], row["path"]) for row in rows]
            say("\n".join([*table(lines), f"{mean:.2f} dB  mean of {len(rows)}"]))
    return 0


def _file_name(index: int, url: str) -> str:
    from ldm_core import storage

    return f"{index:04d}-{storage.base_name(url).rpartition('.')[0] or storage.base_name(url)}.png"


def _loaded(path: str, device: str | None, catalog: Catalog) -> tuple[Any, int, tuple[int, ...]]:
    """(picture -> reconstruction, its channels, the stage's strides); imports torch."""
    from ldm_core.model import fill
    from ldm_core.model.trained import load_stage
    from ldm_core.recipe import artifacts
    from ldm_core.recipe.resolve import resolve
    from ldm_core.sampling import pipeline

    channels = artifacts.stage_header(path).extra.get("image_channels", 3)
    recipe = resolve({"first_stage": path, "image_channels": channels}, catalog)
    where = fill.device_named(device)
    stage = load_stage(recipe, catalog, path, where)

    def rebuild(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return pipeline.reconstruct(stage, picture[None], where)[0]

    return rebuild, channels, recipe.first_stage.config.latent.stride


def read_size(text: str | None) -> tuple[int, int] | None:
    """``64`` or ``48,64`` -> (height, width); :class:`ConfigError` for anything else."""
    from ldm_core.errors import ConfigError, clean

    if text is None:
        return None
    parts = [p.strip() for p in text.replace("x", ",").split(",")]
    if len(parts) not in (1, 2) or not all(p.isdecimal() and len(p) < 7 and int(p) > 0 for p in parts):
        raise ConfigError(f"--image-size {clean(text, 60)}: expected pixels such as 64, or height,width such as 48,64")
    return int(parts[0]), int(parts[-1])


def fitted(
    picture: NDArray[np.uint8], size: tuple[int, int] | None, stride: tuple[int, ...], name: str
) -> NDArray[np.uint8]:
    """uint8 (c, H, W) at `size`, or at its own size less the few rows and columns that the stride does not divide."""
    from ldm_core.data.geometry import fit
    from ldm_core.errors import ConfigError

    if size is not None:
        if any(pixels % s for pixels, s in zip(size, stride, strict=True)):
            raise ConfigError(
                f"--image-size {size[0]},{size[1]}: not divisible by the first stage's factor {stride[0]}"
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
    """Peak signal-to-noise ratio of two pictures of 8 bits, in dB; infinite where they are equal."""
    import numpy as np

    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def _finite_number(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no infinity


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "psnr": _finite_number(row["psnr"])}


command = click.Command(
    "reconstruct",
    params=[
        click.Argument(["stage"], metavar="STAGE_OR_RUN"),
        click.Argument(["pictures"], metavar="IMAGES...", nargs=-1, required=True),
        click.Option(
            ["--out"],
            metavar="FOLDER",
            help="Where the PNGs go.  [default: reconstructions or, where that is there, reconstructions-2, ...]",
        ),
        force_option("Overwrite pictures of the same names in --out."),
        click.Option(
            ["--image-size"],
            metavar="N|H,W",
            help="Fit pictures to this size first.  [default: their own, cropped to the stride]",
        ),
        click.Option(["--device"], metavar="NAME", help="cpu, cuda, ...  [default: cuda where there is one]"),
        json_option(),
    ],
    callback=_reconstruct,
    help=(
        "Encode and decode pictures with a trained first stage (a run's folder, or its first_stage.safetensors), write "
        "the results as PNGs and print the PSNR of each."
    ),
    short_help="Pictures through a first stage and back, with their PSNR.",
)
