"""The demo, smaller than it is, from drawing scenes to the report; and the progress that is shown meanwhile."""

import io
import json

import pytest
import typer
from typer.testing import CliRunner

from inlier.cli import demo
from inlier.cli.progress import plain_lines, progress_bars


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(folder, result of the command) of a demo with few scenes."""
    few = {"FITTED": 8, "TESTED_KNOWN": 2, "TESTED_UNSEEN": 2, "ATTACKED": 2, "ATTACKED_KNOWING": 1}
    folder = tmp_path_factory.mktemp("demo")
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(demo.demo)
    with pytest.MonkeyPatch.context() as patch:
        for name, count in few.items():
            patch.setattr(demo, name, count)
        result = CliRunner().invoke(app, ["--out", str(folder), "--seed", "5", "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    return folder, result


@pytest.mark.slow
def test_the_demo_prints_what_it_writes(ran):
    folder, result = ran
    assert json.loads(result.stdout) == json.loads((folder / "results.json").read_text())
    assert "report.html" in result.stderr


@pytest.mark.slow
def test_the_demo_tries_weather_attacks_and_who_knows_the_monitor(ran):
    told = json.loads(ran[1].stdout)
    assert [trial["name"] for trial in told["trials"]] == [
        "fog", "vertical_flip", "gaussian_noise", "fgsm", "ifgsm", "ifgsm_targeted", "evasion", "evasion_strong",
    ]  # fmt: skip
    assert set(told["thresholds"]) == {"monitor", "mahalanobis", "profile", "disagreement"}
    assert [row["group"] for row in told["clean"] if not row["known"]] == ["desert", "coast"]
    assert all(len(row["scores"]) == row["images"] for row in told["clean"] + told["trials"])


@pytest.mark.slow
def test_the_demo_writes_a_page_with_all_its_pictures(ran):
    html = (ran[0] / "report.html").read_text(encoding="utf-8")
    assert html.count("<img ") == 5 * 8
    assert len(html) < 5_000_000
    assert "inlier demo --seed 5" in html


def test_progress_elsewhere_than_on_a_terminal_is_a_few_lines_with_the_time_left():
    now = iter([0.0, 1.0, 6.0, 7.0, 20.0, 21.0])
    out = io.StringIO()
    show = plain_lines(out, clock=lambda: next(now))
    for step in (1, 2, 5, 6, 10):
        show("reading", step, 10)
    show("fitting", 1, 2)
    assert out.getvalue().splitlines() == [
        "reading: 1 of 10",
        "reading: 5 of 10, about 8 s left",
        "reading: 10 of 10, 20.0 s",
        "fitting: 1 of 2",
    ]


def test_what_takes_long_tells_after_three_steps_how_long():
    now = iter([0.0, 1.0, 2.0, 3.0, 4.0])
    out = io.StringIO()
    show = plain_lines(out, clock=lambda: next(now))
    for step in range(4, 24, 4):
        show("attacking", step, 400)
    assert out.getvalue().splitlines() == ["attacking: 4 of 400", "attacking: 16 of 400, about 96 s left"]


def test_progress_goes_to_stderr_alone(capsys):
    with progress_bars() as progress:
        progress("reading", 1, 2)
    told = capsys.readouterr()
    assert told.out == ""
    assert "reading" in told.err
