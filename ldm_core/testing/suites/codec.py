"""The conformance suite of codecs: a codec knows its format and no other, and reads what it writes to the bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import chdir, suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import torch
from torch import Tensor

from ldm_core.catalog import Catalog
from ldm_core.contracts.codec import Codec, ModelWeights, Recognised, Source, overlay
from ldm_core.contracts.site import Site
from ldm_core.contracts.values import EMPTY
from ldm_core.errors import ConfigError, LDMError
from ldm_core.model.build import make_first_stage, make_model
from ldm_core.recipe.resolve import resolve
from ldm_core.testing.base import Suite, generators, installed, randomize, same
from ldm_core.testing.rules import Rule, must_raise
from ldm_core.testing.sources import RAN, Watched, armed, broken, contents_of, foreign, put

_PARTS = ("first_stage", "model", "adapter")
SMALL = 1 << 14
"""Values of the largest tensor that `recognise` may read."""
_WRITTEN: dict[type, dict[str, tuple[str, Mapping[str, bytes]]]] = {}
"""By suite and case, the name and the files of what was written, by their paths within."""


def random_weights(
    plain: Mapping[str, Any], part: str = "model", *, seed: int = 0, catalog: Catalog | None = None
) -> ModelWeights:
    """A small model of the recipe `plain` with random weights, as a codec is handed it to write.

    `part`: ``model`` (with its first stage), ``first_stage``, ``denoiser`` (with the conditioners, without a first
    stage), ``conditioner`` or ``adapter`` (the first one). No parameter is 0, and the latents have a mean and a std of
    their own.
    """
    catalog = catalog or installed()
    recipe = resolve({"dataset": "shapes", **plain}, catalog)
    stage: Any = make_first_stage(recipe, catalog)
    randomize(stage, seed)
    channels = recipe.first_stage.config.latent.channels
    stage.set_normalization(torch.full((channels,), 0.0), torch.full((channels,), 4.0))
    first_stage = {k: v.detach().clone() for k, v in stage.state_dict().items()}
    complete = recipe.carried()
    if part == "first_stage":
        return ModelWeights(recipe=complete, first_stage=first_stage)
    model = make_model(recipe, catalog, stage)
    randomize(model, seed + 1)
    tensors = {k: v.detach().clone() for k, v in model.state_dict().items()}
    if part == "model":
        return ModelWeights(recipe=complete, first_stage=first_stage, model=tensors)
    if part == "adapter":
        prefix = f"adapters.{recipe.adapters[0].key}."
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        return ModelWeights(recipe={**complete, "adapters": complete["adapters"][:1]}, adapter=own)
    latent = recipe.first_stage.config.latent
    cond = Site(size=recipe.image_size).cond
    if part == "denoiser":
        from ldm_core.recipe.check import site_of

        cond = site_of(recipe).cond
        tensors = {k: v for k, v in tensors.items() if k.startswith("denoiser.")}
    else:
        prefix = f"conditioners.{recipe.conditioners[0].name}."
        tensors = {k: v for k, v in tensors.items() if k.startswith(prefix)}
    return ModelWeights(recipe=complete, model=tensors, latent=latent, cond=cond)


class CodecSuite(Suite):
    """Hold a codec to its contract.

    An author gives small models in :meth:`cases`. For a format that leaves a setting open, :meth:`undecided` gives a
    file with that setting unknown.
    """

    kind = "codec"
    protocol = Codec
    name: ClassVar[str] = "model.safetensors"
    """The last part of the destination, whose suffix says the container (a folder's name for a format of folders)."""
    broken_files: ClassVar[int] = 12
    """The number of broken files of each sort for each case."""

    def cases(self) -> Mapping[str, ModelWeights]:
        """Models, or parts of them, that the format holds, by a name for messages; see :func:`random_weights`."""
        raise AssertionError(f"{type(self).__name__} does not say what its format holds: define cases()")

    def given(self, case: str) -> Mapping[str, Any]:
        """Plain recipe values that the format does not carry, and a user must give to read `case` again."""
        return EMPTY

    def undecided(self, folder: Path) -> tuple[Path, Sequence[str]] | None:
        """A file or folder of this format in `folder` with unknown settings, and their dotted paths; None for a format
        that says everything."""
        return None

    def written(self, weights: ModelWeights, folder: Path) -> Path:
        """`weights` in this format under `folder`: the file, or the folder of files."""
        return put(self.build().write(weights, self.name).files, folder, self.name)

    # ------------------------------------------------------------------------------------------ standard tests

    @Rule(
        Codec.read,
        "no tensor left out unsaid",
        "map every tensor by a table of names both ways, and name what is left over in missing and unexpected",
    )
    def test_reads_what_it_writes(self, tmp_path: Path) -> None:
        """Every tensor comes back bit for bit under its name, and the recipe says the same parts."""
        for case, weights in self.cases().items():
            source, codec, found = self._recognised(case, weights, tmp_path)
            assert not found.unknown, f"{case}: nothing says {', '.join(found.unknown)} in its own files"
            back = codec.read(source)
            assert not back.missing and not back.unexpected, (
                f"{case}: missing {list(back.missing)[:3]}, unexpected {list(back.unexpected)[:3]} in its own files"
            )
            for what in _PARTS:
                _same_tensors(case, what, getattr(weights, what), getattr(back, what))
            before, after = _parts_of(weights, weights.recipe, self), _parts_of(back, back.recipe, self)
            changed = [key for key in before if before[key] != after.get(key)]
            assert not changed, (
                f"{case}: the recipe comes back otherwise: {changed[0]} is {after.get(changed[0])}, was "
                f"{before[changed[0]]}"
            )

    @Rule(
        Recognised,
        "`what`: in words, for people",
        "say what it is, which parts it holds, and how many parameters each has",
    )
    def test_says_what_a_source_holds(self, tmp_path: Path) -> None:
        """`recognise` names what is there, counts parameters, and is sure about its own files."""
        for case, weights in self.cases().items():
            _, _, found = self._recognised(case, weights, tmp_path)
            expected = _kinds_of(weights)
            assert found.holds in expected, f"{case}: holds {found.holds!r}, expected one of {sorted(expected)}"
            assert found.what.strip(), f"{case}: recognised without a word about what it is"
            assert all(count > 0 for count in found.parameters.values()), f"{case}: a part of no parameters"

    @Rule(Codec.recognise, "An equal source is recognised equally", "keep nothing between calls")
    def test_recognising_repeats_itself(self, tmp_path: Path) -> None:
        """Two codecs recognise one source equally, and so does one twice."""
        for case, weights in self.cases().items():
            source, codec, found = self._recognised(case, weights, tmp_path)
            assert codec.recognise(source) == found, f"{case}: recognised otherwise at the second look"
            again = self.build().recognise(_open(Path(source.url), self.given(case)))
            assert again == found, f"{case}: another codec of the same config says something else"

    @Rule(Codec.recognise, "Reads no tensor of", "go by names and shapes (TensorFile.infos) and by configs")
    def test_recognising_reads_no_large_tensor(self, tmp_path: Path) -> None:
        """`recognise` goes by names, shapes and configs."""
        for case, weights in self.cases().items():
            source, codec, _ = self._recognised(case, weights, tmp_path)
            watched = Watched(source)
            codec.recognise(watched)
            assert watched.largest <= SMALL, f"{case}: recognise read a tensor of {watched.largest} values"

    @Rule(Codec.recognise, "None for another format", "ask for names and shapes that only this format has")
    def test_is_silent_about_other_formats(self, tmp_path: Path) -> None:
        """`recognise` is None for files that are none of its own."""
        codec = self.build()
        for name, path in foreign(tmp_path):
            assert codec.recognise(_open(path)) is None, f"recognises {name} as its own"
        other = next((n for n in ("ldm",) if n != self.entry()[0].component.name), None)
        if other is not None:
            entry, _ = (self.catalog or installed()).get("codec", other)
            native = entry.component.load()(entry.component.config(), Site(size=(32, 32)))
            weights = next((w for w in self.cases().values() if w.first_stage is not None), None)
            if weights is not None:
                path = put(native.write(weights, "run").files, tmp_path / "native", "run")
                assert codec.recognise(_open(path)) is None, "takes a run's folder of ldm-core for its own format"

    @Rule(
        Codec.read,
        "while something is unknown",
        "raise ConfigError where recognise names unknown settings: a guess gives wrong pictures",
    )
    def test_refuses_what_is_unknown(self, tmp_path: Path) -> None:
        """While something is unknown, candidates are listed and `read` refuses, naming each setting."""
        made = self.undecided(tmp_path)
        if made is None:
            pytest.skip("the format says everything")
        path, settings = made
        codec, source = self.build(), _open(path)
        found = codec.recognise(source)
        assert found is not None, "does not recognise the file whose settings are open"
        assert sorted(found.unknown) == sorted(settings), f"unknown is {sorted(found.unknown)}, not {sorted(settings)}"
        assert all(list(candidates) for candidates in found.unknown.values()), "an open setting without candidates"
        said = str(must_raise(ConfigError, lambda: codec.read(source), "reading while settings are open"))
        assert all(setting in said for setting in settings), f"the error does not name every setting: {said}"
        known: dict[str, Any] = {}
        for dotted, candidates in found.unknown.items():
            known = overlay(known, _nested(dotted, next(iter(candidates))))
        again = self.build().recognise(_open(path, known))
        assert again is not None and not again.unknown, "what the user says of an open setting is not taken"

    @Rule(Codec, "It touches no global state", "work on copies, and draw nothing")
    def test_leaves_everything_as_it_was(self, tmp_path: Path) -> None:
        """Writing changes no weight, and nothing touches global random state, the default dtype or gradients."""
        for case, weights in self.cases().items():
            before = {w: {k: v.clone() for k, v in (getattr(weights, w) or {}).items()} for w in _PARTS}
            state = generators()
            codec, source = self.build(), _open(self.written(weights, tmp_path / case), self.given(case))
            codec.recognise(source)
            codec.read(source)
            after = generators()
            for name, a, b in zip(("torch", "numpy", "random"), state, after, strict=True):
                assert same(a, b), f"{case}: draws from the global generator of {name}"
            assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled(), f"{case}: a global setting"
            now = {w: getattr(weights, w) or {} for w in before}
            assert same(before, now), f"{case}: writing changed the weights that it was handed"

    @Rule(Codec.write, "Equal weights give equal bytes", "sort names, and write neither times nor places")
    def test_writes_the_same_bytes_again(self, tmp_path: Path) -> None:
        """Two writings of one model are equal files: hashes of converted weights can be compared."""
        for case, weights in self.cases().items():
            first, second = self.written(weights, tmp_path / case / "a"), self.written(weights, tmp_path / case / "b")
            a, b = contents_of(first), contents_of(second)
            assert a.keys() == b.keys(), f"{case}: other files at the second time"
            changed = [name for name in a if a[name] != b[name]]
            assert not changed, f"{case}: {changed[0] or 'the file'} has other bytes at the second time"

    @Rule(
        Codec,
        "A damaged file is a CheckpointError",
        "look before use: names, shapes and kinds of what is read, each with a CheckpointError of its own",
    )
    def test_broken_files_are_errors(self, tmp_path: Path) -> None:
        """Missing, renamed and reshaped tensors, changed configs and short files are errors or reported names; none
        raises another exception, or passes for whole."""
        for case, weights in self.cases().items():
            whole = self._kept(case, weights, tmp_path / case / "whole")
            for what, path in broken(whole, tmp_path / case, self.broken_files):
                try:
                    with suppress(LDMError):
                        self._pass_for_whole(f"{case}, {what}", path, case, weights)
                except (AssertionError, pytest.fail.Exception):
                    raise
                except Exception as error:
                    raise AssertionError(
                        f"{case}, {what}: {type(error).__name__} where a CheckpointError is due: {error}"
                    ) from error

    @Rule(Codec, "which run nothing that a file holds", "read by Source.tensors, config and text, and unpickle nothing")
    def test_runs_nothing_of_a_file(self, tmp_path: Path) -> None:
        """A pickle in the place of any file of the format is refused, and nothing of it runs."""
        for case, weights in self.cases().items():
            whole = self._kept(case, weights, tmp_path / case / "whole")
            for what, path in armed(whole, tmp_path / case):
                codec = self.build()
                with suppress(LDMError):
                    source = _open(path, self.given(case))
                    found = codec.recognise(source)
                    if found is not None and not found.unknown:
                        codec.read(source)
                assert not RAN, f"{case}: with {what}, the file's own code ran"

    @Rule(Codec.write, "before any file is written", "leave files to the core: give functions that return their bytes")
    def test_writes_no_file_by_itself(self, tmp_path: Path) -> None:
        """`write` and the functions that it gives touch no file."""
        folder = tmp_path / "empty"
        folder.mkdir()
        with chdir(folder):
            for case, weights in self.cases().items():
                for content in self.build().write(weights, self.name).files.values():
                    content()
                assert not list(folder.iterdir()), f"{case}: {next(folder.iterdir()).name} was written"

    @Rule(
        Codec.write, "ConfigError, all lines at once", "refuse names that the format has no place for, in write itself"
    )
    def test_drops_no_tensor_silently(self, tmp_path: Path) -> None:
        """A tensor of no name that the format knows is refused by `write`, or comes back, or is named as left over."""
        for case, weights in self.cases().items():
            part = next(part for part in reversed(_PARTS) if getattr(weights, part) is not None)
            tensors = dict(getattr(weights, part))
            name = f"{next(iter(tensors)).rpartition('.')[0]}.unknown_to_all"  # beside a tensor that it knows
            added: dict[str, Any] = {part: {**tensors, name: torch.ones(3)}}
            more = attrs.evolve(weights, **added)
            try:
                written = self.build().write(more, self.name)
            except LDMError:
                continue
            path = put(written.files, tmp_path / case, self.name)
            with suppress(LDMError):
                back = self.build().read(_open(path, self.given(case)))
                assert name in (getattr(back, part) or {}) or back.unexpected, f"{case}: {name} is lost without a word"

    def _pass_for_whole(self, what: str, path: Path, case: str, weights: ModelWeights) -> None:
        codec, source = self.build(), _open(path, self.given(case))
        found = codec.recognise(source)
        if found is None or found.unknown:
            return
        back = codec.read(source)
        if back.missing or back.unexpected:
            return
        for part in _PARTS:
            before, after = getattr(weights, part) or {}, getattr(back, part) or {}
            if before.keys() == after.keys() and all(after[k].shape == v.shape for k, v in before.items()):
                changed = [k for k, v in before.items() if not torch.equal(after[k].to(v.dtype), v)]
                assert not changed, f"{what}: is read without a word, and {changed[0]} has other values"

    def _kept(self, case: str, weights: ModelWeights, folder: Path) -> Path:
        """A copy under `folder` of what :meth:`written` made of `case` for the first test that asked."""
        own = _WRITTEN.setdefault(type(self), {})
        if case not in own:
            path = self.written(weights, folder / "first")
            own[case] = path.name, contents_of(path)
        name, contents = own[case]
        return put({inside: partial(contents.__getitem__, inside) for inside in contents}, folder, name)

    def _recognised(self, case: str, weights: ModelWeights, folder: Path) -> tuple[Source, Codec, Recognised]:
        path = self._kept(case, weights, folder / case)
        codec, source = self.build(), _open(path, self.given(case))
        found = codec.recognise(source)
        assert found is not None, f"{case}: does not recognise what it wrote"
        return source, codec, found


def _kinds_of(weights: ModelWeights) -> set[str]:
    """The parts of these weights, as `recognise` may name them."""
    if weights.adapter is not None:
        return {"adapter"}
    if weights.model is None:
        return {"first_stage"}
    return {"model"} if weights.first_stage is not None else {"denoiser", "conditioner"}


def _open(path: Path, given: Mapping[str, Any] = EMPTY) -> Source:
    from ldm_core.weights.source import open_source

    return open_source(str(path), given)


def _nested(dotted: str, value: Any) -> dict[str, Any]:
    head, _, rest = dotted.partition(".")
    return {head: _nested(rest, value) if rest else value}


def _same_tensors(
    case: str, what: str, before: Mapping[str, Tensor] | None, after: Mapping[str, Tensor] | None
) -> None:
    if before is None:
        assert not after, f"{case}: a {what} comes back that was not written"
        return
    assert after is not None, f"{case}: the {what} does not come back"
    lost, new = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
    assert not lost and not new, f"{case}: {what} lacks {lost[:3]} and has {new[:3]} beside"
    for name, value in before.items():
        back = after[name].to(value.dtype)
        assert back.shape == value.shape, f"{case}: {what} {name} is {tuple(back.shape)}, was {tuple(value.shape)}"
        assert torch.equal(back, value), f"{case}: {what} {name} comes back with other values"


def _parts_of(weights: ModelWeights, plain: Mapping[str, Any], suite: CodecSuite) -> dict[str, Any]:
    """The complete parts of a recipe, those without weights left out."""
    if weights.adapter is not None:
        plain = {"adapters": plain["adapters"]}
    recipe = resolve({k: v for k, v in plain.items() if k != "scale"}, suite.catalog or installed()).plain()
    keys = ["first_stage"] if weights.first_stage is not None else []
    model = weights.model or {}
    if any(name.startswith("denoiser.") for name in model):
        keys.append("denoiser")
        if weights.first_stage is not None:
            keys += ["schedule", "parameterization", "image_size"]
    keys += ["adapters"] if weights.adapter is not None else []
    out = {key: recipe[key] for key in keys}
    for row in recipe["conditioners"]:
        if any(name.startswith(f"conditioners.{row['name']}.") for name in model):
            out[f"conditioners.{row['name']}"] = {k: v for k, v in row.items() if k not in ("dropout", "train")}
    return out


__all__ = ["CodecSuite", "Watched", "put", "random_weights"]
