"""A report picks what the results have, says it in the words of the protocol, and makes nothing up."""

import copy

import pytest
from evaluated import counts, made_up

from inlier.report.findings import Findings, label_of, rates_of, sentence
from inlier.report.glossary import GLOSSARY
from inlier.report.limits import limits
from inlier.report.markup import breakable, count, decimals, fine_percent, nominal, settings_text

RESULTS = made_up(pictures=False)


@pytest.fixture
def results():
    return copy.deepcopy(RESULTS)


def attack(found, name):
    return next(s for s in found.sets("attack", "universal") if s["name"] == name)


def set_counts(results, name, hits, images):
    for row in results["rows"]:
        if row["set"] == name and row["monitor"] == "mahalanobis":
            row["flagged_changed"]["0.05"] = counts(hits, images) if images else {"hits": 0, "images": 0}


def test_the_main_monitor_is_the_one_that_is_named(results):
    assert Findings(results).main["name"] == "mahalanobis"
    assert Findings(results | {"main": "daain"}).main["name"] == "daain"


def test_without_a_name_the_first_monitor_with_thresholds_is_the_main_one(results):
    del results["main"]
    results["monitors"][0]["thresholds"] = {}
    assert Findings(results).main["name"] == "daain"
    assert Findings({"format": 1}).main is None


def test_the_headline_is_at_5_percent_or_at_the_largest_rate_there_is(results):
    assert Findings(results).rate == 0.05
    for limits_of in results["monitors"][0]["thresholds"].values():
        del limits_of["0.05"]
    assert Findings(results).rate == 0.1
    results["monitors"][0]["thresholds"] = {}
    assert Findings(results).rate is None


def test_a_rate_that_clean_images_cannot_keep_is_left_out_and_said(results):
    del results["monitors"][0]["thresholds"]["0"]["0.01"]
    found = Findings(results)
    assert rates_of(found.main) == [0.05, 0.1]
    assert any("no threshold for 1\N{NO-BREAK SPACE}%" in text for text in limits(found))


def test_ablations_are_told_apart_from_what_is_compared(results):
    found = Findings(results)
    assert [m["name"] for m in found.compared] == ["mahalanobis", "daain", "max_softmax"]
    assert {family: [m["name"] for m in ms] for family, ms in found.ablations.items()} == {
        "blocks": ["daain_8", "daain_16"]
    }
    assert Findings(results | {"main": "daain"}).compared[0]["name"] == "daain"


def test_an_attack_is_broken_where_a_damaged_image_raised_no_alarm(results):
    set_counts(results, "fgsm", 116, 117)
    set_counts(results, "ifgsm", 117, 117)
    found = Findings(results)
    assert found.attack_verdict(attack(found, "fgsm")) == "broken at eps 0.02: 1 of 117 damaged images raised no alarm"
    assert found.attack_verdict(attack(found, "ifgsm")) == (
        "not broken by this suite at eps 0.01: 117 damaged images, all flagged"
    )


def test_an_attack_that_damages_nothing_is_not_judged(results):
    set_counts(results, "fgsm", 0, 0)
    found = Findings(results)
    assert found.attack_verdict(attack(found, "fgsm")) == ""
    attack(found, "fgsm")["changed_images"] = 0
    assert found.attack_verdict(attack(found, "fgsm")) == "did no damage that could be missed"


def test_the_verdict_counts_the_attacks_that_got_through(results):
    for name, hits in (("fgsm", 10), ("ifgsm", 20), ("gd_uap", 20)):
        set_counts(results, name, hits, 20)
    assert "Of 3 attacks that damage the prediction, 1 did so on at least one image" in " ".join(
        Findings(results).verdict
    )


def test_the_verdict_tells_false_alarms_by_drive_the_weakest_change_and_no_promise(results):
    for row in results["rows"]:
        if row["monitor"] == "mahalanobis" and row["set"] == "camvid_test":
            row["by_group"]["Seq05VD"]["0.05"] = {"hits": 9, "images": 55, "interval": [0.0776, 0.288]}
        elif row["monitor"] == "mahalanobis":
            row["flagged"]["0.05"] = counts(117, 117)
        if row["monitor"] == "mahalanobis" and row["set"] == "frost_1":
            row["flagged"]["0.05"] = {"hits": 70, "images": 117, "interval": [0.5, 0.69]}
    text = " ".join(Findings(results).verdict).replace("\N{NO-BREAK SPACE}", " ")
    assert "9 of 55 (16 %, 95 % interval 7.8 % to 29 %) of Seq05VD (none of which it was fitted to)" in text
    assert "of 0001TP;" in text
    assert "95 % or more of the images for 4 of the paper's 5 changes" in text
    assert "Least was caught of frost, severity 1: 70 of 117 (60 %, 95 % interval 50 % to 69 %)" in text
    assert not any(word in text.lower() for word in ("robust", "secure", "guarantee"))


def test_without_thresholds_the_verdict_says_so(results):
    results["monitors"][0]["thresholds"] = {}
    assert "no threshold" in " ".join(Findings(results).verdict)
    assert Findings({"format": 1}).verdict == []


def test_limits_say_who_the_attackers_were_and_what_was_not_seen(results):
    told = " ".join(limits(Findings(results)))
    assert "groups of 55 to 62 images" in told
    assert "did not know of the monitor" in told
    assert "new group" not in told
    results["fitted_to"]["groups"]["Seq05VD"] = 5
    assert "new group may well give more alarms" in " ".join(limits(Findings(results)))
    results["sets"] = [s for s in results["sets"] if s["kind"] not in ("attack", "universal")]
    assert "attackers" not in " ".join(limits(Findings(results)))


def test_one_key_is_said_to_be_one(results):
    assert "One key" not in " ".join(limits(Findings(results)))
    for m in results["monitors"]:
        m["seeds"] = [0]
    assert "One key" in " ".join(limits(Findings(results)))


def test_a_row_of_counts_is_a_sentence_and_shares_are_never_rounded_to_none_or_all():
    said = sentence({"hits": 3, "images": 62, "interval": [0.0101, 0.135]}).replace("\N{NO-BREAK SPACE}", " ")
    assert said == "3 of 62 (4.8 %, 95 % interval 1.0 % to 14 %)"
    shares = (0, 0.0001, 0.0499, 0.0994, 0.0996, 0.5, 0.999, 1)
    assert [fine_percent(s).replace("\N{NO-BREAK SPACE}", "") for s in shares] == [
        "0%", "<0.1%", "5.0%", "9.9%", "10%", "50%", ">99%", "100%",
    ]  # fmt: skip


def test_numbers_are_written_as_people_write_them():
    assert [nominal(r).replace("\N{NO-BREAK SPACE}", " ") for r in (0.001, 0.05, 0.3)] == ["0.1 %", "5 %", "30 %"]
    assert [count(v).replace("\N{NO-BREAK SPACE}", " ") for v in (12, 1e3, 2.57e5, 3.4e9)] == [
        "12",
        "1 k",
        "257 k",
        "3.4 G",
    ]
    assert (decimals(0.12345, 2), decimals(float("nan"))) == ("0.12", "\N{EN DASH}")
    assert (
        settings_text({"eps": 10 / 255, "step_size": 0.005, "target": None, "to": "road"})
        == "eps 0.03922, step size 0.005, to road"
    )
    assert settings_text({"quality": None}) == ""
    assert breakable("data/a_b & <c> / d, 1/255") == "data/<wbr>a_<wbr>b &amp; &lt;c&gt; / d, 1/255"


def test_a_thing_without_label_goes_by_its_name():
    assert label_of({"name": "fog_1", "label": ""}) == "fog_1"
    assert Findings({"sets": [{"name": "a", "label": "A"}]}).set_label("b") == "b"


def test_terms_name_the_positive_class():
    for term in ("AUROC", "AUPR", "FPR95"):
        assert "positive class" in GLOSSARY[term]
