"""torchattacks and ART, which has no SPSA, give our images, from the starts and draws that they had; where not, whose
fault it is is shown.

Their answers are in a file that `known_answers.py` makes. Ours are computed in double precision where theirs were, and
agree to 1e-6 a pixel, which is what single precision keeps of them.
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from peers.known_answers import APGD_STEPS, CLASSES, EPS, FILE, L2, L2_STEP, SMALL, SPSA, SQUARE, STEP, STEPS, network

from inlier.attacks import queries
from inlier.attacks.recipes import apgd, fgsm, ifgsm, mifgsm, pgd
from inlier.attacks.surrogates import margins
from inlier.backbones.base import Backbone, Classification
from inlier.files import read_tensors
from inlier.probe import Probe

ANSWERS, _ = read_tensors(FILE)
TOLERANCE = 1e-6


def probe(double):
    net = network()
    net.load_state_dict({name[8:]: tensor for name, tensor in ANSWERS.items() if name.startswith("network.")})
    return Probe(Backbone(net.double() if double else net, Classification([str(i) for i in range(CLASSES)])))


OURS = {
    "fgsm": fgsm(EPS),
    "ifgsm": ifgsm(EPS, STEP, STEPS),
    "mifgsm": mifgsm(EPS, STEPS, 0.9),
    "pgd_linf": replace(pgd(EPS, steps=STEPS, step_size=STEP, start="clean"), keep="last"),
    "pgd_l2": replace(pgd(L2, "l2", steps=STEPS, step_size=L2_STEP, start="clean"), keep="last"),
    "apgd_linf": replace(apgd(EPS, "linf", APGD_STEPS), start="clean", stop=None),
    "apgd_l2": replace(apgd(L2, "l2", APGD_STEPS), start="clean", stop=None),
}
ARTS = ("fgsm", "ifgsm", "mifgsm", "pgd_linf", "pgd_l2")
THEIRS = [f"torchattacks.{name}" for name in OURS] + [f"art.{name}" for name in ARTS]
LIBRARIES = ("torchattacks", "art")


def ours(answer, **more):
    library, name = answer.split(".")
    double = library == "torchattacks"
    images, labels = ("inner", "inner.labels") if answer == "art.pgd_l2" else ("images", "labels")
    x, labels = ANSWERS[images], ANSWERS[labels]
    start = ANSWERS.get(f"{answer}.start")
    return OURS[name](probe(double), x.double() if double else x, labels=labels, initial=start, **more)


@pytest.mark.parametrize("answer", THEIRS)
def test_the_untargeted_images_are_theirs(answer):
    found = ours(answer)
    assert (found.images - found.clean).abs().max() > 0.9 * STEP
    torch.testing.assert_close(found.images.float(), ANSWERS[answer], atol=TOLERANCE, rtol=0)


def test_the_targeted_images_are_torchattacks():
    x, target = ANSWERS["images"].double(), (ANSWERS["labels"] + 1) % CLASSES
    found = OURS["ifgsm"](probe(True), x, target=target)
    expected = ANSWERS["torchattacks.ifgsm_targeted"]
    torch.testing.assert_close(found.images.float(), expected, atol=TOLERANCE, rtol=0)


def test_art_returns_the_random_start_of_images_that_its_auto_pgd_does_not_fool():
    """And throws away the best that it saw; for ours that is what comes out."""
    start, theirs, labels = ANSWERS["art.apgd_linf.start"], ANSWERS["art.apgd_linf"], ANSWERS["labels"]
    net = probe(False)
    attack = replace(apgd(SMALL, steps=APGD_STEPS), start="clean", stop=None)
    found = attack(net, ANSWERS["images"], labels=labels, initial=start)
    withstood = net.backbone.predict(theirs) == labels
    assert 0 < withstood.sum() < len(labels)
    torch.testing.assert_close(theirs[withstood], start[withstood], atol=TOLERANCE, rtol=0)

    def loss(images):
        return F.cross_entropy(net.backbone(images), labels, reduction="none")

    assert (loss(theirs) < 0.9 * ANSWERS["art.apgd_linf.seen"])[withstood].all()
    torch.testing.assert_close(loss(found.images), ANSWERS["art.apgd_linf.seen"], rtol=0.01, atol=0)


def dealt(monkeypatch, *draws):
    """What was drawn there is drawn here: `torch.randint` deals these, one a call."""
    left = iter(draws)

    def randint(low, *rest, **more):
        (high, shape) = rest if len(rest) == 2 else (low, *rest)
        draw = next(left)
        assert draw.shape == tuple(shape)
        assert draw.min() >= 0
        assert draw.max() < high
        return draw

    monkeypatch.setattr(torch, "randint", randint)


def oracle(net, labels):
    """The margin of one image and of its neighbours."""
    return lambda images: margins(net.backbone(images), labels.expand(len(images)))


def test_spsa_follows_torchattacks_step_by_step(monkeypatch):
    net, labels, expected = probe(True), ANSWERS["inner.labels"], ANSWERS["torchattacks.spsa"]
    signs = ANSWERS["torchattacks.spsa.signs"].split(SPSA["pairs"])
    draws = [draw.long() for step in signs for draw in step.split(SPSA["chunk"])]
    for i, image in enumerate(ANSWERS["inner"].double().split(1)):
        offered = []
        ask = oracle(net, labels[i])

        def listening(images, ask=ask, offered=offered):
            if len(images) == 1:
                offered.append(images)
            return ask(images)

        dealt(monkeypatch, *draws)
        queries.spsa(
            listening, image, SPSA["eps"], steps=SPSA["steps"], samples=2 * SPSA["pairs"], delta=SPSA["delta"],
            size=SPSA["size"], win=torch.inf, batch_size=2 * SPSA["chunk"],
        )  # fmt: skip
        assert len(offered) == 1 + SPSA["steps"]  # theirs returns the last, ours the best of these
        torch.testing.assert_close(offered[-1][0].float(), expected[i], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("library", LIBRARIES)
def test_square_follows_others_square_by_square(library, monkeypatch):
    """Their schedules count squares from 0 where ours counts queries, of which two came before.

    torchattacks goes on from the stripes in any case, ART and ours from the clean image where the stripes are worse.
    """
    told = {name: ANSWERS[f"{library}.square.{name}"].long() for name in ("stripes", "signs", "squares")}
    double = library == "torchattacks"
    count, schedule = SQUARE["queries"], queries.share_at
    monkeypatch.setattr(queries, "share_at", lambda number, _, share: schedule(number - 2, count, share))
    net, labels, compared = probe(double), ANSWERS["labels"], 0
    images = ANSWERS["images"].double() if double else ANSWERS["images"]
    for i, image in enumerate(images.split(1)):
        ask = oracle(net, labels[i])
        stripes = (image + SQUARE["eps"] * told["stripes"][i].view(1, 3, 1, -1)).clamp(0, 1)
        if double and ask(stripes) <= ask(image):
            continue
        drawn = [(told["stripes"][i] + 1) // 2]
        draws = [drawn[0].view(1, 3, 1, -1)]
        for square, signs in zip(told["squares"][i], told["signs"][i], strict=True):
            if square[2] < 0:  # won before
                break
            draws += [square[:1], square[1:2], ((signs + 1) // 2).view(1, 3, 1, 1)]
        dealt(monkeypatch, *draws)
        found = queries.square(ask, image, SQUARE["eps"], queries=count + 2, share=SQUARE["share"])
        expected = ANSWERS[f"{library}.square"][i]
        assert found.won.item() is bool(net.backbone.predict(expected[None].to(image)) != labels[i])
        compared += int(found.won)
        assert found.queries == 2 + (len(draws) - 1) // 3  # theirs, and the clean image
        torch.testing.assert_close(found.images[0].float(), expected, atol=TOLERANCE, rtol=0)
    assert compared >= 3


def test_no_square_of_others_reaches_the_last_row_or_column_and_ours_do(monkeypatch):
    size = ANSWERS["images"].shape[-1]
    for library in LIBRARIES:
        squares = ANSWERS[f"{library}.square.squares"].long()
        rows, columns, sides = squares[squares[..., 2] > 0].unbind(1)
        assert len(rows) > 500
        assert (rows + sides < size).all()
        assert (columns + sides < size).all()

    highest = []
    truly = torch.randint

    def randint(low, *rest, **more):
        draw = truly(low, *rest, **more)
        if rest[0] == (1,):  # a place; `low` is then one more than the last there is
            highest.append(int(draw) == low - 1)
        return draw

    monkeypatch.setattr(torch, "randint", randint)
    queries.square(lambda images: images.sum((1, 2, 3)), ANSWERS["images"][:1], 0.03, queries=500, win=torch.inf)
    assert len(highest) > 900
    assert sum(highest) > 50
