"""What a step says of its progress where nobody looks at a terminal."""

import io

import pytest
from rich.console import Console

from pipelines import progress


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then(clock):
    out = io.StringIO()
    shown = progress.Progress(Console(file=out, width=40))
    shown.begin("train")
    shown.total(2000, "steps")
    for step in range(1, 601):
        clock[0] += 1
        shown.advance(2, f"loss {step / 1000:.3f} [of] a line that is longer than the console is wide")
    shown.end()
    lines = out.getvalue().splitlines()
    assert len(lines) == 600 / progress.LINE_EVERY_S
    assert lines[0].startswith("train  60 of 2,000 steps  0:00:0") and "loss 0.030 [of] a line" in lines[0]
    assert lines[-1].startswith("train  1,200 of 2,000 steps") and lines[-1].endswith("console is wide")


def test_a_step_that_is_soon_done_says_nothing(clock):
    out = io.StringIO()
    shown = progress.Progress(Console(file=out))
    shown.begin("plan")
    shown.total(9, "groups")
    clock[0] += progress.LINE_EVERY_S / 2
    shown.advance(9)
    shown.end()
    shown.begin("train")
    clock[0] += progress.LINE_EVERY_S / 2
    shown.note("starting workers")
    assert out.getvalue() == ""
    clock[0] += progress.LINE_EVERY_S
    shown.note("starting workers")
    assert out.getvalue().startswith("train  0:00:0") and "starting workers" in out.getvalue()
