"""OpenVINO as a runtime: each network is converted once, kept on disk, and compared with torch wherever it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock, local
from typing import Any

import attrs
from torch import Tensor

from ldm_core.contracts import Cond, Network, Runtime, Site
from ldm_core.errors import ConfigError
from ldm_core.model.exchange.flat_network import flat_arguments, options_of
from ldm_plugin_openvino import cache, conversion, identity
from ldm_plugin_openvino.config import OpenVINOConfig
from ldm_plugin_openvino.library import library

_MOST_SIZES = 8
"""Models of one size each that are kept in memory, of a network for which none fits all sizes."""


class OpenVINORuntime(Runtime):
    """The denoiser and both halves of the first stage on OpenVINO."""

    def __init__(self, config: OpenVINOConfig, site: Site) -> None:
        self.words = f"openvino {library().__version__.partition('-')[0]}"
        cache.require_own(cache.folder())

    def function(self, network: Network) -> Callable[..., Tensor]:
        """The function of a network on OpenVINO. ConfigError off the CPU and in fp16; a network that does not run in
        fp32 stays torch's, since it is traced in fp32."""
        device = next((p.device.type for p in network.module.parameters()), "cpu")
        if device != "cpu":
            raise ConfigError(f"sample.runtime=openvino: computes on a CPU, and the model is on {device}; leave it out")
        if network.precision == "fp16":
            raise ConfigError("sample.runtime=openvino: computes in fp32 or bf16 on a CPU, not in fp16; choose bf16")
        return _Function(network) if "fp32" in network.precisions else network.call


@attrs.frozen
class _Form:
    """A kind of call: its arguments with their sizes but the batch, and its static options."""

    arguments: tuple[tuple[str, str, tuple[int, ...]], ...]
    options: str

    @classmethod
    def of(cls, given: Mapping[str, Tensor], options: Mapping[str, Any]) -> _Form:
        rows = tuple((name, str(value.dtype), tuple(value.shape[1:])) for name, value in given.items())
        return cls(rows, repr(sorted(options.items())))

    @property
    def any_size(self) -> _Form:
        return attrs.evolve(self, arguments=tuple((n, kind, (len(shape),)) for n, kind, shape in self.arguments))


class _Function:
    """One network: a model of OpenVINO for each kind of call."""

    def __init__(self, network: Network) -> None:
        self._network, self._lock, self._threads = network, Lock(), local()
        self._weights = ""
        self._models: dict[_Form, Any] = {}  # by form, the sizes open or not
        self._used: dict[_Form, Any] = {}  # by form with its sizes

    def __call__(self, *arguments: Any) -> Tensor:
        """The network's result for the arguments of its call, float32."""
        given, options = flat_arguments(arguments), options_of(arguments)
        form = _Form.of(given, options)
        model = self._used.get(form)
        if model is None:
            with self._lock:
                model = self._used.get(form) or self._found(form, given, arguments)
        return conversion.run(self._request(model), given)

    def _request(self, model: Any) -> Any:
        """A request of this thread alone."""
        requests: dict[int, tuple[Any, Any]] = self._threads.__dict__.setdefault("requests", {})
        if id(model) not in requests:
            requests[id(model)] = model, model.create_infer_request()  # the model keeps its id
        return requests[id(model)][1]

    def _found(self, form: _Form, given: Mapping[str, Tensor], arguments: Sequence[Any]) -> Any:
        """A model for `form` whose results are torch's: the one of all sizes, or else one of this size."""
        said = ""
        for fixed in (False, True):
            key = form if fixed else form.any_size
            for anew in (False, True):
                try:
                    if anew or key not in self._models:
                        self._models[key] = self._made(key, given, arguments, fixed=fixed, anew=anew)
                    if (said := self._difference(self._models[key], given, arguments)) == "":
                        return self._keep(form, self._models[key])
                except ValueError as error:
                    said = str(error)
        raise ConfigError(
            f"sample.runtime=openvino: {self._network.name} cannot be computed there: {said}; leave sample.runtime out"
        )

    def _keep(self, form: _Form, model: Any) -> Any:
        own = [each for each in self._used if each in self._models]
        for each in own[: max(len(own) + 1 - _MOST_SIZES, 0)]:
            del self._used[each], self._models[each]
        self._used[form] = model
        return model

    def _made(
        self, key: _Form, given: Mapping[str, Tensor], arguments: Sequence[Any], *, fixed: bool, anew: bool
    ) -> Any:
        self._weights = self._weights or identity.module_hash(self._network)
        name = identity.key_of(self._weights, key)
        file = None if anew else cache.find(name)
        if file is not None:
            try:
                return conversion.compiled(file, self._network.precision)
            except RuntimeError:  # OpenVINO's, of a file that it does not take
                file = None
        made = conversion.converted(self._network, given, options_of(arguments), fixed=fixed)
        file = cache.keep(name, lambda path: _save(made, path))
        return conversion.compiled(file or made, self._network.precision)

    def _difference(self, model: Any, given: Mapping[str, Tensor], arguments: Sequence[Any]) -> str:
        """The reason why the model's result for the first row is not torch's; "" if it is."""
        row = [a.map(lambda v: v[:1]) if isinstance(a, Cond) else a[:1] for a in arguments]
        wanted = self._network.call(*row).float()
        try:
            found = conversion.run(self._request(model), {name: value[:1] for name, value in given.items()})
        except RuntimeError as error:  # OpenVINO's, of a size that was traced as a constant
            return conversion.first_line(error)
        far, bound = conversion.distance(found, wanted), conversion.BOUNDS[self._network.precision]
        return "" if far <= bound else f"its results differ from torch's by {far:.2g} (bound {bound:g})"


def _save(made: Any, path: Path) -> None:
    library().save_model(made, path, compress_to_fp16=False)
