"""The folder of a long job: its settings and finished parts."""

import json

import pytest
import torch

from inlier.errors import Mismatch
from inlier.evaluation.workplace import Workplace


def test_parts_are_made_once_and_come_back_as_they_were(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return {"scores": torch.tensor([1.5, -2.0])}, {"limit": 3.0, "names": ["a", "b"]}

    first = Workplace(tmp_path / "job", {"eps": 0.1}, "a trial").part("dual, 2/255", make)
    again = Workplace(tmp_path / "job", {"eps": 0.1}, "a trial").part("dual, 2/255", make)
    assert len(calls) == 1
    assert torch.equal(first[0]["scores"], again[0]["scores"])
    assert again[1] == {"limit": 3.0, "names": ["a", "b"]}


def test_parts_of_other_names_are_parts_of_their_own(tmp_path):
    place = Workplace(tmp_path / "job", {}, "a trial")
    for value, name in enumerate(("eps 0.1", "eps 0.2")):
        place.part(name, lambda value=value: ({"x": torch.tensor([value])}, {}))
    assert place.part("eps 0.1", lambda: pytest.fail("made again"))[0]["x"].item() == 0
    assert place.part("eps 0.2", lambda: pytest.fail("made again"))[0]["x"].item() == 1


def test_other_settings_are_refused_and_named(tmp_path):
    Workplace(tmp_path / "job", {"eps": 0.1, "steps": (1, 2)}, "a trial")
    Workplace(tmp_path / "job", {"eps": 0.1, "steps": [1, 2]}, "a trial")  # as JSON has it, the same
    with pytest.raises(Mismatch, match=r"holds a trial with eps = 0\.1, and this one has 0\.2"):
        Workplace(tmp_path / "job", {"eps": 0.2, "steps": (1, 2)}, "a trial")
    with pytest.raises(Mismatch, match="steps"):
        Workplace(tmp_path / "job", {"eps": 0.1}, "a trial")


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(Mismatch, match="no trial was begun in it"):
        Workplace(tmp_path, {}, "a trial")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_damaged_settings_are_told(tmp_path):
    place = Workplace(tmp_path / "job", {"eps": 0.1}, "a trial")
    file = place.work / "settings.json"
    assert json.loads(file.read_text()) == {"eps": 0.1}
    file.write_text('{"eps": ')
    with pytest.raises(Mismatch, match="damaged"):
        Workplace(tmp_path / "job", {"eps": 0.1}, "a trial")
