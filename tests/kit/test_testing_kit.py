"""The conformance kit's mechanics: what cannot be overridden, expected failures, and whole plugins."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import attrs
import pytest

from ldm_core.testing import ParameterizationSuite, PluginSuite, Suite, TimeGridSuite
from ldm_core.testing.running import catalog_of, failures
from ldm_core.testing.toys import FlowParameterization


@attrs.frozen(kw_only=True)
class Empty:
    pass


def flow(config: Any, site: Any) -> FlowParameterization:
    return FlowParameterization()


def _one_more(value: float) -> float:
    return value + 1.0


CATALOG = catalog_of("parameterization", "flow", Empty, flow)


def test_a_standard_test_cannot_be_overridden() -> None:
    with pytest.raises(TypeError) as caught:

        class Mine(TimeGridSuite):
            component = "legacy"

            def test_times(self, name: str) -> None:
                pass

    for word in ("Mine", "test_times", 'xfail = {"test_times": "reason"}'):
        assert word in str(caught.value)


def test_it_cannot_be_switched_off_either() -> None:
    with pytest.raises(TypeError, match="test_builds_by_name"):
        type("Mine", (TimeGridSuite,), {"test_builds_by_name": None})


def test_a_mixin_does_not_get_around_it() -> None:
    class Quiet:
        def test_repeats_itself(self) -> None:
            pass

    with pytest.raises(TypeError, match="test_repeats_itself"):
        type("Mine", (Quiet, TimeGridSuite), {})


def test_a_test_of_ones_own_may_be_added() -> None:
    class Mine(TimeGridSuite):
        def test_something_special(self) -> None:
            pass

    assert "test_something_special" in dir(Mine)


@pytest.mark.parametrize("reason", ["", "   ", None])
def test_xfail_needs_a_reason(reason: Any) -> None:
    with pytest.raises(TypeError, match="reason"):
        type("Mine", (TimeGridSuite,), {"xfail": {"test_times": reason}})


def test_xfail_names_must_exist() -> None:
    with pytest.raises(TypeError, match="test_tiems"):
        type("Mine", (TimeGridSuite,), {"xfail": {"test_tiems": "a typing error"}})


def test_xfail_marks_the_copy_and_not_the_suite() -> None:
    class Mine(TimeGridSuite):
        xfail = {"test_times": "needs another table"}  # noqa: RUF012

    class Younger(Mine):
        component = "other"

    for cls in (Mine, Younger):
        marks = [m for m in cls.test_times.pytestmark if m.name == "xfail"]  # type: ignore[attr-defined]
        assert marks and all(m.kwargs == {"reason": "needs another table", "strict": True} for m in marks)
        assert [m.name for m in cls.test_times.pytestmark].count("parametrize") == 1  # type: ignore[attr-defined]
    assert all(m.name != "xfail" for m in TimeGridSuite.test_times.pytestmark)  # type: ignore[attr-defined]


def test_a_known_failure_is_expected_and_a_mended_one_reported(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent(
            """
            import attrs
            from ldm_core.testing import ParameterizationSuite
            from ldm_core.testing.running import catalog_of
            from ldm_core.testing.toys import FlowParameterization

            @attrs.frozen(kw_only=True)
            class Empty:
                pass

            class Wrong(FlowParameterization):
                def coefficients(self, alpha, sigma):
                    a, b, c = super().coefficients(alpha, sigma)
                    return a, 2 * b, c

            class TestWrong(ParameterizationSuite):
                component = "flow"
                catalog = catalog_of("parameterization", "flow", Empty, lambda config, site: Wrong())
                xfail = {"test_exact_output_gives_x0_back": "off by a factor"}

            class TestMended(ParameterizationSuite):
                component = "flow"
                catalog = catalog_of("parameterization", "flow", Empty, lambda config, site: FlowParameterization())
                xfail = {"test_repeats_itself": "was so once"}
            """
        )
    )
    options = ("-rfx", "-c", "/dev/null", "--rootdir", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, str(tmp_path / "test_it.py")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", "PATH": ""},
    )
    assert "4 xfailed" in done.stdout, done.stdout  # on each of the four schedules
    assert "1 failed" in done.stdout and "[XPASS(strict)] was so once" in done.stdout, done.stdout


def test_suites_are_not_collected_by_themselves() -> None:
    import ldm_core.testing as kit

    for name in kit.__all__:
        assert not name.startswith("Test"), name
        assert issubclass(getattr(kit, name), Suite)
        assert name.endswith("Suite")


def test_an_unknown_name_says_so() -> None:
    class Mine(ParameterizationSuite):
        component = "flwo"
        catalog = CATALOG

    assert "did you mean 'flow'" in failures(Mine)["test_builds_by_name"]


def test_a_missing_attribute_says_so() -> None:
    class Mine(ParameterizationSuite):
        catalog = CATALOG

    assert "set the attribute component" in failures(Mine)["test_builds_by_name"]


def test_a_config_must_be_frozen_and_by_keyword() -> None:
    @attrs.define(kw_only=True)
    class Thawed:
        scale: float = 1.0

    @attrs.frozen
    class Positional:
        scale: float = 1.0

    for config, word in ((Thawed, "DID NOT RAISE"), (Positional, "by position")):

        class Mine(ParameterizationSuite):
            component = "flow"
            catalog = catalog_of("parameterization", "flow", config, flow)

        found = failures(Mine)
        assert set(found) == {"test_config_is_frozen_and_round_trips"}
        assert word in found["test_config_is_frozen_and_round_trips"]


def test_a_config_that_does_not_come_back_is_found() -> None:
    @attrs.frozen(kw_only=True)
    class Lossy:
        scale: float = attrs.field(default=1.0, converter=_one_more)

    class Mine(ParameterizationSuite):
        component = "flow"
        catalog = catalog_of("parameterization", "flow", Lossy, flow)

    assert set(failures(Mine)) == {"test_config_is_frozen_and_round_trips"}


PLUGIN = """
from __future__ import annotations
import attrs
{imports}
from ldm_core import Component, hookimpl

@attrs.frozen(kw_only=True)
class GoodConfig:
    scale: float = 1.0
    sizes: tuple[int, ...] = (1, 2)

@hookimpl
def ldm_components():
    {inside}
    return [Component(kind="parameterization", name="good", config=GoodConfig, factory={factory!r},
                      summary={summary!r}, presets={{"good_2": GoodConfig(scale=2.0, sizes=(3,))}}, api={api})]
"""


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        ({}, set()),
        ({"imports": "import torch"}, {"test_describing_imports_nothing_heavy"}),
        ({"inside": "import sentencepiece_stand_in"}, set()),
        ({"inside": "import matplotlib"}, {"test_describing_imports_nothing_heavy"}),
        ({"factory": "ldm_core.testing.toys:Missing"}, {"test_every_factory_imports"}),
        ({"summary": " "}, {"test_every_component_has_a_summary"}),
        ({"summary": "two\nlines"}, {"test_every_component_has_a_summary"}),
        ({"api": "99"}, {"test_meets_the_protocol", "test_builds_by_name"}),
    ],
    ids=["right", "heavy import", "light import", "heavy when asked", "factory", "blank", "two lines", "api"],
)
def test_plugins(
    change: dict[str, str], fails: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any
) -> None:
    parts = {
        "imports": "",
        "inside": "pass",
        "factory": "ldm_core.testing.toys:FlowParameterization",
        "summary": "a good one",
        "api": "1",
    }
    name = "ldm_kit_plugin_" + request.node.callspec.id.replace(" ", "_")
    (tmp_path / f"{name}.py").write_text(PLUGIN.format(**{**parts, **change}))
    (tmp_path / "sentencepiece_stand_in.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = type("Mine", (PluginSuite,), {"module": name, "__module__": __name__})
    found = failures(mine)
    assert set(found) == fails, found


def test_a_distribution_that_is_not_installed_says_so() -> None:
    mine = type("Mine", (PluginSuite,), {"distribution": "ldm-plugin-nowhere", "__module__": __name__})
    assert "not installed" in failures(mine)["test_builds_by_name"]
