"""A log of verdicts is whole lines, whatever ends its writer."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from inlier.errors import Mismatch
from inlier.streams.log import VerdictLog, read_log

SETTINGS = {"monitor": "abc", "drift": 0.001}

WRITER = """
import itertools, sys
from inlier.streams.log import VerdictLog
with VerdictLog(sys.argv[1], {"monitor": "abc", "drift": 0.001}, resume=True) as log:
    start = len(log.rows)
    for number in itertools.count(start):
        log.append({"frame": number, "image": "x" * (number * 7919 % 3000)})
        if number == start + 200:
            print("going", flush=True)
"""


def frames(path):
    return [row["frame"] for row in read_log(path)[1]]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")
def test_a_log_whose_writer_was_killed_has_whole_lines_and_goes_on(tmp_path):
    path = tmp_path / "log.jsonl"
    for _ in range(2):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout.readline() == b"going\n"
        writer.kill()
        assert writer.wait() == -signal.SIGKILL
        writer.stdout.close()
        settings, rows, _ = read_log(path)
        assert settings == SETTINGS
        assert [row["frame"] for row in rows] == list(range(len(rows)))
    assert len(rows) > 400
    assert all(len(row["image"]) == row["frame"] * 7919 % 3000 for row in rows)


@pytest.mark.parametrize("kept", [1, 10, 40])
def test_a_line_cut_short_is_ended_and_left_out(tmp_path, kept):
    path = tmp_path / "log.jsonl"
    with VerdictLog(path, SETTINGS) as log:
        log.append({"frame": 0, "events": []})
    whole = path.read_bytes()
    with VerdictLog(path, SETTINGS, resume=True) as log:
        log.append({"frame": 1, "events": ["a long story of what happened here"]})
    path.write_bytes(path.read_bytes()[: len(whole) + kept])
    with VerdictLog(path, SETTINGS, resume=True) as log:
        assert log.rows == [{"frame": 0, "events": []}]
        assert log.broken == 1
        log.append({"frame": 1})
        log.append({"frame": 2})
    assert path.read_bytes().startswith(whole)  # nothing that was written is changed
    assert frames(path) == [0, 1, 2]
    assert read_log(path)[2] == 1


def test_a_whole_line_that_lacks_only_its_end_counts(tmp_path):
    path = tmp_path / "log.jsonl"
    with VerdictLog(path, SETTINGS) as log:
        log.append({"frame": 0})
    path.write_bytes(path.read_bytes()[:-1])
    with VerdictLog(path, SETTINGS, resume=True) as log:
        assert log.rows == [{"frame": 0}]
        log.append({"frame": 1})
    assert frames(path) == [0, 1]


def test_a_log_killed_in_its_first_line_is_begun_anew(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"log": "inlier str')
    with VerdictLog(path, SETTINGS, resume=True) as log:
        log.append({"frame": 0})
    assert read_log(path) == (SETTINGS, [{"frame": 0}], 1)


def test_every_row_is_one_write_of_one_line(tmp_path, monkeypatch):
    written = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: written.append(bytes(data)) or write(handle, data))
    with VerdictLog(tmp_path / "log.jsonl", SETTINGS) as log:
        for number in range(5):
            log.append({"frame": number, "image": "line\nbreak"})
    assert len(written) == 6
    assert all(data.endswith(b"\n") and data.count(b"\n") == 1 for data in written)
    assert b"".join(written) == (tmp_path / "log.jsonl").read_bytes()


def test_a_disk_that_is_full_for_a_while_costs_the_row_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    write = os.write
    with VerdictLog(path, SETTINGS) as log:
        log.append({"frame": 0})

        def full(handle, data):
            if len(data) > 5:
                return write(handle, data[:5])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            log.append({"x": 1})
        monkeypatch.undo()
        log.append({"frame": 2})
    assert frames(path) == [0, 2]


def test_events_are_on_the_disk_before_append_returns(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with VerdictLog(tmp_path / "log.jsonl", SETTINGS) as log:
        before = len(synced)
        log.append({"frame": 0})
        assert len(synced) == before
        log.append({"frame": 1}, sync=True)
        assert len(synced) == before + 1


def test_a_log_is_not_gone_on_with_unless_asked(tmp_path):
    with VerdictLog(tmp_path / "log.jsonl", SETTINGS) as log:
        log.append({"frame": 0})
    with pytest.raises(FileExistsError, match=r"holds 1 rows already: resume it \(--resume\)"):
        VerdictLog(tmp_path / "log.jsonl", SETTINGS)


def test_a_log_of_other_settings_is_refused_by_what_differs(tmp_path):
    VerdictLog(tmp_path / "log.jsonl", SETTINGS).close()
    before = (tmp_path / "log.jsonl").read_bytes()
    with pytest.raises(Mismatch, match=r"begun with other settings: drift 0\.001 and now 0\.01\."):
        VerdictLog(tmp_path / "log.jsonl", SETTINGS | {"drift": 0.01}, resume=True)
    assert (tmp_path / "log.jsonl").read_bytes() == before


@pytest.mark.parametrize("content", ['{"image": "a.png"}\n', "once upon\na time\n", '[1]\n"x"\n'])
def test_a_file_that_is_no_log_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "other.jsonl"
    path.write_text(content)
    with pytest.raises(Mismatch, match="is no log of a stream"):
        VerdictLog(path, SETTINGS, resume=True)
    assert path.read_text() == content


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks here")
def test_two_writers_of_one_log_are_one_too_many(tmp_path):
    with (
        VerdictLog(tmp_path / "log.jsonl", SETTINGS),
        pytest.raises(BlockingIOError, match="Somebody else is writing"),
    ):
        VerdictLog(tmp_path / "log.jsonl", SETTINGS, resume=True)
    VerdictLog(tmp_path / "log.jsonl", SETTINGS, resume=True).close()


def test_rows_are_json_that_everybody_reads(tmp_path):
    with VerdictLog(tmp_path / "log.jsonl", SETTINGS) as log, pytest.raises(ValueError, match="JSON"):
        log.append({"score": float("nan")})
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [
        {"log": "inlier stream", "version": 1, "settings": SETTINGS}
    ]
