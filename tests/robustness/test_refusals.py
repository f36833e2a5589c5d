"""Bad input to the command line: one line that says what is wrong, exit code 2, no result, no traceback."""

import contextlib
import re
import shutil

import pytest
from PIL import Image


@pytest.fixture
def places(scenes, monitors, tmp_path):
    """Folders of bad and good files by name, to be put into command lines."""
    found = {"images": scenes, "monitor": monitors / "daain.inlier", "bands": monitors / "bands.inlier"}
    found |= {name: tmp_path / name for name in ("out", "empty", "text", "cut", "large", "other_size", "tiny")}
    for name in ("empty", "text", "cut", "large", "other_size", "tiny"):
        found[name].mkdir()
    (found["text"] / "a.png").write_text("no image")
    whole = (scenes / "summer_000.png").read_bytes()
    (found["cut"] / "a.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (8660, 5774)).save(found["large"] / "a.png")  # 50 megapixels
    Image.new("RGB", (96, 50)).save(found["other_size"] / "a.png")
    Image.new("RGB", (1, 1)).save(found["tiny"] / "a.png")
    found["half"] = tmp_path / "half.inlier"
    found["half"].write_bytes(found["monitor"].read_bytes()[:3000])
    found["keyless"] = tmp_path / "keyless.inlier"
    shutil.copy(found["monitor"], found["keyless"])
    found["file"] = tmp_path / "file.txt"
    found["file"].write_text("no monitor")
    return found


FIT = "fit --backbone street --images {images} --out {out}"
STRESS = "stress {bands} --backbone street --images {images} --out {out} --count 1"
ATTACK = "attack {bands} --backbone street --images {images} --out {out} --count 1 --eps 2/255"
SCORE = "score {monitor} --backbone street --images"
REFUSED = [
    # images
    (f"{SCORE} {{empty}}", "No image in .*empty"),
    (f"{SCORE} {{text}}", "None of the 1 images in .*text' can be read; a.png: not an image"),
    (f"{SCORE} {{cut}}", "None of the 1 images in .*cut' can be read; a.png: .*truncated"),
    (f"{SCORE} {{large}}", "drawn for images of 48 x 96 "),
    (f"{SCORE} {{other_size}}", "drawn for images of 48 x 96 "),
    (f"{SCORE} {{file}}", "file.txt' is a file"),
    (f"{SCORE} {{images}} --resize 0x96", "--resize is height x width in pixels"),
    (f"{SCORE} {{images}} --split {{file}}", "file.txt"),
    (f"{SCORE} {{images}} --groups {{file}}", "file.txt"),
    (f"{SCORE} {{images}} --images {{images}}", "have images of the same name, 'autumn_000.png'.*: give the folder"),
    (f"{SCORE} {{images}} --images {{tiny}} --split {{file}}", "--split is of one data set, and --images was given 2"),
    ("fit --backbone street --images {empty} --out {out}", "No image in"),
    ("fit --backbone street --images {text} --false-alarm-rate 0.5 --out {out}", "None of the 1 images"),
    ("fit --backbone street --images {text} --out {out}", "would have 1 image; .* at least 99: .* 0.5 or more"),
    ("rekey {monitor} --backbone street --images {cut}", "None of the 1 images"),
    ("perturb fog --images {empty} --out {out}", "No image in"),
    ("attack fgsm --backbone street --images {text} --out {out}", "None of the 1 images"),
    # files of ours
    ("score {half} --backbone street --images {images}", "half.inlier' is not a whole safetensors file"),
    ("score {file} --backbone street --images {images}", "file.txt' is not a whole safetensors file"),
    ("score {keyless} --backbone street --images {images}", "key 'daain.inlier.*' is not beside .*rekey"),
    ("score {empty} --backbone street --images {images}", "No file '.*empty'"),
    ("rekey {bands} --backbone street --images {images}", "so it has no key"),
    (f"{SCORE} {{images}} --out {{empty}}", "empty' is a folder or a device"),
    ("fit --backbone street --images {images} --false-alarm-rate 0.1 --out {file}/m.inlier", "file.txt"),
    # names: options and commands are the parser's
    ("fit --backbone strete --images {images} --out {out}", "Did you mean 'street'"),
    ("fit --backbone street --images foldr:{images} --out {out}", "Did you mean 'folder'"),
    (f"{FIT} --detector mahalanobbis", "Did you mean 'mahalanobis'"),
    (f"{FIT} --detector daain(hed='hbos')", "Did you mean 'head'"),
    (f"{FIT} --false-alarm-rate 0.1 --detector daain(head='hbss')", "hbos"),
    (f"{FIT} --rule robst", "robust"),
    (f"{FIT} --rule high_probability", "would have 24 images; .* at least 299: .* --false-alarm-rate 0.12 or more"),
    (f"{FIT} --fusion maxx", "max"),
    (f"{FIT} --false-alarm-rate 2", "between 0 and 1"),
    (f"{FIT} --false-alarm-rate nan", "between 0 and 1"),
    (f"{FIT} --blocks -3", "--blocks"),
    (f"{FIT} --seed 1 --seed 2", "--seed was given 2 times; give it once"),
    (f"{FIT} --rgb --bgr", "--bgr was given 2 times; give it once"),
    ("perturb vertical_filp --images {images} --out {out}", "Did you mean 'vertical_flip'"),
    ("attack ifgms --backbone street --images {images} --out {out}", "Did you mean 'ifgsm'"),
    ("attack fgsm --eps -1 --backbone street --images {images} --out {out}", "eps"),
    ("fit --backbone street --mean 1,2 --std 1,0 --images {images} --out {out}", "std"),
    ("fit --backbone street --size 12 --images {images} --out {out}", "--size is height x width"),
    (f"{STRESS} --eps 2/0", "such as 1/255"),
    (f"{STRESS} --budget smok", "Did you mean 'smoke'"),
    (f"{STRESS} --control {{half}}", "half.inlier' is not a whole"),
    (f"{STRESS} --false-alarm-rate 0.01", "needs at least 99"),
    # a monitor attacked
    (f"{ATTACK} --way dual --false-alarm-rate 0.01", "needs at least 99"),
    (f"{ATTACK} --way duel", "Did you mean 'dual'"),
    (f"{ATTACK} --recipe pgdd", "No recipe named 'pgdd'"),
    # the parser's own
    ("scroe {monitor}", "score"),
    ("score {monitor} --backbon street --images {images}", "--backbone"),
    ("score --backbone street --images {images}", "MONITOR"),
    ("fit --images {images}", "--backbone"),
    ("fit --backbone street --images {images} --folds one", "--folds"),
]


@pytest.mark.parametrize(("line", "told"), REFUSED)
def test_bad_input_gets_one_line_and_exit_code_2(inlier, places, line, told):
    before = {file: file.read_bytes() for file in places["monitor"].parent.iterdir()}
    ran = inlier(*(word.format(**places) for word in line.split()))
    assert ran.code == 2, ran.err
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert re.search(told, " ".join(ran.err.split()))
    ours = [text for text in ran.err.splitlines() if text.startswith("inlier: ")]
    if not ran.err.startswith("Usage:"):  # the parser says how to use it, too
        assert len(ours) == 1
        assert ran.err.rstrip().endswith(ours[0])  # nothing comes after it
    assert {file: file.read_bytes() for file in places["monitor"].parent.iterdir()} == before
    with contextlib.suppress(FileNotFoundError):
        assert not list(places["out"].iterdir())
