"""The catalog: discovery that one plugin cannot break, names, presets, duplicates and what an unknown name is told."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from ldm_core import Component, hookimpl
from ldm_core.catalog import Catalog
from ldm_core.catalog.component import API_VERSION, KINDS
from ldm_core.catalog.first_party import FIRST_PARTY
from ldm_core.errors import ComponentError


@attrs.frozen(kw_only=True)
class Config:
    width: int = 8


@attrs.frozen(kw_only=True)
class Other:
    width: int = 8


def component(kind: str = "sampler", name: str = "mine", **changes: Any) -> Component:
    values: dict[str, Any] = {"config": Config, "factory": "json:loads", "summary": "a summary"}
    return Component(kind=kind, name=name, **{**values, **changes})


class Plugin:
    def __init__(self, *components: Any) -> None:
        self.components = components

    @hookimpl
    def ldm_components(self) -> list[Any]:
        return list(self.components)


def catalog(**plugins: Plugin) -> Catalog:
    made = Catalog()
    for name, plugin in plugins.items():
        made.register(plugin, name, f"dist-{name}", "1.2")
    return made


def test_a_plain_catalog_discovers_nothing() -> None:
    assert list(Catalog()) == [] and Catalog().names("sampler") == []


def test_components_and_presets_are_found() -> None:
    wide = Config(width=32)
    made = catalog(a=Plugin(component(presets={"wide": wide, "mine": Config(width=9)})))
    entry, preset = made.get("sampler", "mine")
    assert (entry.distribution, entry.version, entry.plugin) == ("dist-a", "1.2", "a")
    assert preset == Config(width=9)  # a preset of the component's own name is its default
    assert made.get("sampler", "wide") == (entry, wide)
    assert made.names("sampler") == ["mine", "wide"]


def test_a_name_is_of_its_kind() -> None:
    made = catalog(a=Plugin(component("sampler", "same"), component("guidance", "same")))
    assert made.get("sampler", "same")[0].component.kind == "sampler"
    assert made.get("guidance", "same")[0].component.kind == "guidance"
    with pytest.raises(ComponentError, match=r"no denoiser named 'same'.*'same' is a"):
        made.get("denoiser", "same")


def test_listing_is_in_the_order_of_kinds() -> None:
    given = [("guidance", "b"), ("sampler", "z"), ("first_stage", "c"), ("sampler", "a")]
    made = catalog(a=Plugin(*(component(kind, name) for kind, name in given)))
    assert [(e.component.kind, e.component.name) for e in made] == [
        ("first_stage", "c"),
        ("sampler", "a"),
        ("sampler", "z"),
        ("guidance", "b"),
    ]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (component(), component()),
        (component(presets={"shared": Config()}), component(name="other", presets={"shared": Config()})),
        (component(name="shared"), component(name="other", presets={"shared": Config()})),
    ],
)
def test_a_name_claimed_twice_names_both_distributions(a: Component, b: Component) -> None:
    made = catalog(first=Plugin(a), second=Plugin(b))
    name = "mine" if a.name == b.name else "shared"
    with pytest.raises(ComponentError) as caught:
        made.get("sampler", name)
    for word in (name, "dist-first", "dist-second", "LDM_PLUGINS"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (component(api=API_VERSION + 1), (f"API {API_VERSION + 1}", f"speaks {API_VERSION}", "ldm-core")),
        (component(api=API_VERSION - 1), (f"API {API_VERSION - 1}", "update dist-a")),
        (component(kind="smapler"), ("unknown kind 'smapler'",)),
        (component(factory="json.loads"), ("'json.loads' is not 'package.module:callable'",)),
        (component(config=int), ("no attrs class",)),
        (component(config="json.loads"), ("config 'json.loads' is not 'package.module:Class'",)),
        (component(name="not a name"), ("identifier",)),
        (component(presets={"other": Other()}), ("preset 'other' is no Config",)),
        ("a word", ("'a word' is no Component",)),
    ],
)
def test_a_faulty_descriptor_is_one_row_and_spares_the_others(wrong: Any, words: tuple[str, ...]) -> None:
    made = catalog(a=Plugin(component("guidance", "good"), wrong))
    assert [e.component.name for e in made] == ["good"]
    (row,) = made.broken
    assert (row.plugin, row.distribution, row.version) == ("a", "dist-a", "1.2")
    for word in words:
        assert word in row.error


def test_a_config_and_presets_given_as_text_are_imported_when_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "late_config.py").write_text(
        "import attrs\n\n@attrs.frozen(kw_only=True)\nclass Late:\n    width: int = 3\n\n"
        "ONE = Late(width=4)\nTABLE = {'of_table': Late(width=5), 'wrong': 6}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "late_config", raising=False)
    presets = {"one": "late_config:ONE", **dict.fromkeys(("of_table", "wrong", "missing"), "late_config:TABLE")}
    late = component(config="late_config:Late", presets=presets, small={"width": 1})
    made = catalog(a=Plugin(late))
    assert not made.broken and not made.claimed_twice()
    assert made.names("sampler") == ["mine", "missing", "of_table", "one", "wrong"] and "one" in late.presets
    assert "late_config" not in sys.modules
    assert [made.get("sampler", name)[1].width for name in ("one", "of_table")] == [4, 5]
    assert made.get("sampler", "mine")[1] is None and late.config is type(late.presets["one"])
    for name, words in {"wrong": "late_config:TABLE is no Late", "missing": "does not load: KeyError"}.items():
        with pytest.raises(ComponentError, match=f"preset '{name}': .*{words}"):
            made.get("sampler", name)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("not_there.config:Config", "does not load: ModuleNotFoundError"),
        ("json:Lost", "does not load: AttributeError"),
        ("json:loads", "is no attrs class"),
    ],
)
def test_a_config_that_does_not_load_is_an_error_where_it_is_used_and_spares_the_others(place: str, words: str) -> None:
    made = catalog(a=Plugin(component(name="good"), component(name="late", config=place)))
    with pytest.raises(ComponentError, match=f"sampler 'late': its config, {place}, {words}"):
        _ = made.get("sampler", "late")[0].component.config
    assert [(entry.component.name, found) for entry, found in made.configs("sampler")] == [("good", Config)]
    assert [row.plugin for row in made.broken] == ["a"] and made.names("sampler") == ["good"]


def test_a_component_of_this_process_is_called_as_asked() -> None:
    made = Catalog()
    own = component(factory=lambda config, site: config)
    made.register(own, "other")
    made.register(own)
    assert made.names("sampler") == ["mine", "other"] and own.name == "mine"
    assert made.get("sampler", "other")[0].component == attrs.evolve(own, name="other")
    assert made.make("sampler", "other", width=3) == Config(width=3)
    with pytest.raises(ComponentError, match="identifier"):
        made.register(own, "not a name")


def test_kinds_keep_to_what_is_asked_for() -> None:
    class Told:
        asked: Any = "nothing"

        @hookimpl
        def ldm_components(self, kinds: Any) -> list[Any]:
            self.asked = kinds
            return [component("guidance", "a"), component("sampler", "b")]

    made, told = Catalog(), Told()
    made.register(told, "told", kinds={"sampler"})
    made.register(Plugin(component("guidance", "c"), component("sampler", "d")), "untold", kinds={"sampler"})
    assert told.asked == {"sampler"}
    assert [(e.component.kind, e.component.name) for e in made] == [("sampler", "b"), ("sampler", "d")]


def test_a_quick_look_finds_all_of_its_kind() -> None:
    """First-party distributions that bring none of the kind are not even imported."""
    for kind in ("command", "sampler"):
        whole, quick = Catalog.discover(), Catalog.discover(kinds={kind})
        assert list(quick.of(kind)) == list(whole.of(kind)) and quick.names(kind)
        assert {e.component.kind for e in quick} == {kind}


def test_a_plugin_that_raises_is_taken_out_whole() -> None:
    class Raises:
        @hookimpl
        def ldm_components(self) -> list[Any]:
            raise RuntimeError("no licence file")

    made, plugin = Catalog(), Raises()
    with pytest.raises(RuntimeError, match="no licence file"):
        made.register(plugin, "raises")
    assert not made.manager.is_registered(plugin)
    made.register(Plugin(component()), "good")
    assert made.names("sampler") == ["mine"]


def test_a_hook_that_does_not_exist_is_an_error() -> None:
    class Misspelt:
        @hookimpl
        def ldm_component(self) -> list[Any]:
            return []

    with pytest.raises(Exception, match="ldm_component"):
        Catalog().register(Misspelt(), "misspelt")


@pytest.mark.parametrize(("kind", "name"), FIRST_PARTY)
def test_a_first_party_name_answers_with_its_pip_install(kind: str, name: str) -> None:
    with pytest.raises(ComponentError) as caught:
        Catalog().get(kind, name)
    assert f"no {kind} named '{name}'; it comes with: pip install {FIRST_PARTY[kind, name]}" in str(caught.value)


def test_a_near_name_is_suggested() -> None:
    made = catalog(a=Plugin(component(name="vq_f8", kind="first_stage"), component(name="vq_f4", kind="first_stage")))
    with pytest.raises(ComponentError) as caught:
        made.get("first_stage", "vq_f88")
    assert str(caught.value) == "no first_stage named 'vq_f88'; did you mean 'vq_f8'? (installed: vq_f4, vq_f8)"


def test_a_name_like_no_other_tells_of_an_installation_that_is_missing() -> None:
    with pytest.raises(ComponentError, match=r"'mine'; install its distribution \(pip install -e FOLDER\)"):
        catalog(a=Plugin(component(name="vq_f8", kind="first_stage"))).get("sampler", "mine")


def test_broken_plugins_are_named_as_the_likely_cause() -> None:
    made = catalog(a=Plugin(component(api=99)))
    with pytest.raises(ComponentError, match=r"did not load, see `Catalog.broken`: dist-a: .*API 99"):
        made.get("sampler", "mine")


def test_load_reaches_into_classes() -> None:
    assert component(factory="pathlib:Path.home").load() == Path.home
    assert component().load()('{"a": 1}') == {"a": 1}
    with pytest.raises(ModuleNotFoundError):
        component(factory="no_such_module_anywhere:thing").load()


def test_every_kind_has_words() -> None:
    assert all(words for words in KINDS.values())
    assert {k for k, _ in FIRST_PARTY} <= KINDS.keys()


def install(folder: Path, name: str, body: str, *, entry: str | None = None, version: str = "0.3") -> None:
    """A distribution on sys.path, as an installer would lay it down."""
    module = f"kit_{name}"
    (folder / f"{module}.py").write_text(textwrap.dedent(body))
    info = folder / f"dist_{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dist-{name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[ldm_core]\n{name} = {entry or module}\n")


GOOD = """
    import attrs
    from ldm_core import Component, hookimpl
    @attrs.frozen(kw_only=True)
    class Config:
        width: int = 8
    @hookimpl
    def ldm_components():
        return [Component(kind="sampler", name="{name}", config=Config, factory="json:loads", summary="s")]
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("LDM_PLUGINS", raising=False)
    install(tmp_path, "good", GOOD.format(name="kit_good"))
    install(tmp_path, "other", GOOD.format(name="kit_other"))
    install(tmp_path, "raising", "raise ImportError('libsomething.so is missing')")
    install(tmp_path, "exiting", "import no_such_module_anywhere")
    install(tmp_path, "hookless", "answer = 42")
    return {"PYTHONPATH": str(tmp_path)}


def test_discovery_isolates_what_does_not_load(installed: Any) -> None:
    made = Catalog.discover()
    assert {"kit_good", "kit_other"} <= set(made.names("sampler"))
    rows = {b.distribution: b for b in made.broken}
    assert rows["dist-raising"].error == "ImportError: libsomething.so is missing"
    assert (rows["dist-raising"].plugin, rows["dist-raising"].version) == ("raising", "0.3")
    assert "no_such_module_anywhere" in rows["dist-exiting"].error
    entry, _ = made.get("sampler", "kit_good")
    assert (entry.distribution, entry.version, entry.plugin) == ("dist-good", "0.3", "good")


def test_discovery_can_be_limited(installed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for named in ("good", "dist-good", " good , "):
        monkeypatch.setenv("LDM_PLUGINS", named)
        made = Catalog.discover()
        assert "kit_good" in made.names("sampler") and "kit_other" not in made.names("sampler")
        assert "dist-raising" not in {b.distribution for b in made.broken}
    assert "kit_other" in Catalog.discover(["other"]).names("sampler")
    assert "kit_good" not in Catalog.discover([]).names("sampler")


def test_discovery_imports_no_torch(installed: Mapping[str, str]) -> None:
    code = "import sys; from ldm_core.catalog import Catalog; Catalog.discover(); sys.exit('torch' in sys.modules)"
    path = ":".join([installed["PYTHONPATH"], *sys.path])
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, check=False).returncode == 0
