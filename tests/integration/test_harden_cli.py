"""`inlier harden` as a user runs it: weights that load, numbers that add up, and the command that fits a monitor."""

import json
import re
import shlex

import pytest
import torch
from command_line import inlier
from PIL import Image

from inlier.backbones.load import load_backbone
from inlier.backbones.street import street_espnet
from inlier.cli.harden import gain_or_loss
from inlier.datasets.scenes.scene import draw
from inlier.datasets.scenes.worlds import WORLDS
from inlier.files import read_tensors


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harden") / "images"
    folder.mkdir()
    for number in range(6):
        Image.fromarray(draw(WORLDS["summer"], number, (32, 64)).image).save(folder / f"a_{number:03}.png")
    return folder


def line(images, out, *more):
    usual = {"--eps": "4/255", "--steps": 3, "--tune-batch": 2, "--check-eps": "2/255", "--check-count": 2}
    words = [word for option, value in usual.items() if option not in more for word in (option, value)]
    return ["--threads", 1, "harden", "--backbone", "street", "--images", images, "--out", out, *words, *more]


@pytest.mark.slow
def test_it_writes_weights_that_load_tells_cost_and_gain_and_goes_on(images, tmp_path):
    out = tmp_path / "out"
    ran = inlier(*line(images, out, "--json", "--check", images))
    assert ran.code == 0, ran.err
    told = ran.json
    assert json.loads((out / "harden.json").read_text()) == told
    made = load_backbone("inlier.backbones.street:street_espnet", weights=out / "hardened.safetensors")
    original = street_espnet().network.state_dict()
    moved = {name for name, tensor in made.network.state_dict().items() if not torch.equal(tensor, original[name])}
    assert moved
    assert not any("running" in name for name in moved)
    assert told["measure"] == "agreement"
    assert told["values"]["original"] == 1.0
    assert told["cost"] == 1.0 - told["values"]["hardened"]
    assert told["checked_on"] == {"images": 6, "attacked": 2, "seen_in_training": False}
    before, after = (told["attacked"][name][0]["damage"] for name in ("original", "hardened"))
    assert told["gain"] == [{"eps": 2 / 255, "damage": before - after}]
    again = inlier(*line(images, out, "--way", 0.5))
    assert again.code == 0, again.err
    assert "Cost: " in again.out
    assert re.search(r"points of agreement with the original \(\S+ to \S+\) against the original", again.out)
    halfway, _ = read_tensors(out / "hardened.safetensors")
    name = "encoder.level1.conv.weight"
    assert torch.allclose(halfway[name], (made.network.state_dict()[name] + original[name]) / 2, atol=1e-6)
    refit = shlex.split(again.out.strip().splitlines()[-1])
    assert refit[:2] == ["inlier", "fit"]
    fitted = inlier("--threads", 1, *refit[1:], "--detector", "profile", "--false-alarm-rate", 0.2)
    assert fitted.code == 0, fitted.err
    assert (out / "monitor.inlier").is_file()
    refused = inlier(*line(images, out, "--lr", 0.1))
    assert refused.code == 2
    assert "lr = 0.0005, and this one has 0.1" in refused.err


@pytest.mark.slow
def test_the_command_for_a_new_monitor_has_what_the_old_one_had(images, tmp_path):
    kind = ["--detector", "max_logit", "--detector", "profile(look='jpeg')", "--escalate", "0.3",
            "--false-alarm-rate", "0.2", "--rule", "robust"]  # fmt: skip
    old = tmp_path / "old.inlier"
    fitted = inlier("fit", "--backbone", "street", "--images", images, *kind, "--out", old)
    assert fitted.code == 0, fitted.err
    evenly = ("--even-groups", "--group-by", "a(?=_00[0-2])|a_0")
    ran = inlier(*line(images, tmp_path / "out", "--json", "--monitor", old, *evenly))
    assert ran.code == 0, ran.err
    assert ran.json["settings"]["even_groups"]
    refit = shlex.split(ran.json["refit"])
    start = refit.index(kind[0])
    assert refit[start : start + len(kind)] == kind
    assert refit[refit.index("--group-by") + 1] == evenly[-1]
    fitted = inlier("--threads", 1, *refit[1:], "--json")
    assert fitted.code == 0, fitted.err
    assert (fitted.json["detectors"], fitted.json["rule"]) == (["max_logit", "profile(look='jpeg')"], "robust")
    assert fitted.json["false_alarm_rate"] == 0.2


def test_a_gain_below_zero_is_told_as_a_loss():
    gains = [{"eps": 1 / 255, "damage": 0.021}, {"eps": 2 / 255, "damage": -0.0123}, {"eps": 4 / 255, "damage": -1e-5}]
    assert gain_or_loss(gains, "pixels changed") == [
        "Gain: 2.1 points fewer pixels changed at eps 1/255, 0.0 points fewer pixels changed at eps 4/255",
        "Loss: 1.2 points more pixels changed at eps 2/255",
    ]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--recipe", "fgms"], "Did you mean 'fgsm'"),
        (["--monitor", "nothing.inlier"], "No file 'nothing.inlier'"),
        (["--eps", "1/255,2/255"], "--eps is one number"),
        (["--way", 0], "--way is above 0 and up to 1"),
        (["--consistency", "l1"], "consistency is None or one of kl, jensen_shannon"),
        (["--layers", "nothing*"], "No parameter's name matches 'nothing*'"),
        (["--even-groups"], "leave out even_groups, or say which group each image is of (group_by, groups)"),
    ],
)
def test_what_cannot_be_is_refused(images, tmp_path, more, said):
    ran = inlier(*line(images, tmp_path / "out", *more))
    assert ran.code == 2
    assert said in ran.err
    assert not (tmp_path / "out" / "hardened.safetensors").exists()
