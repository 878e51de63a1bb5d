"""The hand-written pages of docs/: their worked examples work, and the names in them exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from forked import Command, Ended, forked
from written_pages import midpoint, page, put

PAGES = ("plugins",)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_short_and_reads_well_on_a_forge(name: str) -> None:
    text = page(name)
    assert len(text.splitlines()) <= 265
    assert not re.search(r"^(```\{|:::|\.\. )|\{(ref|doc|class|func|term)\}`", text, re.MULTILINE)


def kit(folder: Path, *options: str) -> Ended:
    """The plugin's own tests, of a Python that finds it by its entry point."""
    line = ["pytest", "-q", "-p", "no:cacheprovider", "-k", "not accelerator", *options]
    command = Command(line, folder, [str(folder / "site")], {"LDM_PLUGINS": "midpoint"})
    (done,) = forked([command], imports=["pytest", "ldm_core.testing"])
    return done


def test_the_sampler_of_the_page_passes_the_kit(tmp_path: Path) -> None:
    put(midpoint(), tmp_path)
    done = kit(tmp_path)
    assert done.code == 0, done.out + done.err
    assert re.search(r"^\d+ passed", done.out.splitlines()[-1])


def test_the_kit_quotes_what_the_page_says(tmp_path: Path) -> None:
    files = dict(midpoint())
    path = "ldm_plugin_midpoint/sampler.py"
    changed = files[path].replace("steps.done(i, steps.euler(i, x, x0), x0)", "steps.euler(i, x, x0)")
    assert changed != files[path]
    put({**files, path: changed}, tmp_path)
    done = kit(tmp_path, "-k", "TestMidpoint and test_on_step_is_called_after_each_step")
    assert done.code == 1
    assert "a tensor that it returns replaces" in done.out and "other = on_step(i, times[i + 1], x, x0)" in done.out
