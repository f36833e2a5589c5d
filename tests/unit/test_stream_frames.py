"""Frames of folders, lists, pipes and animations."""

import io
import os
import time

import numpy as np
import pytest
import torch
from PIL import Image

from inlier.streams.frames import animation_frames, folder_frames, path_frames, raw_frames


def picture(number, size=(6, 8)):
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8))


def save(folder, *names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        picture(number).save(folder / name)
        os.utime(folder / name, (1, 1))


def names(frames):
    return [frame.name for frame in frames if frame is not None]


def test_a_folder_is_watched_in_natural_order_and_broken_files_say_why(tmp_path):
    save(tmp_path, "f_10.png", "f_2.png", "b/f_1.png")
    (tmp_path / "f_3.png").write_bytes(b"no image")
    frames = list(folder_frames(tmp_path))
    assert names(frames) == ["b/f_1.png", "f_2.png", "f_3.png", "f_10.png"]
    assert [frame.pixels is None for frame in frames] == [False, False, True, False]
    assert "not an image" in frames[2].problem
    expected = torch.from_numpy(np.array(picture(1))).permute(2, 0, 1) / 255
    assert torch.equal(frames[1].pixels, expected)
    resized = next(folder_frames(tmp_path, size=(3, 4), channels=1))
    assert resized.pixels.shape == (1, 3, 4)


def test_frames_that_were_seen_are_left_out(tmp_path):
    save(tmp_path, "f_1.png", "f_2.png", "f_3.png")
    assert names(folder_frames(tmp_path, skip={"f_2.png"})) == ["f_1.png", "f_3.png"]
    assert names(folder_frames(tmp_path, after="f_2.png")) == ["f_3.png"]


class Enough(Exception):
    """Ends a source that would go on for ever."""


def watched(folder, sleep):
    """Names and problems of what comes of a followed folder, and when: after so many looks."""
    came, looks = [], 0

    def counted(_):
        nonlocal looks
        looks += 1
        sleep(looks)

    try:
        for frame in folder_frames(folder, follow=True, sleep=counted):
            if frame is not None:
                came.append((frame.name, frame.problem, looks))
    except Enough:
        return came


def test_a_folder_that_is_followed_gives_what_comes_later_once_each(tmp_path):
    save(tmp_path, "f_1.png")
    coming = {1: ["f_10.png", "f_2.png"], 3: ["g/f_1.png"]}

    def sleep(looks):
        if looks == 5:
            raise Enough
        save(tmp_path, *coming.get(looks, ()))

    assert watched(tmp_path, sleep) == [
        ("f_1.png", None, 0), ("f_2.png", None, 1), ("f_10.png", None, 1), ("g/f_1.png", None, 3)
    ]  # fmt: skip


def test_a_file_still_being_written_is_waited_for(tmp_path):
    save(tmp_path, "f_1.png")
    whole = (tmp_path / "f_1.png").read_bytes()
    growing = tmp_path / "f_2.png"

    def sleep(looks):
        if looks == 8:
            raise Enough
        if looks <= 4:
            growing.write_bytes(whole[: len(whole) * looks // 4])
            now = time.time() + looks
            os.utime(growing, (now, now))

    first, second = watched(tmp_path, sleep)
    assert first == ("f_1.png", None, 0)
    assert second == ("f_2.png", None, 5)


def test_a_file_that_goes_away_before_it_is_read_is_not_missed(tmp_path):
    save(tmp_path, "f_1.png", "f_2.png")
    frames = folder_frames(tmp_path)
    next(frames)
    (tmp_path / "f_2.png").unlink()
    assert next(frames).problem == "there is no such file"


def test_an_empty_folder_is_refused_unless_it_is_followed(tmp_path):
    with pytest.raises(ValueError, match="No image in"):
        next(folder_frames(tmp_path))
    assert next(folder_frames(tmp_path, follow=True)) is None
    with pytest.raises(FileNotFoundError, match="No folder"):
        next(folder_frames(tmp_path / "none"))


def test_paths_come_one_a_line_and_missing_ones_say_so(tmp_path):
    save(tmp_path, "a b.png")
    frames = list(path_frames([f"{tmp_path}/a b.png\n", "\n", f"{tmp_path}/none.png\r\n"]))
    assert names(frames) == [f"{tmp_path}/a b.png", f"{tmp_path}/none.png"]
    assert frames[0].pixels.shape == (3, 6, 8)
    assert frames[1].problem == "there is no such file"


class Dripping(io.BytesIO):
    """A pipe that gives a few bytes at a time."""

    def read(self, size=-1):
        return super().read(min(size, 50))


def test_raw_frames_are_the_pixels_to_the_bit_and_half_a_frame_is_told():
    arrays = [np.array(picture(number)) for number in range(3)]
    content = b"".join(array.tobytes() for array in arrays)
    frames = list(raw_frames(Dripping(content + b"\x00" * 17), (6, 8), start=5))
    assert names(frames) == ["stdin#5", "stdin#6", "stdin#7", "stdin#8"]
    for frame, array in zip(frames, arrays, strict=False):
        assert torch.equal(frame.pixels, torch.from_numpy(array).permute(2, 0, 1) / 255)
    assert frames[3].problem == "the stream ended after 17 of the frame's 144 bytes"
    assert list(raw_frames(io.BytesIO(), (6, 8))) == []


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff", "gif"])
def test_a_file_of_several_frames_gives_them_in_turn(tmp_path, suffix):
    plain = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    path = tmp_path / f"clip.{suffix}"
    settings = {"lossless": True} if suffix == "webp" else {}
    plain[0].save(path, save_all=True, append_images=plain[1:], **settings)
    frames = list(animation_frames(path))
    assert names(frames) == [f"clip.{suffix}#{number}" for number in range(3)]
    for number, frame in enumerate(frames):
        assert torch.equal(frame.pixels.amax((1, 2)), torch.eye(3)[number])
    assert names(animation_frames(path, skip={f"clip.{suffix}#0"})) == [f"clip.{suffix}#1", f"clip.{suffix}#2"]


def test_a_clip_that_is_cut_short_gives_what_is_whole_and_then_says_why(tmp_path):
    frames = [picture(number, (40, 40)) for number in range(4)]
    path = tmp_path / "clip.png"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 5 // 8])
    came = list(animation_frames(path))
    assert names(came) == ["clip.png#0", "clip.png#1", "clip.png#2"]
    for number, frame in enumerate(came[:2]):
        assert torch.equal(frame.pixels, torch.from_numpy(np.array(frames[number])).permute(2, 0, 1) / 255)
    assert came[2].pixels is None
    assert came[2].problem


@pytest.mark.parametrize("made", ["single", "broken", "missing"])
def test_what_is_no_file_of_several_frames_is_refused(tmp_path, made):
    path = tmp_path / "clip.png"
    if made == "single":
        picture(0).save(path)
    elif made == "broken":
        path.write_bytes(b"video")
    told = {"single": "is one image", "broken": "ffmpeg -i VIDEO", "missing": "No file"}[made]
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        next(animation_frames(path))
