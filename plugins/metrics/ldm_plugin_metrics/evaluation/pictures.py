"""Sets of pictures by place: those of data, of arrays, of pairs. What makes pictures when asked is beside this file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.data.class_names import KEYS as CLASS_KEYS
from ldm_core.errors import ConfigError, DataError, clean
from ldm_core.model.degraded import Degraded, for_conditioners
from ldm_core.recipe.recipe import Recipe
from ldm_plugin_metrics.evaluation.fitting import Fitting, require_levels


@attrs.frozen(eq=False)
class Taken:
    """Some pictures of a set: `images` uint8 (B, c, H, W), an example each, and the originals of reconstructions."""

    images: NDArray[np.uint8]
    examples: Sequence[Mapping[str, Any]]
    originals: NDArray[np.uint8] | None = None


class PictureSet(Protocol):
    """Pictures by place, from 0. Equal places give equal pictures, whatever was taken before."""

    name: str
    """The set in a word: samples, reconstructions, pictures, reference, training."""
    size: tuple[int, int]
    channels: int
    keys: Mapping[str, str]
    """The keys of the examples, with their geometry."""

    def __len__(self) -> int: ...

    def key(self) -> dict[str, Any]:
        """Plain values, all that decides the pictures: sets with equal ones have equal pictures."""
        ...

    def about(self) -> dict[str, Any]:
        """Plain values for the protocol."""
        ...

    def take(self, places: range, keys: Sequence[str]) -> Taken:
        """The pictures at `places`, with `keys` of their examples."""
        ...


class DataPictures:
    """`count` pictures of a data set (none: all), from evenly spaced places of it, as data may be sorted.

    Without a size in `fitting`, all must have the size of the first.
    """

    def __init__(self, dataset: Any, fitting: Fitting, *, name: str, what: str, count: int | None = None) -> None:
        if "image" not in dataset.keys:
            raise DataError(f"{what}: has no pictures, only {', '.join(dataset.keys) or 'nothing'}")
        whole = len(dataset)
        if count is not None and count > whole:
            raise ConfigError(f"{what}: holds {whole:,} pictures, and {count:,} were asked for; ask for fewer")
        self.name, self.what, self._dataset, self._whole = name, what, dataset, whole
        self._count = whole if count is None else count
        self.channels = fitting.channels
        self.keys: Mapping[str, str] = dict(dataset.keys)
        self._fitting, self.size = fitting, fitting.size or (0, 0)
        self._views: dict[tuple[str, ...], Any] = {}
        self._degraded: Degraded | None = None
        self._fingerprint: list[str] = []  # once, for copies too
        if fitting.size is None:
            first = self._example(0, ())["image"]
            self.size = (int(first.shape[1]), int(first.shape[2]))

    def __len__(self) -> int:
        return self._count

    def for_model(self, recipe: Recipe, catalog: Catalog, reads: Sequence[str]) -> DataPictures:
        """The same pictures, whose examples have the inputs that the degradations of `recipe` make for a model that
        `reads` them: one a picture, by its number in the data. They may take the place of ``image`` there."""
        found, every = copy(self), Degraded.of(recipe, catalog)
        found._degraded = None if every is None else every.beside(self.keys, reads)
        found.keys = {**self.keys, **found._made}
        return found

    @property
    def _made(self) -> Mapping[str, str]:
        """The keys that are made, and their geometry."""
        return {} if self._degraded is None else for_conditioners(self._degraded.keys)

    @property
    def fingerprint(self) -> str:
        """That of the stored pictures."""
        if not self._fingerprint:
            self._fingerprint.append(self._dataset.select(["image"]).fingerprint())
        return self._fingerprint[0]

    def key(self) -> dict[str, Any]:
        """See :class:`PictureSet`."""
        return {"data": self.fingerprint, "count": self._count, "of": self._whole, **self._fitting.plain()}

    def about(self) -> dict[str, Any]:
        """See :class:`PictureSet`."""
        found = {"what": self.what, "pictures": self._count, "of": self._whole, "fingerprint": self.fingerprint}
        return {**found, **self._fitting.plain(), "size": list(self.size)}

    def take(self, places: range, keys: Sequence[str]) -> Taken:
        """See :class:`PictureSet`."""
        examples = [self._with_inputs(place, keys) for place in places]
        return Taken(np.stack([each["image"] for each in examples]), [dict(for_conditioners(e)) for e in examples])

    def index(self, place: int) -> int:
        """The number, in the data, of the picture at `place`."""
        return place * self._whole // self._count

    def example(self, place: int, keys: Sequence[str]) -> dict[str, Any]:
        """The example at `place`, with its picture at the set's size, or what the model is handed in its place.
        DataError if it is of another size, or does not read."""
        return dict(for_conditioners(self._with_inputs(place, keys)))

    def _with_inputs(self, place: int, keys: Sequence[str]) -> dict[str, Any]:
        """An example with its picture, and what is made of it beside."""
        index, made = self.index(place), self._made
        found = self._example(index, [key for key in keys if key not in made])
        if found["image"].shape[1:] != self.size:
            height, width = found["image"].shape[1:]
            raise DataError(
                f"{self.what}: picture {place} is {height}x{width} and the first {self.size[0]}x{self.size[1]}; "
                "say one size for all, such as --image-size 256"
            )
        if self._degraded is not None and made.keys() & set(keys):
            found |= self._degraded.made(found, self._degraded.seed(index))
        return found

    def names(self) -> list[str] | None:
        """The stems of the pictures' names, by place; None if the data have none."""
        if "name" not in self.keys:
            return None
        view = self._dataset.select(["name"])
        every = [str(view[place * self._whole // self._count]["name"]) for place in range(self._count)]
        return [storage.base_name(each).partition(".")[0] for each in every]

    @property
    def class_names(self) -> Mapping[str, Sequence[str]]:
        """The names of the classes by key, if the data have some."""
        return {key: names for key in CLASS_KEYS if (names := self._dataset.class_names.get(key))}

    def _example(self, index: int, keys: Sequence[str]) -> dict[str, Any]:
        wanted = tuple(dict.fromkeys(("image", *keys)))
        if lacking := [key for key in wanted if key not in self.keys]:
            raise ConfigError(f"{self.what}: offers no '{lacking[0]}' (it has {', '.join(self.keys)})")
        if wanted not in self._views:
            self._views[wanted] = self._dataset.select(wanted)
        view = self._views[wanted]
        return self._fitting(dict(view[index]), dict(view.keys), f"{self.what}, picture {index}")


class ArrayPictures:
    """Pictures (N, c, H, W) or (N, H, W, c), uint8, as arrays and the sample files of other programs hold them."""

    def __init__(self, images: NDArray[Any], *, what: str, name: str = "pictures", count: int | None = None) -> None:
        if images.ndim == 4 and images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3):
            images = images.transpose(0, 3, 1, 2)
        if images.ndim != 4:
            raise DataError(f"{what}: has the shape {images.shape}; expected pictures (N, H, W, c) or (N, c, H, W)")
        if count is not None and count > len(images):
            raise ConfigError(f"{what}: holds {len(images):,} pictures, and {count:,} were asked for; ask for fewer")
        require_levels(images[:1], what)
        self.name, self.what, self._images, self._whole = name, what, images, len(images)
        self._count = len(images) if count is None else count
        self.channels, self.size = int(images.shape[1]), (int(images.shape[2]), int(images.shape[3]))
        self.keys: Mapping[str, str] = {"image": "image"}
        self._fingerprint = ""

    def __len__(self) -> int:
        return self._count

    @property
    def fingerprint(self) -> str:
        """A hash of all the levels."""
        if not self._fingerprint:
            import hashlib

            digest = hashlib.sha256(str(self._images.shape).encode())
            for start in range(0, self._whole, 256):
                digest.update(np.ascontiguousarray(self._images[start : start + 256]).tobytes())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def key(self) -> dict[str, Any]:
        """See :class:`PictureSet`."""
        return {"array": self.fingerprint, "count": self._count}

    def about(self) -> dict[str, Any]:
        """See :class:`PictureSet`."""
        found = {"what": self.what, "pictures": self._count, "of": self._whole, "fingerprint": self.fingerprint}
        return {**found, "size": list(self.size), "channels": self.channels}

    def take(self, places: range, keys: Sequence[str]) -> Taken:
        """See :class:`PictureSet`."""
        if lacking := [key for key in keys if key != "image"]:
            raise ConfigError(f"{self.what}: offers no '{lacking[0]}', pictures alone")
        chosen = [place * self._whole // self._count for place in places]
        images = np.ascontiguousarray(self._images[chosen])
        return Taken(images, [{"image": image} for image in images])


class PairedPictures:
    """Pictures beside their originals: `made` and `originals` are of equal number and size, and in one order."""

    name = "pairs"

    def __init__(self, made: PictureSet, originals: PictureSet) -> None:
        if len(made) != len(originals):
            raise ConfigError(
                f"reconstructions are compared with their originals, one each, and there are {len(made):,} pictures "
                f"and {len(originals):,} originals"
            )
        names = [each.names() if isinstance(each, DataPictures) else None for each in (made, originals)]
        if names[0] is not None and names[1] is not None and names[0] != names[1]:
            one, other = next(pair for pair in zip(*names, strict=True) if pair[0] != pair[1])
            raise ConfigError(
                f"reconstructions are compared with their originals, by name, and '{clean(one, 60)}' stands where "
                f"'{clean(other, 60)}' is; give the two folders equal names"
            )
        self.made, self.originals = made, originals
        self.size, self.channels, self.keys = made.size, made.channels, made.keys

    def __len__(self) -> int:
        return len(self.made)

    def key(self) -> dict[str, Any]:
        """See :class:`PictureSet`."""
        return {"pairs": [self.made.key(), self.originals.key()]}

    def about(self) -> dict[str, Any]:
        """See :class:`PictureSet`."""
        return {**self.made.about(), "originals": self.originals.about()}

    def take(self, places: range, keys: Sequence[str]) -> Taken:
        """See :class:`PictureSet`."""
        made, originals = self.made.take(places, keys), self.originals.take(places, ())
        return Taken(made.images, made.examples, originals.images)
