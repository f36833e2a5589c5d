"""`inlier uap` and `inlier attack DELTA`: one perturbation made on one network, and applied to what others see."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from command_line import inlier
from PIL import Image

from inlier.attacks.universal import UniversalDelta
from inlier.backbones.street import street_espnet
from inlier.files import read_metadata

SIZE = "48x64"


def done(*arguments):
    """Run a command that must succeed."""
    ran = inlier(*arguments)
    assert ran.code == 0, ran.err
    return ran


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Drawn street scenes, made small."""
    folder = tmp_path_factory.mktemp("scenes")
    done("draw", "summer", "--out", folder / "large", "--count", 4)
    (folder / "images").mkdir()
    for file in sorted((folder / "large" / "images").iterdir()):
        Image.open(file).resize((64, 48)).save(folder / "images" / file.name)
    return folder / "images"


def make(out, *more):
    steps = () if "--iterations" in more else ("--iterations", 6)
    return done("uap", "--backbone", "street", "--image-size", SIZE, "--out", out, "--validate-every", 3, *steps, *more)


def pixels(file):
    return torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1)[None].float() / 255


def test_a_delta_is_made_and_applied_as_8_bit_copies(scenes, tmp_path):
    delta, out = tmp_path / "delta.safetensors", tmp_path / "attacked"
    ran = make(delta, "--select", "encoder.level2_0.*,encoder.level3_0.*", "--json")
    assert ran.json == json.loads(read_metadata(delta)["made"])
    assert (ran.json["prior"], ran.json["stopped"], ran.json["iterations"]) == ("gaussian", "iterations", 6)
    assert [line.split(":")[0] for line in ran.err.splitlines() if line.startswith("step")] == ["step 3", "step 6"]
    ran = done("attack", delta, "--backbone", "street", "--images", scenes, "--out", out, "--json")
    made, network = UniversalDelta.load(delta), street_espnet()
    changed = []
    for file in sorted(scenes.iterdir()):
        expected = (made(pixels(file)) * 255).round() / 255
        assert torch.equal(pixels(out / file.name), expected)
        changed.append((network.predict(expected) != network.predict(pixels(file))).float().mean().item())
    (row,) = ran.json["rows"]
    assert row["images"] == 4
    assert row["damage"] == pytest.approx(sum(changed) / 4, rel=1e-5)
    assert row["largest"] <= 10 / 255 + 1e-6
    assert row["config"]["taps"] == list(made.made.taps)
    assert row["config"]["transferred"] is False
    elsewhere = ("attack", delta, "--backbone", "street", "--mean", "0,0,0", "--images", scenes, "--json", "--out")
    assert "network" in inlier(*elsewhere, out).err  # another network
    assert done(*elsewhere, tmp_path / "other").json["rows"][0]["config"]["transferred"] is True


def test_clean_images_mean_the_data_prior_and_are_resized_to_the_size_asked_for(scenes, tmp_path):
    ran = make(tmp_path / "d.safetensors", "--images", scenes.parent / "large" / "images", "--iterations", 2)
    assert "written to " in ran.err
    assert "predictions changed on held-out images" in ran.err
    assert ran.out == ""
    made = UniversalDelta.load(tmp_path / "d.safetensors").made
    assert (made.prior, made.size) == ("data", (48, 64))
    substituted = make(tmp_path / "s.safetensors", "--prior", "none", "--substitutes", scenes, "--json").json
    assert (substituted["prior"], substituted["validated_on"]) == ("none", "given images")


def test_what_was_best_is_on_the_disk_when_making_is_interrupted(tmp_path, monkeypatch):
    from inlier.attacks import universal

    original = universal.Trial.fooled
    calls = []

    def interrupted(self, delta):
        calls.append(delta)
        if len(calls) == 3:  # the start, a validation, and then Ctrl-C
            raise KeyboardInterrupt
        return original(self, delta)

    monkeypatch.setattr(universal.Trial, "fooled", interrupted)
    out = tmp_path / "delta.safetensors"
    inlier("uap", "--backbone", "street", "--image-size", SIZE, "--out", out, "--validate-every", 2, "--iterations", 9)
    saved = UniversalDelta.load(out)
    assert (saved.made.kept, saved.made.stopped) == (2, "not yet")
    assert torch.equal(saved.delta, calls[1])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("uap --image-size 48x64 --out d.png", "--out is the name of a safetensors file"),
        ("uap --image-size 48 --out OUT", "--image-size is height x width"),
        ("uap --image-size 48x64 --out OUT --prior rnage", "prior is one of none, gaussian, data, not 'rnage'"),
        ("uap --image-size 48x64 --out OUT --prior data", "The prior 'data' needs clean images"),
        ("uap --image-size 48x64 --out OUT --images IMAGES --resize 8x8", "--resize 8x8 is not --image-size 48x64"),
        ("uap --image-size 48x64 --out OUT --select convs", "Did you mean 'conv'?"),
        (
            "attack DELTA --images IMAGES --out OUT --eps 0.1 --target road",
            "--eps and --target can be said of a recipe",
        ),
        ("attack none.safetensors --images IMAGES --out OUT", "No file 'none.safetensors'"),
        ("attack DELTA --images IMAGES --resize 24x32 --out OUT", "came. Resize the images, or make a delta"),
    ],
)
def test_wrong_use_exits_with_2_and_says_why(scenes, tmp_path, arguments, told):
    places = {"IMAGES": scenes, "OUT": tmp_path / "new.safetensors", "DELTA": tmp_path / "delta.safetensors"}
    if "DELTA" in arguments:
        make(places["DELTA"], "--iterations", 1)
    ran = inlier(*(places.get(word, word) for word in arguments.split()), "--backbone", "street")
    assert (ran.code, ran.out) == (2, "")
    assert told in ran.err
    assert not places["OUT"].is_file()
