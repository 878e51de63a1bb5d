"""The installed components: discovers plugins through entry points, looks components up, reports broken ones."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

import attrs
import pluggy

from ldm_core.catalog import hookspecs
from ldm_core.catalog.component import API_VERSION, KINDS, Component, laptop_site
from ldm_core.catalog.entry_points import entry_points
from ldm_core.catalog.first_party import FIRST_PARTY
from ldm_core.catalog.in_process import HERE, NOT_HERE, component_of, is_part
from ldm_core.errors import ComponentError, suggest

if TYPE_CHECKING:
    from ldm_core.contracts.site import Site

GROUP = "ldm_core"


@attrs.frozen
class Entry:
    """One component as found: its descriptor and its origin."""

    component: Component
    distribution: str
    version: str
    plugin: str


@attrs.frozen
class Broken:
    """An unusable plugin or component, and the reason."""

    plugin: str
    distribution: str
    version: str
    error: str


class _Manager(pluggy.PluginManager):
    """Pluggy's, in a third of its time for a module: looks at the functions alone, which are all that it takes."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        if isinstance(plugin, ModuleType) and not isinstance(vars(plugin).get(name), _HOOKABLE):
            return None
        return super().parse_hookimpl_opts(plugin, name)


_HOOKABLE = (FunctionType, MethodType, staticmethod, classmethod)


class Catalog:
    """The components of one process. Make it with :meth:`discover`; a plain ``Catalog()`` discovers nothing."""

    def __init__(self) -> None:
        self.manager = _Manager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.broken: list[Broken] = []
        self._entries: dict[tuple[str, str], list[Entry]] = {}
        self._presets: dict[tuple[str, str], list[Entry]] = {}

    @classmethod
    def discover(cls, limit: Iterable[str] | None = None, *, kinds: Collection[str] | None = None) -> Catalog:
        """Load every entry point of the group ``ldm_core``, each on its own: a failing one is a row in `broken`.

        `limit`, or the environment variable ``LDM_PLUGINS=a,b``, keeps to the named entry points or distributions (the
        built-in one always loads). `kinds` keeps to components of these kinds, and leaves out the first-party
        distributions that bring none of them: a quick look.
        """
        catalog = cls()
        if limit is None and (named := os.environ.get("LDM_PLUGINS")) is not None:
            limit = named.split(",")
        wanted = None if limit is None else {n.strip() for n in limit if n.strip()} | {"builtin"}
        brings = {distribution for (kind, _), distribution in FIRST_PARTY.items() if kind in (kinds or KINDS)}
        needless = set(FIRST_PARTY.values()).difference(brings)
        seen: set[tuple[str, str]] = set()
        for point in sorted(entry_points(GROUP), key=lambda p: (p.name != "builtin", p.name)):
            dist = point.distribution
            if (point.name, point.value) in seen or (wanted is not None and not {point.name, dist} & wanted):
                continue
            if dist in needless:
                continue
            seen.add((point.name, point.value))
            try:
                catalog.register(point.load(), point.name, dist, point.version, kinds=kinds)
            except Exception as error:
                catalog.broken.append(Broken(point.name, dist, point.version, f"{type(error).__name__}: {error}"))
        return catalog

    def register(
        self,
        plugin: Any,
        name: str = "",
        distribution: str = "?",
        version: str = "?",
        *,
        kinds: Collection[str] | None = None,
    ) -> None:
        """Register one plugin module or object and collect its components; a faulty descriptor goes to `broken`.

        Or one part of this process, of a notebook, say: a :class:`Component` with a class as factory, or a subclass of
        a contract, called `name` or by its own (``PaletteGrid``: ``palette_grid``). A second one replaces the first.

        `kinds`: take components of these kinds alone. Raises the plugin's own errors, and :class:`ComponentError` for
        a hook that does not exist, a part that cannot be and a name that a distribution has.
        """
        if is_part(plugin):
            return self._register_here(component_of(plugin, name))
        if not name:
            raise ComponentError(
                f"{plugin!r} is no Component and no subclass of a contract; give the name of a plugin with hooks"
            )
        self.manager.register(plugin, name=name)
        try:
            self.manager.check_pending()
            impls = [i for i in self.manager.hook.ldm_components.get_hookimpls() if i.plugin is plugin]
            components = [component for impl in impls for component in _described(impl, kinds)]
        except BaseException:
            self.manager.unregister(plugin)
            raise
        for component in components:
            entry = Entry(component, distribution, version, name)
            if kinds is not None and isinstance(component, Component) and component.kind not in kinds:
                continue
            if not isinstance(component, Component):
                self.broken.append(Broken(name, distribution, version, f"{component!r} is no Component"))
            elif component.api != API_VERSION:
                why = (
                    f"{component.kind} '{component.name}' was written for plugin API {component.api}, this core "
                    f"speaks {API_VERSION}; update {distribution if component.api < API_VERSION else 'ldm-core'}"
                )
                self.broken.append(Broken(name, distribution, version, why))
            elif problems := component.problems():
                self.broken.append(Broken(name, distribution, version, f"'{component.name}': {'; '.join(problems)}"))
            else:
                self._entries.setdefault((component.kind, component.name), []).append(entry)
                for preset in component.presets:
                    if preset != component.name:
                        self._presets.setdefault((component.kind, preset), []).append(entry)

    def _register_here(self, component: Component) -> None:
        """Take a part of this process."""
        if problems := component.problems(in_process=True):
            raise ComponentError(f"{component.kind} '{component.name}': {'; '.join(problems)}")
        names = [(component.kind, name) for name in (component.name, *component.presets)]
        for key in names:
            found = [*self._entries.get(key, ()), *self._presets.get(key, ())]
            if taken := [e for e in found if e.distribution != HERE]:
                raise ComponentError(f"{key[0]} '{key[1]}' is taken by {taken[0].distribution}; give another name")
        before = self._entries.get(names[0], [])
        left = {k: rows for k, rows in self._presets.items() if k not in names}
        self._presets = {k: rows for k, rows in left.items() if all(e not in before for e in rows)}
        entry = Entry(component, HERE, "", HERE)
        self._entries[names[0]] = [entry]
        for key in names[1:]:
            if key[1] != component.name:
                self._presets[key] = [entry]

    def make(self, kind: str, name: str, /, site: Site | None = None, **settings: Any) -> Any:
        """Build one component without a recipe: ``catalog.make("sampler", "ddim", eta=0.5)``.

        `site` is the model around it, for a part that asks; without one, of 32-pixel images and latents (3, 8, 8).
        Raises :class:`ConfigError` for settings that it does not have, :class:`ComponentError` as :meth:`get`.
        """
        from ldm_core.config.structure import structure, unstructure

        entry, preset = self.get(kind, name)
        base = {} if preset is None else unstructure(preset)
        return entry.component.load()(
            structure({**base, **settings}, entry.component.config, name), site or laptop_site()
        )

    def __iter__(self) -> Iterator[Entry]:
        order = list(KINDS)
        for key in sorted(self._entries, key=lambda k: (order.index(k[0]), k[1])):
            yield from self._entries[key]

    def of(self, kind: str) -> Iterator[Entry]:
        """Yield the components of a kind, in the order of their registration."""
        for (its, _), entries in self._entries.items():
            if its == kind:
                yield from entries

    def configs(self, kind: str) -> Iterator[tuple[Entry, type]]:
        """Yield the components of a kind with their configs; one with a config that does not load goes to `broken`."""
        for entry in list(self.of(kind)):
            try:
                found = entry.component.config
            except ComponentError as error:
                self._entries[kind, entry.component.name].remove(entry)
                self._entries = {key: rows for key, rows in self._entries.items() if rows}
                self.broken.append(Broken(entry.plugin, entry.distribution, entry.version, str(error)))
                continue
            yield entry, found

    def claimed_twice(self) -> list[Broken]:
        """One row for each distribution with a name or preset also claimed by another."""
        rows = []
        for key in dict.fromkeys((*self._entries, *self._presets)):
            entries = [*self._entries.get(key, ()), *self._presets.get(key, ())]
            owners = " and ".join(f"{e.distribution} ({e.plugin})" for e in entries)
            why = f"{key[0]} '{key[1]}' is claimed by {owners}"
            rows += [Broken(e.plugin, e.distribution, e.version, why) for e in entries if len(entries) > 1]
        return rows

    def names(self, kind: str) -> list[str]:
        """Names and presets of a kind, sorted."""
        return sorted({n for k, n in (*self._entries, *self._presets) if k == kind})

    def lacking(self, parts: Iterable[tuple[str, str]]) -> list[str]:
        """First-party distributions with the parts, (kind, name) in `parts`, not installed here; each once."""
        found = (FIRST_PARTY.get((kind, name)) for kind, name in parts if name not in self.names(kind))
        return list(dict.fromkeys(distribution for distribution in found if distribution))

    def get(self, kind: str, name: str) -> tuple[Entry, Any]:
        """Look up a component or preset: (entry, preset's config or None).

        Raises :class:`ComponentError`: not installed (with the pip install for a first-party part, the nearest name,
        and broken plugins as the likely cause) or claimed by two distributions.
        """
        found = [*self._entries.get((kind, name), ()), *self._presets.get((kind, name), ())]
        if len(found) == 1:
            return found[0], found[0].component.presets.get(name)
        if found:
            owners = " and ".join(f"{e.distribution} ({e.plugin})" for e in found)
            raise ComponentError(
                f"{kind} '{name}' is claimed by {owners}; uninstall one of them, or set LDM_PLUGINS to the plugins to "
                "load"
            )
        known = self.names(kind)
        message = f"no {kind} named '{name}'"
        if (kind, name) in FIRST_PARTY:
            message += f"; it comes with: pip install {FIRST_PARTY[kind, name]}"
        else:
            other = next((k for k in KINDS if name in self.names(k)), None)
            hint = suggest(name, [*known, *(n for k, n in FIRST_PARTY if k == kind)])
            message += hint or (f"; '{name}' is a {other}" if other else NOT_HERE)
        message += f" (installed: {', '.join(known) or 'none'})"
        if self.broken:
            rows = "; ".join(f"{b.distribution}: {b.error}" for b in self.broken[:3])
            message += f"\nplugins that did not load, see `Catalog.broken`: {rows}"
        raise ComponentError(message)


def _described(hook: pluggy.HookImpl, kinds: Collection[str] | None) -> Iterable[Any]:
    """Call one plugin's hook, with `kinds` where it takes them."""
    function: Any = hook.function
    takes = "kinds" in (*hook.argnames, *hook.kwargnames)
    return function(kinds=kinds) if takes else function()  # type: ignore[no-any-return]
