"""What other libraries answer, written to a file for tests that run without them.

In an environment that is thrown away afterwards:

    pip install torch numpy scipy scikit-learn safetensors setuptools six tqdm requests packaging
    pip install --no-deps torchattacks==3.5.1 adversarial-robustness-toolbox==1.20.1
    python tests/peers/known_answers.py

writes `known_answers.safetensors` beside this file: a small network, images, and for each attack where it started, what
it drew and what came out. All is computed in double precision where the library can, since the sign of a gradient near
zero is otherwise a matter of the processor; what came out is stored in single precision.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FILE = Path(__file__).with_suffix(".safetensors")
CLASSES = 10
EPS, STEP, STEPS = 0.03, 0.008, 10
L2, L2_STEP = 0.6, 0.15
APGD_STEPS = 100
SMALL = 0.008  # at which some images withstand
SPSA = {"eps": 0.05, "steps": 4, "pairs": 32, "chunk": 12, "delta": 0.01, "size": 0.01}
SQUARE = {"eps": 0.03, "queries": 500, "share": 0.4}


def network() -> nn.Sequential:
    """Smooth, so that no gradient lies at a kink."""
    layers = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.GELU(), nn.Conv2d(6, 8, 3, stride=2), nn.GELU(), nn.Flatten(), nn.Linear(128, CLASSES)
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in layers.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float32).to(parameter) * 0.3
    return layers.eval()


def images() -> Tensor:
    """Some pixels at 0 and at 1, so that clipping matters."""
    drawn = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    return (1.4 * drawn - 0.2).clamp(0, 1)


def inner() -> Tensor:
    """None near 0 and 1, so that nothing is clipped: SPSA would there ask about images that are none."""
    return 0.2 + 0.6 * torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float32)


def torchattacks_answers(net: nn.Module, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
    import torchattacks

    found = {
        "fgsm": torchattacks.FGSM(net, eps=EPS)(x, labels),
        "ifgsm": torchattacks.BIM(net, eps=EPS, alpha=STEP, steps=STEPS)(x, labels),
        "mifgsm": torchattacks.MIFGSM(net, eps=EPS, alpha=EPS / STEPS, steps=STEPS, decay=0.9)(x, labels),
    }
    aimed = torchattacks.BIM(net, eps=EPS, alpha=STEP, steps=STEPS)
    aimed.set_mode_targeted_by_label(quiet=True)
    found["ifgsm_targeted"] = aimed(x, (labels + 1) % CLASSES)

    torch.manual_seed(3)
    found["pgd_linf.start"] = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
    torch.manual_seed(3)
    found["pgd_linf"] = torchattacks.PGD(net, eps=EPS, alpha=STEP, steps=STEPS)(x, labels)
    torch.manual_seed(4)
    direction = torch.empty_like(x).normal_()
    radius = torch.zeros(len(x), 1, 1, 1).uniform_(0, 1) / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    found["pgd_l2.start"] = (x + direction * radius * L2).clamp(0, 1)
    torch.manual_seed(4)
    found["pgd_l2"] = torchattacks.PGDL2(net, eps=L2, alpha=L2_STEP, steps=STEPS)(x, labels)

    for norm, eps in (("Linf", EPS), ("L2", L2)):
        attack = torchattacks.APGD(net, norm=norm, eps=eps, steps=APGD_STEPS)
        name = f"apgd_{norm.lower()}"
        torch.manual_seed(5)
        if norm == "Linf":
            ray = 2 * torch.rand(x.shape) - 1
            ray = ray / ray.abs().flatten(1).amax(1).view(-1, 1, 1, 1)
        else:
            ray = torch.randn(x.shape)
            ray = ray / ray.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        found[f"{name}.start"] = (x + eps * ray).clamp(0, 1)
        torch.manual_seed(5)
        best, _, value, _ = attack.attack_single_run(x, labels)
        found |= {name: best, f"{name}.value": value}
    return found


def spsa_answers(net: nn.Module, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Also the signs that were drawn: for each step, one for every pair, of which all images have the same."""
    import torchattacks

    attack = torchattacks.SPSA(
        net, eps=SPSA["eps"], delta=SPSA["delta"], lr=SPSA["size"], nb_iter=SPSA["steps"], nb_sample=SPSA["pairs"],
        max_batch_size=SPSA["chunk"],
    )  # fmt: skip
    torch.manual_seed(6)
    images = attack(x, labels)
    torch.manual_seed(6)
    signs = []
    for _ in range(SPSA["steps"]):
        room = torch.empty(SPSA["chunk"], 1, *x.shape[1:])
        for start in range(0, SPSA["pairs"], SPSA["chunk"]):
            some = room[: min(SPSA["chunk"], SPSA["pairs"] - start)]
            signs.append(some.bernoulli_()[:, 0].clone())
    return {"spsa": images, "spsa.signs": torch.cat(signs).to(torch.uint8)}


def square_answers(net: nn.Module, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Also what was drawn, image by image: stripes, and for each square its place, its side and its signs."""
    import torchattacks

    class Telling(torchattacks.Square):
        def random_choice(self, shape):
            drawn = super().random_choice(shape)
            self.signs.append(drawn)
            return drawn

        def random_int(self, low=0, high=1, shape=(1,)):
            drawn = super().random_int(low, high, shape)
            self.places.append((int(drawn), int(high)))
            return drawn

    told = []
    for i in range(len(x)):
        attack = Telling(net, eps=SQUARE["eps"], n_queries=SQUARE["queries"], p_init=SQUARE["share"])
        attack.signs, attack.places = [], []
        attack.init_hyperparam(x)
        torch.manual_seed(7 + i)
        _, best = attack.attack_single_run(x[i : i + 1], labels[i : i + 1])
        told.append((best, attack.signs, attack.places))
    return square_told(told)


def square_told(told: list[tuple[Tensor, list[Tensor], list[tuple[int, int]]]]) -> dict[str, Tensor]:
    """Of each image what came out, the signs that were drawn, and rows and columns in turn, each with one more than the
    largest that there could have been."""
    count, width = len(told), told[0][0].shape[-1]
    found = {"square": torch.cat([best for best, _, _ in told]), "square.stripes": torch.zeros(count, 3, width)}
    found["square.signs"] = torch.zeros(count, SQUARE["queries"], 3)
    found["square.squares"] = torch.full((count, SQUARE["queries"], 3), -1)
    for i, (_, signs, places) in enumerate(told):
        rows, columns = places[::2], places[1::2]
        squares = [(row, column, width - most) for (row, most), (column, _) in zip(rows, columns, strict=True)]
        found["square.stripes"][i] = signs[0][0, :, 0]
        if squares:
            found["square.squares"][i, : len(squares)] = torch.tensor(squares)
            found["square.signs"][i, : len(squares)] = torch.stack([sign.flatten() for sign in signs[1:]])
    small = ("square.stripes", "square.signs", "square.squares")
    return found | {name: found[name].to(torch.int8) for name in small}


def art_answers(net: nn.Module, x: Tensor, labels: Tensor, middle: Tensor, others: Tensor) -> dict[str, Tensor]:
    """In single precision, which is all that it has."""
    import numpy as np
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier
    from art.utils import random_sphere

    classifier = PyTorchClassifier(
        net, nn.CrossEntropyLoss(), x.shape[1:], CLASSES, clip_values=(0.0, 1.0), device_type="cpu"
    )
    x, labels = x.numpy(), labels.numpy()
    more = {"eps": EPS, "max_iter": STEPS, "verbose": False}
    attacks = {
        "fgsm": evasion.FastGradientMethod(classifier, eps=EPS),
        "ifgsm": evasion.BasicIterativeMethod(classifier, eps_step=STEP, **more),
        "mifgsm": evasion.MomentumIterativeMethod(classifier, eps_step=EPS / STEPS, decay=0.9, **more),
    }
    found = {name: torch.from_numpy(attack.generate(x, labels)) for name, attack in attacks.items()}
    # On images that are cut nowhere: theirs goes into [0, 1] before it goes into the ball, and in L2 that is not ours.
    round_ball = evasion.ProjectedGradientDescent(classifier, norm=2, eps_step=L2_STEP, **more | {"eps": L2})
    found["pgd_l2"] = torch.from_numpy(round_ball.generate(middle.numpy(), others.numpy()))

    from_chance = evasion.ProjectedGradientDescent(classifier, eps_step=STEP, num_random_init=1, **more)
    np.random.seed(9)
    found["pgd_linf"] = torch.from_numpy(from_chance.generate(x, labels))
    np.random.seed(9)
    ball = random_sphere(len(x), x[0].size, EPS, np.inf).reshape(x.shape).astype(np.float32)
    found["pgd_linf.start"] = torch.from_numpy(np.clip(x + ball, 0, 1))

    seen: list[Tensor] = []
    first = net[0]  # the library calls the layers of a Sequential one by one
    handle = first.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach().clone()))
    np.random.seed(8)
    apgd = evasion.AutoProjectedGradientDescent(
        classifier, eps=SMALL, eps_step=2 * SMALL, max_iter=APGD_STEPS, nb_random_init=1, loss_type=None, verbose=False
    )
    found["apgd_linf"] = torch.from_numpy(apgd.generate(x, labels))
    handle.remove()
    np.random.seed(8)
    ball = random_sphere(len(x), x[0].size, SMALL, np.inf).reshape(x.shape).astype(np.float32)
    found["apgd_linf.start"] = torch.from_numpy(np.clip(x + ball, 0, 1))
    with torch.no_grad():
        told = torch.from_numpy(labels)
        values = [F.cross_entropy(net(batch), told, reduction="none") for batch in seen if len(batch) == len(x)]
    found["apgd_linf.seen"] = torch.stack(values).amax(0)
    return found | art_square_answers(classifier, x, labels)


def art_square_answers(classifier: Any, x: Any, labels: Any) -> dict[str, Tensor]:
    """What it draws is heard where it asks for it."""
    import numpy as np
    from art.attacks import evasion

    attack = evasion.SquareAttack(
        classifier, eps=SQUARE["eps"], max_iter=SQUARE["queries"], p_init=SQUARE["share"], nb_restarts=1, verbose=False
    )

    def heard(draw: Callable[..., Any], into: list[Any]) -> Callable[..., Any]:
        def hearing(*args: Any, **more: Any) -> Any:
            drawn = draw(*args, **more)
            into.append((drawn, args[-1]))
            return drawn

        return hearing

    def told(i: int) -> tuple[Tensor, list[Tensor], list[tuple[int, int]]]:
        signs: list[Any] = []
        places: list[Any] = []
        choice, randint = heard(np.random.choice, signs), heard(np.random.randint, places)
        np.random.seed(10 + i)
        with patch.object(np.random, "choice", choice), patch.object(np.random, "randint", randint):
            best = attack.generate(x[i : i + 1], labels[i : i + 1])
        drawn = [torch.from_numpy(np.sign(values)) for values, _ in signs]
        return torch.from_numpy(best), drawn, [(int(place), most) for place, most in places]

    return square_told([told(i) for i in range(len(x))])


def make() -> None:
    from importlib.metadata import version

    from safetensors.torch import save_file

    torch.set_num_threads(1)
    net, x, middle = network(), images(), inner()
    with torch.no_grad():
        labels, others = net(x).argmax(1), net(middle).argmax(1)
    found = {f"art.{name}": tensor for name, tensor in art_answers(net, x, labels, middle, others).items()}
    torch.set_default_dtype(torch.float64)
    net = net.double()
    for parts in (
        torchattacks_answers(net, x.double(), labels),
        spsa_answers(net, middle.double(), others),
        square_answers(net, x.double(), labels),
    ):
        found |= {f"torchattacks.{name}": tensor for name, tensor in parts.items()}
    found |= {"images": x, "inner": middle, "labels": labels, "inner.labels": others}
    found |= {f"network.{name}": tensor for name, tensor in net.state_dict().items()}
    singles = {name for name, tensor in found.items() if tensor.dtype == torch.float64 and not name.endswith("start")}
    save_file(
        {name: (t.float() if name in singles else t).detach().contiguous() for name, t in found.items()},
        FILE,
        {name: version(name) for name in ("torchattacks", "adversarial-robustness-toolbox", "torch")},
    )


if __name__ == "__main__":
    make()
