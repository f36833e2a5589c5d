"""Logits are found in whatever a network returns, and where two readings are possible the user is asked."""

from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest
import torch

from inlier.backbones.outputs import Output, find_output

VECTOR, MAPS, SCALAR = torch.rand(1, 4), torch.rand(1, 5, 6, 7), torch.tensor(1.0)
TOKENS = torch.rand(1, 9, 3)
Pair = namedtuple("Pair", "features logits")


@pytest.mark.parametrize(
    ("raw", "name", "logits"),
    [
        ({"logits": VECTOR, "features": MAPS}, "logits", VECTOR),
        (OrderedDict(out=MAPS, aux=MAPS + 1), "out", MAPS),
        ({"seg": MAPS}, "seg", MAPS),
        ({"seg": MAPS, "loss": SCALAR, "tokens": TOKENS, "names": ["a"]}, "seg", MAPS),
        ((VECTOR,), "0", VECTOR),
        ([TOKENS, MAPS], "1", MAPS),
        ((MAPS, None, {"aux": MAPS}), "0", MAPS),
        (Pair(MAPS, VECTOR), "logits", VECTOR),
        (SimpleNamespace(logits=VECTOR, attentions=None, _cache=MAPS), "logits", VECTOR),
        (SimpleNamespace(scores=VECTOR), "scores", VECTOR),
    ],
)
def test_logits_without_rival_are_found(raw, name, logits):
    found = find_output(raw)
    assert found == Output(name)
    assert found(raw) is logits


def test_a_tensor_needs_no_picking():
    assert find_output(VECTOR) is None


@pytest.mark.parametrize(
    ("raw", "listed"),
    [
        ((MAPS, MAPS), "tuple with '0' (1, 5, 6, 7), '1' (1, 5, 6, 7)"),
        ({"seg": MAPS, "depth": MAPS}, "dict with 'seg' (1, 5, 6, 7), 'depth' (1, 5, 6, 7)"),
        ({"logits": VECTOR, "out": VECTOR}, "dict with 'logits' (1, 4), 'out' (1, 4)"),
        ((TOKENS, SCALAR), "tuple with '0' (1, 9, 3), '1' ()"),
        ((), "tuple with nothing"),
        (None, "NoneType with nothing"),
    ],
)
def test_where_the_logits_are_not_plain_to_see_the_message_lists_what_there_is(raw, listed):
    with pytest.raises(TypeError, match="--output NAME") as error:
        find_output(raw)
    assert listed in str(error.value)


@pytest.mark.parametrize(
    ("name", "raw", "picked"),
    [
        ("aux", {"out": MAPS, "aux": VECTOR}, VECTOR),
        ("1", (MAPS, VECTOR), VECTOR),
        ("-1", [MAPS, VECTOR], VECTOR),
        ("-2", [MAPS, VECTOR], MAPS),
        ("features", Pair(MAPS, VECTOR), MAPS),
        ("1", Pair(MAPS, VECTOR), VECTOR),
        ("0", {0: MAPS, 1: VECTOR}, MAPS),
        ("b", SimpleNamespace(a=MAPS, b=VECTOR), VECTOR),
    ],
)
def test_an_output_is_picked_by_key_attribute_or_index(name, raw, picked):
    assert Output(name)(raw) is picked


@pytest.mark.parametrize(
    ("name", "raw", "error", "message"),
    [
        (
            "logit",
            {"logits": VECTOR, "aux": MAPS},
            LookupError,
            "no 'logit'. Did you mean 'logits'? It holds 'log",
        ),
        ("2", (MAPS, VECTOR), LookupError, "no '2'"),
        ("-3", (MAPS, VECTOR), LookupError, "no '-3'"),
        (
            "loss",
            {"logits": VECTOR, "loss": None},
            TypeError,
            "'loss' of the network's output is NoneType, not",
        ),
        ("logits", VECTOR, TypeError, "returns one tensor, (1, 4): there is no 'logits'"),
    ],
)
def test_an_output_that_is_not_there_is_answered_with_what_is(name, raw, error, message):
    with pytest.raises(error) as raised:
        Output(name)(raw)
    assert message in str(raised.value)
