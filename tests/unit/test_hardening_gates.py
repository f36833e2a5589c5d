"""The gates of a hardening fail where its attackers were too weak, and say what was not run."""

import copy

import pytest

from inlier.evaluation.hardening_gates import hardening_gates

EPSILONS = (0.01, 0.02)


def rate(value):
    return {"hits": round(8 * value), "images": 8, "rate": value, "interval": [0.0, 1.0]}


def row(attack, eps, value, dead=0.0):
    return {"attack": attack, "eps": eps, "success_0.3": rate(value), "dead_gradients": dead}


def tried():
    def told(monitor):
        rows = [row("oblivious, hinge", eps, 0.25) for eps in EPSILONS]
        rows += [row(f"dual, hinge, on {monitor}", eps, 0.5 + 10 * eps) for eps in EPSILONS]
        worst = [{"eps": eps, "success_0.3": rate(0.5 + 10 * eps)} for eps in EPSILONS]
        return {"rows": rows, "worst": worst}

    networks = {
        name: {"monitors": {kind: told(kind) for kind in ("default", "random look")}} for name in ("it", "original")
    }
    networks["it"]["chance"] = {
        "attack": "dual, hinge, on random look", "eps": EPSILONS[1], "many_draws": 20, "secret": rate(0.9),
        "many": rate(0.7),
    }  # fmt: skip
    steps = {"attack": "dual, hinge, on default", "eps": EPSILONS[0], "before": rate(0.6), "after": rate(0.7)}
    networks["it"]["twice"] = {"default": steps}
    return copy.deepcopy(networks)


def verdict(networks, name, network="it", monitor="default"):
    (found,) = (
        gate for gate in hardening_gates(networks)
        if (gate["network"], gate["monitor"], gate["name"]) == (network, monitor, name)
    )  # fmt: skip
    return found["verdict"]


RISES, KNOWS = "success rises with eps", "who knows the monitor succeeds as often as who does not"
DEAD, BREAKS = "dead gradients", "the suite breaks what is known to break"
SECRET = "who knows the look's secret succeeds as often as who does not"


def test_strong_attackers_pass_every_gate():
    assert {gate["verdict"] for gate in hardening_gates(tried())} == {"PASS"}


@pytest.mark.parametrize("monitor", ["default", "random look"])
def test_weak_ones_are_told_of(monitor):
    networks = tried()
    told = networks["it"]["monitors"][monitor]
    told["worst"][0]["success_0.3"] = rate(1.0)
    told["rows"][0]["success_0.3"] = rate(0.875)
    told["rows"][-1]["dead_gradients"] = 0.02
    told["rows"][1]["dead_gradients"] = 0.9  # of who does not know the monitor, and has nothing left to gain
    assert [verdict(networks, name, monitor=monitor) for name in (RISES, KNOWS, DEAD)] == ["FAIL"] * 3
    other = "default" if monitor == "random look" else "random look"
    assert [verdict(networks, name, monitor=other) for name in (RISES, KNOWS, DEAD)] == ["PASS"] * 3


def test_an_image_more_or_less_is_no_difference():
    networks = tried()
    networks["it"]["monitors"]["default"]["worst"][0]["success_0.3"] = rate(0.8)
    networks["it"]["monitors"]["default"]["rows"][0]["success_0.3"] = rate(0.72)
    assert [verdict(networks, name) for name in (RISES, KNOWS)] == ["PASS"] * 2


def test_a_network_that_is_not_hardened_must_break():
    networks = tried()
    networks["original"]["monitors"]["default"]["worst"][-1]["success_0.3"] = rate(0.25)
    assert verdict(networks, BREAKS, "original") == "FAIL"
    del networks["original"]
    assert verdict(networks, BREAKS, "original") == "not run"


def test_what_was_not_counted_is_not_passed():
    networks = tried()
    for each in networks["it"]["monitors"]["default"]["rows"]:
        del each["dead_gradients"]
    networks["it"]["monitors"]["default"]["rows"] = networks["it"]["monitors"]["default"]["rows"][2:]
    assert [verdict(networks, name) for name in (KNOWS, DEAD)] == ["not run"] * 2


def test_the_look_that_is_known_must_fall_and_many_draws_must_gain_nothing():
    networks = tried()
    many = "averaging over 20 draws gains nothing"
    assert verdict(networks, SECRET, monitor="random look") == verdict(networks, many, monitor="random look") == "PASS"
    networks["it"]["chance"] |= {"secret": rate(0.5), "many": rate(0.9)}  # 0.7 without either
    assert verdict(networks, SECRET, monitor="random look") == verdict(networks, many, monitor="random look") == "FAIL"
    del networks["it"]["chance"]["many"]
    networks["it"]["chance"]["many_draws"] = 0
    assert verdict(networks, "averaging over many draws gains nothing", monitor="random look") == "not run"


def test_twice_the_steps_may_gain_one_image_and_no_more():
    networks = tried()
    assert verdict(networks, "twice the steps gain nothing") == "PASS"
    networks["it"]["twice"]["default"]["after"] = rate(0.85)
    assert verdict(networks, "twice the steps gain nothing") == "FAIL"
