"""`inlier watch` as a user meets it: folders, pipes, alarms, logs, kills and interruptions."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import inlier
from PIL import Image

from inlier.datasets.scenes.scene import draw
from inlier.datasets.scenes.worlds import TRAINING_WORLDS, WORLDS
from inlier.streams.log import read_log

SIZE = (48, 96)
PER_WORLD = 8
PROGRAM = (sys.executable, "-c", "from inlier.cli.main import run; run()", "--threads", "1", "watch")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A monitor, and a drive: clean frames, frames turned upside down, clean frames."""
    folder = tmp_path_factory.mktemp("watch")
    for part in ("clean", "drive"):
        (folder / part).mkdir()
    for world in TRAINING_WORLDS:
        for number in range(PER_WORLD):
            Image.fromarray(draw(WORLDS[world], number, SIZE).image).save(folder / "clean" / f"{world}_{number:03}.png")
    for number in range(20):
        image = draw(WORLDS["summer"], 1000 + number, SIZE).image
        Image.fromarray(image[::-1] if 6 <= number < 12 else image).save(folder / "drive" / f"f_{number}.png")
    ran = inlier("fit", "--backbone", "street", "--images", folder / "clean", "--out", folder / "m.inlier",
                 "--false-alarm-rate", 0.05, "--folds", 2, "--blocks", 1)  # fmt: skip
    assert ran.code == 0, ran.err
    return folder


def arguments(places, *more, images=None):
    images = places / "drive" if images is None else images
    rule = () if "--alarms-per-hour" in more else ("--alarm-at", 3, "--window", 5)
    return [places / "m.inlier", "--backbone", "street", "--images", images, *rule, *more]


def watch(places, *more, images=None):
    return inlier("watch", *arguments(places, *more, images=images))


def judged(rows):
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]


def events(rows):
    return [(row["image"], event) for row in rows for event in row.get("events", ())]


@pytest.fixture(scope="module")
def whole(places):
    """The rows of the drive watched in one go."""
    ran = watch(places)
    assert ran.code == 0, ran.err
    return judged(ran.rows)


def test_a_drive_turned_upside_down_for_a_while_is_one_alarm(places, whole):
    ran = watch(places, "--frame-rate", 10)
    assert [row["image"] for row in ran.rows] == [f"f_{number}.png" for number in range(20)]
    told = [event for event in events(ran.rows) if event[1] != "drift declared"]
    assert told == [("f_8.png", "alarm raised"), ("f_16.png", "alarm cleared")]
    assert "frame 8 (f_8.png): alarm raised: 3 of the latest frames over the threshold" in ran.err
    assert "5 % of frames at 10 frames a second is 30 flagged frames a minute" in ran.err
    assert "alarms        1 raised; on for 8 frames, 0.8 s" in ran.err
    network = ("--backbone", "street", "--batch-size", 1)
    scored = inlier("score", places / "m.inlier", *network, "--images", places / "drive")
    same = ("image", "score", "p_value", "flagged")
    assert [[row[name] for name in same] for row in ran.rows] == [[row[name] for name in same] for row in scored.rows]


def test_batches_change_nothing_that_is_said(places, whole):
    for row, other in zip(judged(watch(places, "--batch-size", 7).rows), whole, strict=True):
        assert row["score"] == pytest.approx(other["score"], rel=1e-4)
        assert row["events"] == other["events"]


def test_an_alarm_fails_the_gate_with_3_and_events_alone_are_printed_if_wanted(places, whole, tmp_path):
    ran = watch(places, "--fail-on-alarm", "--events-only")
    assert ran.code == 3
    assert judged(ran.rows) == [row for row in whole if row["events"]]
    for number in range(5):
        shutil.copy(places / "drive" / f"f_{number}.png", tmp_path)
    assert watch(places, "--fail-on-alarm", images=tmp_path).code == 0


def test_on_a_terminal_a_live_line_says_how_things_stand_and_stdout_stays_json(places, whole, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, to rich
    monkeypatch.setenv("COLUMNS", "200")
    ran = watch(places)
    assert judged(ran.rows) == whole
    assert "no alarm" in ran.err
    assert ran.err.count("alarm raised: 3 of the latest frames over the threshold") == 1
    assert "alarms        1 raised" in ran.err


def test_every_other_frame_is_every_other_frame(places):
    ran = watch(places, "--every", 2, "--frame-rate", 10)
    assert [row["image"] for row in ran.rows] == [f"f_{number}.png" for number in range(0, 20, 2)]
    assert "at 5 frames a second" in ran.err


def test_raw_frames_and_paths_on_stdin_get_the_verdicts_of_the_files(places, whole, monkeypatch):
    names = [row["image"] for row in whole]
    content = b"".join(np.asarray(Image.open(places / "drive" / name)).tobytes() for name in names)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content + b"half")))
    ran = watch(places, "--raw", "48x96", images="-")
    assert [row.get("score") for row in ran.rows[:-1]] == [row["score"] for row in whole]
    assert ran.rows[-1]["problem"].startswith("the stream ended after 4 of")
    assert "20, 1 unreadable" in ran.err
    paths = "".join(f"{places / 'drive' / name}\n" for name in names[:4]) + "none.png\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(paths))
    ran = watch(places, images="-")
    assert [row.get("score") for row in ran.rows] == [*(row["score"] for row in whole[:4]), None]


def test_a_file_of_several_frames_is_watched(places, whole, tmp_path):
    frames = [Image.open(places / "drive" / row["image"]) for row in whole[:3]]
    frames[0].save(tmp_path / "clip.png", save_all=True, append_images=frames[1:])
    ran = watch(places, images=tmp_path / "clip.png")
    assert [(row["image"], row["score"]) for row in ran.rows] == [
        (f"clip.png#{number}", row["score"]) for number, row in enumerate(whole[:3])
    ]


@pytest.mark.parametrize("more", [(), ("--adapt", 5), ("--every", 2)], ids=str)
def test_a_log_resumed_holds_what_one_run_would_have_said(places, tmp_path, more):
    half = tmp_path / "half"
    half.mkdir()
    for number in range(11):
        shutil.copy(places / "drive" / f"f_{number}.png", half)
    log = ("--log", tmp_path / "log.jsonl", "--resume", *more)
    assert watch(places, *log, images=half).code == 0
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(b'{"image": "f_11.png", "sco')  # what a kill may leave
    ran = watch(places, *log)
    assert "1 line(s)" in ran.err
    rows = read_log(tmp_path / "log.jsonl")[1]
    assert judged(rows) == judged(watch(places, *more).rows)
    assert ran.rows == rows[len(rows) - len(ran.rows) :]
    assert 0 < len(ran.rows) < len(rows)
    again = watch(places, *log)
    assert (again.code, again.out) == (0, "")


def test_a_log_of_another_alarm_or_with_a_line_missing_is_refused(places, tmp_path):
    log = ("--log", tmp_path / "log.jsonl")
    watch(places, *log)
    assert "holds 20 rows already" in watch(places, *log).err
    other = watch(places, *log, "--resume", "--drift", 0.01)
    assert (other.code, other.out) == (2, "")
    assert "drift 0.001 and now 0.01" in other.err
    lines = (tmp_path / "log.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "log.jsonl").write_text("".join(lines[:5] + lines[6:]))
    missing = watch(places, *log, "--resume")
    assert missing.code == 2
    assert "does not add up at frame 5" in missing.err


def started(places, tmp_path, *more):
    command = [*PROGRAM, *map(str, arguments(places, "--follow", "--log", tmp_path / "log.jsonl", "--resume", *more,
                                             images=tmp_path / "live"))]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def arrive(places, tmp_path, numbers):
    """Frames as a camera should write them: beside, then renamed."""
    for number in numbers:
        shutil.copy2(places / "drive" / f"f_{number}.png", tmp_path / "live" / ".coming")
        os.utime(tmp_path / "live" / ".coming", (1, 1))
        (tmp_path / "live" / ".coming").rename(tmp_path / "live" / f"f_{number}.png")


def wait_for(rows, path, patience=120.0):
    until = time.monotonic() + patience
    while not (path.is_file() and len(read_log(path)[1]) >= rows):
        assert time.monotonic() < until, f"no {rows} rows in {path}"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_watch_killed_in_the_middle_goes_on_and_an_interruption_ends_it_with_a_summary(places, whole, tmp_path):
    (tmp_path / "live").mkdir()
    log = Path(tmp_path / "log.jsonl")
    arrive(places, tmp_path, range(4))
    first = started(places, tmp_path)
    wait_for(2, log)
    arrive(places, tmp_path, range(4, 10))
    wait_for(6, log)
    first.kill()
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    second = started(places, tmp_path, "--fail-on-alarm")
    arrive(places, tmp_path, range(10, 20))
    wait_for(20, log)
    second.send_signal(signal.SIGINT)
    _, told = second.communicate(timeout=60)
    assert judged(read_log(log)[1]) == whole
    assert "inlier: interrupted" in told
    assert "frames        " in told
    assert "Traceback" not in told
    raised = "alarm raised" in told or "drift declared" in told
    assert second.returncode == (3 if raised else 0)


@pytest.mark.slow
def test_a_termination_ends_it_as_an_interruption_does(places, tmp_path):
    (tmp_path / "live").mkdir()
    arrive(places, tmp_path, range(2))
    running = started(places, tmp_path)
    wait_for(2, tmp_path / "log.jsonl")
    running.terminate()
    _, told = running.communicate(timeout=60)
    assert running.returncode == 0
    assert "frames        2" in told


def test_a_budget_of_alarms_chooses_the_rule_and_says_what_it_cannot_promise(places):
    ran = watch(places, "--frame-rate", 10, "--alarms-per-hour", 2)
    assert ran.code == 0, ran.err
    needed = int(ran.err.partition("alarm         ")[2].split()[0])
    assert needed > 3
    assert f"{4 * PER_WORLD} clean images cannot bear out 2 alarms an hour at 10 frames a second: that takes" in ran.err
    offered = watch(places, "--frame-rate", 10)
    assert "--alarms-per-hour 1 would take " in offered.err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--raw", "48x96"), "give --images -, not --images"),
        (("--alarms-per-hour", 1, "--alarm-at", 3), "needs to know how many frames an hour has: give --frame-rate"),
        (("--alarms-per-hour", 1, "--frame-rate", 1, "--alarm-at", 3), "give one of the two"),
        (("--resume",), "give --log"),
        (("--frame-rate", 0), "--frame-rate is above 0"),
        (("--clear-after", 2), "An alarm is cleared after at least as many quiet frames"),
        (("--drift", 2), "chance of declaring drift falsely"),
        (("--resize", "48"), "--resize is height x width"),
    ],
    ids=str,
)
def test_wrong_use_exits_with_2_and_the_message_alone(places, more, told):
    ran = watch(places, *more)
    assert (ran.code, ran.out) == (2, "")
    assert told in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("images", "told"), [("nowhere", "No folder"), ("clean/summer_000.png", "is one image"), ("m.inlier", "ffmpeg")]
)
def test_what_holds_no_frames_is_refused(places, images, told):
    ran = watch(places, images=places / images)
    assert ran.code == 2
    assert told in ran.err


def test_an_unreadable_frame_is_a_row_and_not_a_verdict(places, whole, tmp_path):
    folder = tmp_path / "drive"
    shutil.copytree(places / "drive", folder)
    (folder / "f_3b.png").write_bytes(b"no image")
    ran = watch(places, "--log", tmp_path / "log.jsonl", images=folder)
    (odd,) = [row for row in ran.rows if "problem" in row]
    assert odd["image"] == "f_3b.png"
    assert "skipped f_3b.png: not an image" in ran.err
    assert judged(row for row in ran.rows if "problem" not in row) == whole
    assert watch(places, "--log", tmp_path / "log.jsonl", "--resume", images=folder).out == ""
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()][1:] == ran.rows
