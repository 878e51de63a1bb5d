"""The conformance suite of conditioners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ldm_core.contracts import Conditioner, ConditionerAnswers, ConditionerConfig, CondSpec, Site, configs
from ldm_core.contracts.conditioning import Cond, mask_of
from ldm_core.model.conformance.bundle import bundle_problems, null_problems
from ldm_core.testing import batches
from ldm_core.testing.base import largest_difference, randomize, same
from ldm_core.testing.promises.drawn_noise import DrawnNoiseSuite
from ldm_core.testing.promises.key_forms import KeyFormSuite
from ldm_core.testing.rules import Rule


class ConditionerSuite(DrawnNoiseSuite, KeyFormSuite):
    """Subclass it, set `component` and `settings`.

    The standard batch has image, caption, class_label, boxes, box_labels, segmentation, name and the picture's three
    sizes. A conditioner that reads a key of its own extends :meth:`batch`, which is no test and may be overridden; so
    may :meth:`examples`, from which ``fit`` learns.
    """

    kind = "conditioner"
    protocol: ClassVar[type] = Conditioner
    unused: ClassVar[tuple[str, ...]] = ()
    """Beginnings of the names of parameters that nothing uses, there so that published weights load."""

    def batch(self, rows: Sequence[int], size: Sequence[int]) -> dict[str, Any]:
        """The collated batch of the examples `rows`. Extend it by keys whose row i depends on rows[i] alone."""
        return batches.standard_batch(rows, size, self.image_channels)

    def examples(self) -> list[dict[str, Any]]:
        """Single examples as a data set gives them, for ``fit``."""
        return [batches.example(i, self.sizes[0], self.image_channels) for i in range(24)]

    def config(self, **overrides: Any) -> Any:
        """The config, with what it takes from the data filled in, as the core does."""
        config = super().config(**overrides)
        from_data = configs.of(ConditionerConfig, config).from_data
        return config if from_data is None else from_data(batches.INFO)

    def site(self, size: tuple[int, ...] | None = None) -> Site:
        """Size, latents, and a toy first stage's encode and decode."""
        return Site(
            size=size or self.sizes[0],
            channels=self.image_channels,
            latent=self.latent,
            encode=self._encode,
            decode=self._decode,
        )

    def build(
        self, overrides: Mapping[str, Any] | None = None, *, size: tuple[int, ...] | None = None, seed: int = 0
    ) -> Any:
        """A fresh conditioner, fitted where it can be."""
        built = super().build(overrides, size=size, seed=seed)
        if (fit := configs.of(ConditionerAnswers, built).fit) is not None:
            fit(self.examples())
        return built

    def fresh(self, seed: int) -> Any:
        """A newly built conditioner, not fitted."""
        return super().build(seed=seed)

    def inputs(self, rows: Sequence[int], size: tuple[int, ...]) -> dict[str, Any]:
        """The batch of `rows`."""
        return self.batch(rows, size)

    def run(self, component: Any, inputs: Any) -> dict[str, Tensor]:
        """Every part of encode and of null."""
        cond = component.encode(inputs)
        null = component.null(cond)
        return {**cond.flat(), **{f"null/{k}": v for k, v in null.flat().items()}}

    def row(self, name: str, outputs: Mapping[str, Tensor], index: int, alone: Mapping[str, Tensor]) -> Tensor:
        """A row of a batch; tokens that only padded it to the batch's longest must be masked, and are cut off."""
        return _cut_to(alone[name], outputs, name, index)

    @Rule(
        Conditioner,
        "`spec` holds the widths that it writes",
        "write what the config's spec(latent) declares, or declare what is written",
    )
    def test_spec_is_true(self) -> None:
        """Encode writes the parts that the spec of the conditioner and of the config declares."""
        for size in self.sizes:
            conditioner = self.build(size=size)
            declared = self.config().spec(self.latent)
            assert isinstance(declared, CondSpec), "config.spec(latent) is no CondSpec"
            assert conditioner.spec == declared, f"config.spec says {declared}, the conditioner {conditioner.spec}"
            with torch.no_grad():
                cond = conditioner.encode(self.batch(range(2), size))
            problems = list(bundle_problems(cond, declared, 2, self.latent.shape(size)[1:]))
            assert not problems, f"encode {'; '.join(problems)}"
            width, merged = CondSpec.merge({"it": declared}).crossattn, Cond.merge([cond], [declared]).crossattn
            assert (0 if merged is None else merged.shape[2]) == width, f"joined, its tokens are not {width} wide"

    @Rule(
        Conditioner,
        "`reads` the batch keys that it touches",
        "declare in reads, of the config and of the conditioner, every key that encode takes from the batch",
    )
    def test_reads_exactly_what_it_declares(self) -> None:
        """The keys that encode touches are `reads`, no more and no fewer; the config says the same."""
        conditioner = self.build()
        recording = batches.RecordingBatch(self.batch(range(2), self.sizes[0]))
        with torch.no_grad():
            conditioner.encode(recording)
        reads = set(conditioner.reads)
        assert set(self.config().reads) == reads, f"config.reads is {self.config().reads}, reads is {reads}"
        assert recording.touched <= reads, f"encode touches {sorted(recording.touched - reads)}, not in reads"
        assert reads <= recording.touched, f"reads names {sorted(reads - recording.touched)}, never touched"

    @Rule(
        Conditioner,
        "`reads` the batch keys that it touches",
        "declare in reads every key that encode takes from the batch",
    )
    def test_works_with_only_the_keys_it_reads(self) -> None:
        """A batch that holds nothing but `reads` is enough."""
        conditioner = self.build()
        full = self.batch(range(2), self.sizes[0])
        with torch.no_grad():
            a = conditioner.encode(full)
            b = conditioner.encode({k: full[k] for k in conditioner.reads})
        assert same(a.flat(), b.flat()), "encode differs when keys it does not read are left out"

    @Rule(
        Conditioner.null,
        "same parts, shapes, dtype and device",
        "make each part from that of `like`, as torch.zeros_like and expand_as do",
    )
    def test_null_matches_encode(self) -> None:
        """null(like) has the parts, shapes, dtypes and device of `like`, at other batch sizes, lengths and sizes."""
        for size in self.sizes:
            conditioner = self.build(size=size)
            for rows in (range(2), range(1), range(3)):
                with torch.no_grad():
                    like = conditioner.encode(self.batch(rows, size))
                self._check_null(conditioner, like, f"batch of {len(rows)} at {size}")
                if lengths := [v.shape[1] for part, v in like.flat().items() if mask_of(part)]:
                    self._check_null(conditioner, _longer(like, 2), "2 tokens more")
                    if min(lengths) > 1:
                        self._check_null(conditioner, _longer(like, -1), "1 token fewer")

    @Rule(
        Conditioner.null,
        "same parts, shapes, dtype and device",
        "make each part from that of `like`, as torch.zeros_like and expand_as do",
    )
    def test_null_matches_encode_under_bfloat16(self) -> None:
        """Under autocast too: a bundle and its null can stand in one batch."""
        conditioner = self.build()
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            like = conditioner.encode(self.batch(range(2), self.sizes[0]))
            self._check_null(conditioner, like, "under bfloat16 autocast")

    @Rule(
        Conditioner.null,
        "says nothing of the examples",
        "use of `like` its shapes, dtype and device alone, or return `like` itself",
    )
    def test_null_tells_nothing_of_the_example(self) -> None:
        """Each part of the null is either the bundle's own, kept on purpose, or the same for every example."""
        conditioner = self.build()
        with torch.no_grad():
            first = conditioner.encode(self.batch([0, 1], self.sizes[0]))
            second = conditioner.encode(self.batch([5, 7], self.sizes[0]))
            if any(v.shape != second.flat()[k].shape for k, v in first.flat().items()):
                second = first.map(lambda v: v.flip(0))
            a, b = conditioner.null(first).flat(), conditioner.null(second).flat()
        for name, value in a.items():
            kept = same(value, first.flat()[name])
            far = largest_difference(value.float(), b[name].float())
            assert kept or far <= self.atol, f"'{name}' of the null depends on the example (by {far:.2g})"

    @Rule(
        Conditioner.encode,
        "a mask is bool, True = attend",
        "keep one token of a row unmasked: an empty text and the null have one as well",
    )
    def test_masks_attend_to_something(self) -> None:
        """A mask is boolean, True = attend, and no row of encode or null is all False: backends differ there."""
        conditioner = self.build()
        with torch.no_grad():
            cond = conditioner.encode(self.batch(range(3), self.sizes[0]))
            null = conditioner.null(cond)
        for which, bundle in (("encode", cond), ("null", null)):
            for mask in [v for part, v in bundle.flat().items() if part.partition("/")[0].endswith("_mask")]:
                assert mask.dtype == torch.bool, f"the mask of {which} is {mask.dtype}, not bool"
                assert bool(mask.any(1).all()), f"a row of the mask of {which} attends to nothing"

    @Rule(Conditioner.encode, "other examples give other rows", "encode what the keys of the batch hold")
    def test_the_condition_matters(self) -> None:
        """Different examples get different conditioning."""
        conditioner = self.build()
        randomize(conditioner)
        with torch.no_grad():
            flat = conditioner.encode(self.batch([0, 1], self.sizes[0])).flat()
        assert any(not same(v[0], v[1]) for v in flat.values()), "two different examples are encoded the same"

    @Rule(
        Conditioner,
        "Encode and null together reach every parameter",
        "use each parameter in encode or in null, and drop the others; name those of published files in `unused`",
    )
    def test_training_reaches_every_parameter(self) -> None:
        """Encode and null together reach every parameter but the `unused`, so that joint training trains them all."""
        conditioner = self.build()
        randomize(conditioner)
        cond = self.drawn(conditioner, range(3), range(3))
        parts = [*cond.flat().values(), *conditioner.null(cond).flat().values()]
        outputs = [v for v in parts if v.requires_grad]
        if not outputs:
            assert not list(conditioner.parameters()), "no output depends on the parameters"
            return
        # A weighted sum: a plain one is constant behind a layer norm.
        loss = sum((v * torch.linspace(0.5, 1.5, v.numel()).view(v.shape).to(v)).sum() for v in outputs)
        assert isinstance(loss, Tensor)
        loss.backward()
        idle = {n for n, p in conditioner.named_parameters() if p.grad is None}
        lost = sorted(n for n in idle if not n.startswith(self.unused))
        assert not lost, f"no gradient reaches {', '.join(lost)}"

    def _check_null(self, conditioner: Any, like: Cond, where: str) -> None:
        with torch.no_grad():
            null = conditioner.null(like)
        problems = list(null_problems(null, like))
        assert not problems, f"{where}: null {'; '.join(problems)}"
        for name, got in null.flat().items():
            assert not got.is_floating_point() or bool(got.isfinite().all()), f"{where}: '{name}' of null is not finite"
        keep = torch.arange(like.rows() or 0) % 2 == 0
        like.where(keep, null)

    def _encode(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            pooled = F.avg_pool2d(image, self.latent.stride)
        return pooled.mean(1, keepdim=True).expand(-1, self.latent.channels, -1, -1).contiguous()

    def _decode(self, z: Tensor) -> Tensor:
        grey = z.mean(1, keepdim=True).repeat_interleave(self.latent.stride[0], 2)
        return grey.repeat_interleave(self.latent.stride[1], 3).expand(-1, self.image_channels, -1, -1).contiguous()


def _longer(cond: Cond, more: int) -> Cond:
    """Every set of tokens with `more` padding, or that many tokens fewer."""
    flat = cond.flat()
    for part in list(flat):
        if (mask := mask_of(part)) is not None:
            flat[part] = F.pad(flat[part], (0, 0, 0, more)).contiguous()
            if mask in flat:
                flat[mask] = F.pad(flat[mask], (0, more), value=False).contiguous()
    return cond.unflat(flat)


def _cut_to(other: Tensor, outputs: Mapping[str, Tensor], name: str, index: int) -> Tensor:
    """Row `index` of the output `name` without the masked tokens beyond the length of `other`."""
    value = outputs[name][index : index + 1]
    prefix = "null/" if name.startswith("null/") else ""
    masks = {part: own for part in outputs if (own := mask_of(part.removeprefix(prefix)))}
    masked_by = masks.get(name, name.removeprefix(prefix))
    if masked_by in masks.values() and value.shape[1] > other.shape[1]:
        mask = outputs.get(prefix + masked_by)
        assert mask is not None, "tokens are padded to the longest of the batch, without a mask"
        assert not bool(mask[index, other.shape[1] :].any()), "padding of the batch is not masked"
        value = value[:, : other.shape[1]]
    return value
