"""Whatever ends the writing of a monitor, the old one or the new one is there, whole, with its key and nothing else."""

import errno
import os
import resource
import shutil
import signal
import stat
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import inlier.artefact
import inlier.files
import inlier.sampling
from inlier.artefact import FORMAT_VERSION, DetectorEntry, Manifest, load, save
from inlier.files import alone, replacing, unfinished, write_bytes
from inlier.sampling import uniform

SIZE = (16, 16)
VOLUME = (4, *SIZE)
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="writers are killed in a forked process")


def write(path, number, values=1000, points=5, keyed=True):
    """Save monitor `number`, of so many values and so many points in its key."""
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        inlier_version="0",
        backbone="none",
        size=SIZE,
        channels=3,
        taps={"0": VOLUME},
        detectors=[DetectorEntry(name="daain", settings={})],
        fusion="max",
        seed=number,
        clean="made up",
        names=["a", "b"],
        groups=["all", "all"],
        fitted_to=[],
        rule="robust",
        confidence=0.5,
        false_alarm_rate=0.1,
        key_file=None,
        key_digest=None,
    )
    save(path, manifest, {"x": torch.full((values,), float(number))}, key(number, points) if keyed else None)


def key(number, points=5):
    return uniform(VOLUME, points, seed=number)


def number_of(path):
    """Which monitor lies there; it must be whole, and its key must be its own."""
    manifest, tensors, found = load(path)
    assert set(tensors["x"].tolist()) == {manifest.seed}
    assert found is None or found == key(manifest.seed, len(found))
    return manifest.seed


def listing(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "m.inlier"
    write(path, 1)
    return path


def only_this_and_its_key(path):
    return sorted(file.name for file in path.parent.iterdir()) == sorted([path.name, load(path)[0].key_file])


# --- exceptions ------------------------------------------------------------------------------------------------------


@contextmanager
def raising_at_call(number, owner, name, error):
    """Within, the `number`-th call of a function raises instead."""
    whole, calls = getattr(owner, name), 0

    def counted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == number:
            raise error
        return whole(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, counted)
        yield


FULL = OSError(errno.ENOSPC, "No space left on device")
BEFORE_THE_LAST_RENAME = [
    *(("fsync", os, number) for number in (1, 2, 4)),  # the third is of the folder, where a failure does no harm
    *(("replace", Path, number) for number in (1, 2)),
    *(("write_bytes", Path, number) for number in (1, 2, 3)),
    ("packed", inlier.artefact, 1),
    ("packed", inlier.files, 1),
]


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt(), MemoryError()], ids=["full", "ctrl-c", "memory"])
@pytest.mark.parametrize(("name", "owner", "call"), BEFORE_THE_LAST_RENAME)
def test_a_failed_save_changes_nothing_at_all(path, name, owner, call, error):
    before = listing(path.parent)
    with raising_at_call(call, owner, name, error), pytest.raises(type(error)):
        write(path, 2)
    assert listing(path.parent) == before
    write(path, 2)
    assert number_of(path) == 2
    assert only_this_and_its_key(path)


@pytest.mark.parametrize("existed", [True, False])
def test_a_failed_first_save_leaves_an_empty_folder(tmp_path, existed):
    folder = tmp_path / "new"
    if existed:
        folder.mkdir()
    with raising_at_call(2, Path, "replace", FULL), pytest.raises(OSError, match="No space left"):
        write(folder / "m.inlier", 1)
    assert listing(folder) == {}


class Interrupter:
    """Raises KeyboardInterrupt when the `at`-th line of the modules that write is about to run."""

    files = tuple(module.__file__ for module in (inlier.artefact, inlier.files, inlier.sampling))

    def __init__(self, at):
        self.left = at

    def __call__(self, frame, event, arg):
        if frame.f_code.co_filename not in self.files:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self)

    def __exit__(self, *_):
        sys.settrace(self.before)


@pytest.mark.slow
def test_ctrl_c_at_any_line_leaves_the_old_monitor_or_the_new_one(tmp_path, monkeypatch):
    monkeypatch.setattr(inlier.files, "PATIENCE", 0.01)  # a lock is left behind in the line before it is given back
    monkeypatch.setattr(os, "fsync", lambda _: None)  # the disk's time is not what this is about
    found, line = [], 0
    while True:
        line += 1
        path = tmp_path / str(line) / "m.inlier"
        write(path, 1)
        interrupter = Interrupter(line)
        try:
            with interrupter:
                write(path, 2)
        except KeyboardInterrupt:
            found.append(number_of(path))
            write(path, 3)
            assert only_this_and_its_key(path), f"after an interruption at line {line}"
        else:
            break
    assert interrupter.left > 0  # it came to the end by itself
    assert line > 100
    assert found == sorted(found)  # the old one up to one line, and from there on the new one
    assert set(found) == {1, 2}


# --- a full disk -----------------------------------------------------------------------------------------------------


def in_a_child(work):
    """Fork, run `work` in the child, and return its process id; the child ends with 0, or with 17 on an OSError."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except OSError:
            code = 17
        finally:
            os._exit(code)
    return child


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def limited(path, size, **sizes):
    """Try to save monitor 2 where no file may be larger than `size` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    write(path, 2, **sizes)


@pytest.mark.parametrize("sizes", [{"values": 1000, "points": 5}, {"values": 10, "points": 900}])
def test_a_full_disk_leaves_the_old_monitor_and_nothing_more(path, sizes):
    before = listing(path.parent)
    largest = 24 * sizes["points"] + 4 * sizes["values"]
    for size in [0, 1, 10, 50, 100, 500, 1000, largest - 1]:
        assert ended(in_a_child(lambda size=size: limited(path, size, **sizes))) == 17
        assert listing(path.parent) == before
    assert ended(in_a_child(lambda: limited(path, 10 * largest, **sizes))) == 0
    assert number_of(path) == 2


def test_a_pipe_or_device_is_written_into_and_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # a pipe of its own stands for the system's devices, which no test may touch
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_bytes(tmp_path / "pipe", b"some bytes")
        assert os.read(reader, 100) == b"some bytes"
    finally:
        os.close(reader)
    with pytest.raises(OSError, match=r"pipe' is a folder or a device"):
        write(tmp_path / "pipe", 1)
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    assert [file.name for file in tmp_path.iterdir()] == ["pipe"]


def test_a_folder_is_never_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"folder' is a folder or a device"):
        write(tmp_path / "folder", 1)
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


# --- signals ---------------------------------------------------------------------------------------------------------


def keep_saving(path, start):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    number = start
    try:
        while True:
            number += 1
            write(path, number, values=30_000)
    except KeyboardInterrupt:
        return


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 0)])
def test_a_writer_stopped_at_a_random_moment_leaves_a_whole_monitor(path, sent, code):
    generator, last, strays = np.random.default_rng(0), 1, 0
    for _ in range(60):
        before = path.stat()
        child = in_a_child(lambda start=last: keep_saving(path, start))
        while os.path.samestat(before, path.stat()):  # until it has begun
            time.sleep(0.001)
        time.sleep(0.02 * generator.random())
        os.kill(child, sent)
        assert ended(child) == code
        assert number_of(path) > last
        last = number_of(path)
        strays += len(unfinished(path)) > 0
        shown = [file.name for file in path.parent.iterdir() if not file.name.startswith(".")]
        assert all(name == path.name or name.endswith(".key") for name in shown)
        assert all(file.stat().st_mode & 0o077 == 0 for file in path.parent.iterdir() if ".key" in file.name)
    if sent == signal.SIGKILL:
        assert strays > 0  # some were killed while they wrote
    write(path, 0)
    assert number_of(path) == 0
    assert only_this_and_its_key(path)


# --- who else is there -----------------------------------------------------------------------------------------------


def test_what_a_living_writer_is_at_is_left_alone(tmp_path):
    path = tmp_path / "f"
    with replacing(path) as one:
        one.write_bytes(b"one")
        with replacing(path) as other:
            other.write_bytes(b"other")
            assert one != other
        assert path.read_bytes() == b"other"
        assert one.read_bytes() == b"one"
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_hidden_files_of_others_are_left_alone(path):
    others = [path.parent / name for name in (".m.inlier.swp", ".m.inlier.unfinished.txt", "m.inlier.notes.key", ".x")]
    for other in others:
        other.write_bytes(b"mine")
    write(path, 2)
    assert all(other.read_bytes() == b"mine" for other in others)


def test_two_processes_that_save_one_monitor_leave_one_of_theirs(path):
    def ten(start):
        for number in range(start, start + 10):
            write(path, number, values=30_000)

    children = [in_a_child(lambda start=start: ten(start)) for start in (100, 200)]
    assert [ended(child) for child in children] == [0, 0]
    assert number_of(path) in (109, 209)
    assert only_this_and_its_key(path)


def test_reading_while_another_saves_gives_one_of_the_two(path):
    child = in_a_child(lambda: keep_saving(path, 1))
    try:
        seen = {number_of(path) for _ in range(200)}
    finally:
        os.kill(child, signal.SIGINT)
        ended(child)
    assert len(seen) > 1


def test_a_copy_keeps_the_key_that_it_shares_with_the_original(path):
    backup = path.parent / "backup.inlier"
    shutil.copy(path, backup)
    write(path, 2)
    assert number_of(backup) == 1
    assert number_of(path) == 2
    write(path, 3)
    assert number_of(backup) == 1
    assert len(list(path.parent.glob("*.key"))) == 2


def test_a_monitor_moved_away_without_its_key_does_not_lose_it_to_a_new_one(path):
    elsewhere = path.parent / "elsewhere"
    elsewhere.mkdir()
    old = load(path)[0].key_file
    path.rename(elsewhere / path.name)
    write(path, 2)
    (path.parent / old).rename(elsewhere / old)
    assert number_of(elsewhere / path.name) == 1


def test_a_forged_note_removes_nothing_but_keys_of_this_monitor(path):
    backup = path.parent / "other.inlier"
    write(backup, 5)
    others = {file: file.read_bytes() for file in path.parent.iterdir() if file.name.startswith("other")}
    names = [*(file.name for file in others), "../m.inlier.x.key", load(path)[0].key_file, 3, None]
    for number, content in enumerate((repr(names).replace("'", '"').replace("None", "null"), "[" * 60_000, "3", "")):
        (path.parent / f".m.inlier.{number}.unfinished").write_text(content)
    write(path, 1)
    assert number_of(path) == 1
    assert {file: file.read_bytes() for file in others} == others
    assert unfinished(path) == []


def test_a_folder_that_another_writer_never_leaves_does_not_stop_a_save(path, monkeypatch):
    monkeypatch.setattr(inlier.files, "PATIENCE", 0.05)
    with alone(path.parent):
        write(path, 2)
    assert number_of(path) == 2
    assert only_this_and_its_key(path)


def test_where_there_are_no_locks_files_are_still_whole_and_what_a_kill_left_does_no_harm(path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(inlier.files, "PATIENCE", 0.01)
    monkeypatch.setattr(inlier.files.fcntl, "flock", no_locks)
    stray = path.parent / ".m.inlier.0.unfinished"
    stray.write_bytes(b"half")
    write(path, 2)
    assert number_of(path) == 2
    assert stray.read_bytes() == b"half"
    stray.unlink()
    assert only_this_and_its_key(path)
