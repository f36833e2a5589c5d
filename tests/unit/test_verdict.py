"""A verdict says the same to people, to programs and to tables."""

import json
import sys

import pytest
import torch

from inlier.errors import Unavailable
from inlier.verdict import Verdict, Why


def verdict(why=False):
    told = Why(
        taps=((("conv1", 0.75), ("conv2", 0.25)), (), ()),
        heat=torch.arange(12.0).view(3, 2, 2),
        nearest=(("clean.png", 1.5), None, None),
    )
    return Verdict(
        names=("a.png", "b.png", "c.png"),
        output=torch.eye(3),
        score=torch.tensor([0.5, 12.25, torch.inf]),
        p_value=torch.tensor([0.5, 0.01, 0.01], dtype=torch.float64),
        flagged=torch.tensor([False, True, True]),
        false_alarm_rate=0.01,
        why=told if why else None,
    )


def test_its_repr_is_a_sentence():
    assert repr(verdict()) == "Verdict(2 of 3 images flagged at a false-alarm rate of 0.01)"
    assert repr(verdict()[1]) == ("Verdict(b.png: flagged at a false-alarm rate of 0.01, score 12.25, p-value 0.01)")
    assert "a.png: not flagged" in repr(verdict()[0])


def test_rows_are_plain_values_of_each_image():
    assert verdict().rows() == [
        {"image": "a.png", "score": 0.5, "p_value": 0.5, "flagged": False},
        {"image": "b.png", "score": 12.25, "p_value": 0.01, "flagged": True},
        {"image": "c.png", "score": None, "p_value": 0.01, "flagged": True},  # JSON has no infinity
    ]


def test_rows_say_why_only_when_asked():
    first, second, _ = verdict(why=True).rows()
    assert first["taps"] == [{"tap": "conv1", "share": 0.75}, {"tap": "conv2", "share": 0.25}]
    assert first["nearest"] == {"image": "clean.png", "distance": 1.5}
    assert second["taps"] == []
    assert second["nearest"] is None


@pytest.mark.parametrize("why", [False, True])
def test_json_dictionary_and_frame_say_the_same(why):
    given = verdict(why)
    told = given.to_dict()
    assert told == {"false_alarm_rate": 0.01, "images": given.rows()}
    assert json.loads(given.to_json(), parse_constant=pytest.fail) == told
    frame = given.to_frame()
    assert list(frame["image"]) == list(given.names)
    assert list(frame["flagged"]) == [False, True, True]
    assert list(frame.columns) == list(told["images"][0])


def test_a_frame_needs_pandas_and_says_which_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(Unavailable, match=r"inlier\[frame\]"):
        verdict().to_frame()


def test_iterating_gives_verdicts_of_one_image_with_all_that_belongs_to_it():
    whole = verdict(why=True)
    parts = list(whole)
    assert len(whole) == len(parts) == 3
    for i, part in enumerate(parts):
        assert len(part) == 1
        assert part.rows() == whole.rows()[i : i + 1]
        assert torch.equal(part.output, whole.output[i : i + 1])
        assert torch.equal(part.why.heat, whole.why.heat[i : i + 1])
        assert part.prediction.tolist() == [i]


def test_indices_count_from_the_end_and_end():
    assert verdict()[-1].names == ("c.png",)
    assert verdict()[0].why is None
    with pytest.raises(IndexError):
        verdict()[3]


def test_verdicts_of_batches_become_one_again():
    whole = verdict()
    again = Verdict.concatenate(list(whole))
    assert again.rows() == whole.rows()
    assert torch.equal(again.output, whole.output)
    with pytest.raises(ValueError, match="No verdicts"):
        Verdict.concatenate([])
