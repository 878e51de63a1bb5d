"""Progress: plain lines where there is no terminal, a bar where there is one."""

from __future__ import annotations

import io

import pytest

from ldm_core.catalog import Catalog
from ldm_core.cli.progress import Progress, Speed, duration, loss_text, memory, pace_text


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _run(quiet: bool = False, seconds_per_step: float = 0.5, steps: int = 100) -> str:
    clock, stream = _Clock(), io.StringIO()
    catalog = Catalog()
    catalog.manager.register(Progress(stream, quiet=quiet, terminal=False, clock=clock))
    hook = catalog.manager.hook
    hook.ldm_run_start(recipe={}, out="runs/x")
    hook.ldm_stage_end(stage="first_stage", status="skipped")
    hook.ldm_stage_end(stage="latents", status="done")
    hook.ldm_stage_start(stage="denoiser", steps=steps, start=0)
    for step in range(1, steps + 1):
        clock.now += seconds_per_step
        hook.ldm_step(stage="denoiser", step=step, logs={"loss": 1 / step, "lr": 1e-3} if step % 20 == 0 else {})
    hook.ldm_message(text="a note", level="info")
    hook.ldm_message(text="take care", level="warning")
    hook.ldm_message(text="take care", level="warning")
    hook.ldm_images(stage="denoiser", step=steps, name="loss.png", url="runs/x/loss.png")
    hook.ldm_stage_end(stage="denoiser", status="done")
    hook.ldm_run_end(status="done")
    return stream.getvalue()


def test_lines_without_a_terminal() -> None:
    """A line each tenth of the steps, the loss as it was last told, and the time left at constant speed."""
    assert _run().splitlines() == [
        "first stage: already done, skipped",
        "latents: done",
        "denoiser: 100 steps",
        "denoiser: 10/100 (10%) 2 steps/s, 45 s left",
        "denoiser: 20/100 (20%) loss 0.05, 2 steps/s, 40 s left",
        "denoiser: 30/100 (30%) loss 0.05, 2 steps/s, 35 s left",
        "denoiser: 40/100 (40%) loss 0.025, 2 steps/s, 30 s left",
        "denoiser: 50/100 (50%) loss 0.025, 2 steps/s, 25 s left",
        "denoiser: 60/100 (60%) loss 0.01667, 2 steps/s, 20 s left",
        "denoiser: 70/100 (70%) loss 0.01667, 2 steps/s, 15 s left",
        "denoiser: 80/100 (80%) loss 0.0125, 2 steps/s, 10 s left",
        "denoiser: 90/100 (90%) loss 0.0125, 2 steps/s, 5 s left",
        "denoiser: 100/100 (100%) loss 0.01, 2 steps/s",
        "a note",
        "warning: take care",
        "denoiser: wrote runs/x/loss.png",
        "denoiser: done in 50 s, loss 0.01",
    ]


def test_a_slow_stage_speaks_every_ten_seconds() -> None:
    lines = [line for line in _run(seconds_per_step=4.0, steps=1000).splitlines() if "/1000" in line]
    assert lines[0] == "denoiser: 3/1000 (0%) 4 s/step, 1 h 06 min left"
    assert len(lines) == 333


def test_a_fast_stage_does_not_flood() -> None:
    lines = [line for line in _run(seconds_per_step=0.001).splitlines() if "/100 " in line]
    assert lines == []


def test_quiet_leaves_warnings() -> None:
    assert _run(quiet=True) == "warning: take care\n"


def test_going_on() -> None:
    clock, stream = _Clock(), io.StringIO()
    progress = Progress(stream, terminal=False, clock=clock)
    progress.ldm_stage_start("denoiser", 100, 60)
    clock.now += 20
    progress.ldm_step("denoiser", 70, {"psnr": 31.5, "rec_loss": 0.25})
    progress.ldm_stage_end("denoiser", "interrupted")
    assert stream.getvalue().splitlines() == [
        "denoiser: going on at step 60 of 100",
        "denoiser: 70/100 (70%) rec loss 0.25, psnr 31.5, 2 s/step, 1 min 00 s left",
        "denoiser: interrupted after 20 s, rec loss 0.25, psnr 31.5",
    ]


def test_a_bar_on_a_terminal() -> None:
    clock, stream = _Clock(), io.StringIO()
    progress = Progress(stream, terminal=True, clock=clock)
    progress.ldm_stage_start("denoiser", 10, 0)
    clock.now += 1
    progress.ldm_step("denoiser", 5, {"loss": 0.5})
    progress.ldm_message("[bold]a note", "info")
    progress.ldm_stage_end("denoiser", "done")
    progress.close()
    text = stream.getvalue()
    assert "[bold]a note" in text, "a message is text, not markup"
    assert text.endswith("denoiser: done in 1 s, loss 0.5\n")


def test_the_hardware_has_its_say() -> None:
    """Numbers stand until the next ones; what is measured beside the stage is a line of its own and moves no bar."""
    clock, stream = _Clock(), io.StringIO()
    progress = Progress(stream, terminal=False, clock=clock)
    progress.ldm_stage_start("denoiser", 100, 0)
    for step in (10, 20):
        clock.now += 5
        logs = {"loss": 0.5, "images_per_second": 128.25, "data_wait": 0.034, "peak_memory_mib": 900.4}
        progress.ldm_step("denoiser", step, logs if step == 10 else {})
    progress.ldm_step("denoiser_validation", 20, {"val_loss": 0.625, "val_loss_t0": 0.5})
    progress.ldm_step("somebody_elses", 20, {})
    progress.ldm_stage_end("denoiser", "done")
    assert stream.getvalue().splitlines()[1:] == [
        "denoiser: 10/100 (10%) loss 0.5, 2 steps/s, 45 s left, 128 images/s, data wait 3%, peak 900 MiB",
        "denoiser: 20/100 (20%) loss 0.5, 2 steps/s, 40 s left, 128 images/s, data wait 3%, peak 900 MiB",
        "denoiser validation: step 20, loss 0.625",
        "denoiser: done in 10 s, loss 0.5",
    ]


@pytest.mark.parametrize("width", [60, 100])
def test_a_terminal_of_any_width_has_two_lines(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is cut: a bar that wraps leaves rubbish behind at each update."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", "24")
    clock, stream = _Clock(), io.StringIO()
    progress = Progress(stream, terminal=True, clock=clock)
    progress.ldm_stage_start("denoiser", 4000, 0)
    clock.now += 100
    logs = {"loss": 0.123456, "images_per_second": 1234.5, "data_wait": 0.5, "peak_memory_mib": 130_000.0}
    progress.ldm_step("denoiser", 1000, logs)
    bar = progress._bar
    with bar.console.capture() as captured:
        bar.console.print(bar.get_renderable())
    progress.close()
    lines = captured.get().splitlines()
    assert len(lines) == 2 and max(map(len, lines)) <= width
    if width == 100:
        assert "1000/4000" in lines[0] and "25%" in lines[0] and "5 min 00 s left" in lines[0]
        said = "  loss 0.1235, 10 steps/s, 1234 images/s, data wait 50%, peak 127 GiB"
        assert lines[1].rstrip() == said


def test_memory_and_pace() -> None:
    assert (memory(12.4), memory(999), memory(2048), memory(143_000)) == ("12 MiB", "999 MiB", "2 GiB", "140 GiB")
    assert pace_text({"loss": 1.0}) == ""
    assert pace_text({"images_per_second": 0.25, "data_wait": 0.0}) == "0.25 images/s, data wait 0%"


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (151, "2 min 31 s"),
        (3600, "1 h 00 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_speed_is_of_the_last_updates() -> None:
    """A slow first step (compilation, loading) is forgotten."""
    speed = Speed(1000, 0, 0.0)
    now = 60.0
    for step in range(1, 101):
        speed.update(step, now)
        now += 0.25
    assert speed.rate() == pytest.approx(4.0)
    assert Speed(10, 0, 0.0).text() == ""


def test_which_numbers_are_shown() -> None:
    assert loss_text({}) == ""
    assert loss_text({"lr": 1.0}) == ""
    assert loss_text({"total_loss": 2.0, "loss": 1.0}) == "loss 1"


def test_a_stage_of_pictures_counts_pictures() -> None:
    clock, stream = _Clock(), io.StringIO()
    bar = Progress(stream, unit="pictures", terminal=False, clock=clock)
    bar.ldm_stage_start("reference", 40, 0)
    for done in (20, 40):
        clock.now += 5
        bar.ldm_step("reference", done, {})
    assert stream.getvalue().splitlines() == [
        "reference: 40 pictures",
        "reference: 20/40 (50%) 4 pictures/s, 5 s left",
        "reference: 40/40 (100%) 4 pictures/s",
    ]
