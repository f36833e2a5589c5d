"""The collision report: images of something else that an encoder cannot tell from clean ones, and who notices.

The attack of Liang's paper (`An algorithm to attack neural network encoder-based out-of-distribution sample detector`):
an X-ray, noise or a drawing is changed until a network's features of it are those of a clean image. Here it is tried on
the bottleneck, on the logits, on all taps at once, and on what one sampling key reads; every monitor then judges what
came of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inlier.anatomy import Anatomy
from inlier.attacks.collisions import Start, collide, collision, mape, start_images
from inlier.attacks.engine import Attack, AttackResult
from inlier.attacks.objectives import Context, Objective, most_likely
from inlier.attacks.steppers import Cosine
from inlier.backbones.base import Backbone, Classification
from inlier.config import from_keywords
from inlier.errors import Mismatch
from inlier.evaluation.gates import Gate
from inlier.evaluation.gathered import Source, gather_images
from inlier.evaluation.guarded import Guarded, GuardedWork
from inlier.evaluation.guards import Guard, NetworkPlan, networks_of, scores_of
from inlier.evaluation.intervals import auroc_interval
from inlier.evaluation.measure import share
from inlier.evaluation.pictures import enlarged, photograph
from inlier.images import evenly
from inlier.observation import Observation
from inlier.perturbations.base import to_8_bit
from inlier.probe import Probe
from inlier.readers import FeatureMap, Reader, SampledActivations, logits
from inlier.registry import nearest
from inlier.types import Images, Progress, Scores

__all__ = ["LAYERS", "Collisions", "Layer", "colliding", "null_space"]

LAYERS = {
    "bottleneck": "the bottleneck",
    "logits": "the logits",
    "all": "all taps",
    "key": "what the first key reads",
}
"""What a collision is of."""
PAPER_VALUES = 224 * 224 * 3
"""Of an image in the paper, whose eps is an L2 norm over so many."""
DOTS = 300
"""Of a scatter plot."""
BINS = 12
SHOWN = 128
"""Pixels that a picture is at least wide."""
EXACT = 1e-5
"""MAPE that counts as exact in single precision."""


@dataclass(frozen=True)
class StartPlan:
    """An image to start from; the keyword arguments of a table `[[starts]]`.

    Args:
        name, label: for machines and for people; the label is the name by default.
        images: where it is; of several the one of number `number`.
        drawn: or what is drawn instead, `noise`, `checkerboard` or `spiral`.
        number: of the image.
    """

    name: str
    label: str = ""
    images: Source | None = None
    drawn: Start | None = None
    number: int = 0

    def __post_init__(self) -> None:
        if (self.images is None) == (self.drawn is None):
            raise ValueError(f"The start '{self.name}' needs images or drawn, one of them")
        if self.drawn is not None and self.drawn not in get_args(Start):
            raise ValueError(f"There is no start '{self.drawn}'. {nearest(str(self.drawn), list(get_args(Start)))}")


@dataclass(frozen=True, eq=False)
class Layer:
    """What a collision is of.

    Args:
        name: of `LAYERS`.
        readers: of it; the taps of all of them together.
        size: numbers that they keep of an image.
    """

    name: str
    readers: tuple[Reader, ...]
    size: int

    def objective(self, wanted: Sequence[Float[Tensor, "n *k"]]) -> Objective:
        """Minus the squared distance to what each reader reads of the images to collide with.

        Differs from algorithm 1 for all taps: each tap's distance is divided by the squared norm of what is wanted
        there, so that every tap counts alike.
        """
        terms = [collision(reader, features) for reader, features in zip(self.readers, wanted, strict=True)]
        if len(terms) == 1:
            return terms[0]
        weights = [1 / features.square().flatten(1).sum(1).clamp_min(1e-12) / len(terms) for features in wanted]

        def objective(observation: Observation, context: Context) -> Scores:
            parts = [weight * term(observation, context) for weight, term in zip(weights, terms, strict=True)]
            return torch.stack(parts).sum(0)

        objective.__name__ = f"collision({len(terms)} taps)"
        return objective

    def apart(self, read: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Scores:
        """MAPE of each image; of all taps the mean over these."""
        each = [mape(read[reader.name], wanted[reader.name]) for reader in self.readers]
        return torch.stack(each).mean(0)


@dataclass(frozen=True, kw_only=True)
class Collisions(Guarded):
    """The settings of an experiment of the kind `collisions`: those of `Guarded`, and these.

    Each network says its bottleneck; `images` clean images are collided with, by every start.

    Args:
        starts: tables, see `StartPlan`.
        layers: which of `LAYERS`.
        l2: eps as the paper has it, for its 224 x 224 x 3 images: for d values it becomes eps sqrt(d / 150528).
        linf: eps in grey levels of 255.
        steps, restarts, optimiser: of `collide`; moves shrink along a cosine here, and plain steps are twice as long at
            first. The paper has Adamax, which moves all values alike and so comes less near in a ball that is tight.

    Raises:
        ValueError, LookupError: settings that cannot be.
    """

    starts: Sequence[Mapping[str, Any]]
    title: str = "Collisions"
    layers: Sequence[str] = ("bottleneck", "logits", "all", "key")
    l2: Sequence[float] = (1.0, 5.0)
    linf: Sequence[float] = ()
    steps: int = 200
    restarts: int = 1
    optimiser: Literal["adamax", "pgd"] = "pgd"

    def __post_init__(self) -> None:
        super().__post_init__()
        for plan in networks_of(self.networks):
            if not plan.bottleneck:
                raise ValueError(
                    f"Network '{plan.name}' needs a bottleneck, the tap of its features: see `inlier taps`"
                )
            self.layers_of(plan)
        names = [plan.name for plan in self.plans()]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"Starts need names of their own: give tables [[starts]]; got {names}")
        if min(self.steps, self.restarts) < 1 or not (*self.l2, *self.linf) or min((*self.l2, *self.linf)) <= 0:
            raise ValueError("Collisions need steps and restarts above 0, and an eps in l2 or linf, each above 0")

    def plans(self) -> list[StartPlan]:
        """The starts."""
        return [from_keywords(StartPlan, one, f"start '{one.get('name', '?')}'") for one in self.starts]

    def layers_of(self, plan: NetworkPlan) -> list[str]:
        """What collides in a network."""
        wanted = list(plan.layers or self.layers)
        for name in wanted:
            if name not in LAYERS:
                raise ValueError(f"There is no layer '{name}' to collide in. {nearest(name, list(LAYERS))}")
        return wanted

    def balls(self, values: int) -> list[dict[str, Any]]:
        """Every eps: its norm, as it was given, and its radius for images of so many values."""
        scale = math.sqrt(values / PAPER_VALUES)
        return [{"norm": "l2", "given": eps, "eps": eps * scale} for eps in sorted(self.l2)] + [
            {"norm": "linf", "given": eps, "eps": eps / 255} for eps in sorted(self.linf)
        ]

    def run(
        self, out: Path, *, data: Path | None = None, command: str = "", progress: Progress | None = None
    ) -> dict[str, Any]:
        """Collide, and have every monitor judge; see `Experiment`."""
        return Work(self, out, data, progress).results(command)


class Work(GuardedWork[Collisions]):
    """An experiment at work, in its folder."""

    def __init__(self, told: Collisions, out: Path, data: Path | None, progress: Progress | None) -> None:
        super().__init__(told, out, data, "an experiment with collisions", progress)
        reference = self.pool.reference
        self.targets = reference.some(evenly(len(reference), told.images))
        self.height, self.width = reference.images.shape[2:]
        self.values = math.prod(reference.images.shape[1:])
        self.starts = {plan.name: self.started(plan, data) for plan in told.plans()}

    def started(self, plan: StartPlan, data: Path | None) -> Images:
        """A start, as an 8-bit file holds it."""
        height, width = self.height, self.width
        if plan.drawn is not None:
            return to_8_bit(start_images(plan.drawn, 1, (height, width), seed=self.told.seed))
        assert plan.images is not None
        found = gather_images(plan.images, data, size=(height, width))
        batch = next((batch for n, batch in enumerate(found.batches(1)) if n == plan.number), None)
        if batch is None:
            raise ValueError(f"The start '{plan.name}' is image {plan.number}, and there are {len(found)}")
        return to_8_bit(batch.images)

    def results(self, command: str) -> dict[str, Any]:
        """All that the page tells."""
        told = self.told
        found: dict[str, list[dict[str, Any]]] = {
            name: [] for name in ("networks", "monitors", "cells", "judged", "baselines", "histograms", "scatters",
                                  "strips")
        }  # fmt: skip
        for plan, backbone in self.networks:
            guards = self.guards(plan, backbone)
            layers = self.layers(plan, backbone, guards)
            found["networks"].append({
                "name": plan.name, "label": plan.label or plan.name, "bottleneck": plan.bottleneck,
                "fingerprint": backbone.fingerprint(),
                "layers": [{"name": name, "size": layer.size} for name, layer in layers.items()],
            })  # fmt: skip
            self.collided(plan, guards, layers, found)
        return {
            **self.told_of_all(command), "values": self.values, "targets": len(self.targets),
            "starts": [{"name": plan.name, "label": plan.label or plan.name} for plan in told.plans()],
            "balls": told.balls(self.values), **found, "gates": gates(found, null_space()),
        }  # fmt: skip

    def layers(self, plan: NetworkPlan, backbone: Backbone, guards: Sequence[Guard]) -> dict[str, Layer]:
        """What collides in a network, by name."""
        anatomy = Anatomy.of(backbone, (self.height, self.width), self.targets.images.shape[1])
        made = {}
        for name in self.told.layers_of(plan):
            if name == "bottleneck":
                ((tap, shape),) = one_tap(anatomy, plan.bottleneck).items()
                readers: tuple[Reader, ...] = (FeatureMap(tap, shape, "bottleneck"),)
            elif name == "logits":
                with torch.no_grad():
                    shape = (*backbone(self.targets.images[:1].to(backbone.mean)).shape[1:], 1, 1)[:3]
                readers = (logits(shape),)
            elif name == "all":
                taps = anatomy.everywhere().items()
                readers = tuple(FeatureMap(tap, shape, f"tap {n}") for n, (tap, shape) in enumerate(taps))
            else:
                readers = (key_of(guards),)
            made[name] = Layer(name, readers, sum(reader.size for reader in readers))
        return made

    def collided(
        self, plan: NetworkPlan, guards: Sequence[Guard], layers: Mapping[str, Layer], found: Mapping[str, list[Any]]
    ) -> None:
        """Every collision in a network, and what the monitors say of it."""
        clean = {guard.name: self.clean_scores(plan, guard) for guard in guards}
        before = self.untouched(plan, guards, layers)
        for guard in guards:
            known = clean[guard.name]
            found["monitors"].append({
                "network": plan.name, "monitor": guard.name, "label": guard.label, "family": guard.family,
                "limit": guard.limit, "false_alarms": share(known > guard.limit),
            })  # fmt: skip
            scores = before[guard.name]
            found["baselines"].append({
                "network": plan.name, "monitor": guard.name,
                "starts": {name: bool(scores[n] > guard.limit) for n, name in enumerate(self.starts)},
                "auroc_starts": one_auroc(known, scores[: len(self.starts)]),
                "targets": share(scores[len(self.starts) :] > guard.limit),
                "auroc_targets": one_auroc(known, scores[len(self.starts) :]),
            })  # fmt: skip
        for name, layer in layers.items():
            for ball in self.told.balls(self.values):
                tensors = self.cell(plan, guards, layers, layer, ball)
                who = {"network": plan.name, "layer": name, "norm": ball["norm"], "given": ball["given"]}
                self.tell(who, guards, layers, clean, before, tensors, found)

    def tell(
        self, who: Mapping[str, Any], guards: Sequence[Guard], layers: Mapping[str, Layer],
        clean: Mapping[str, Scores], before: Mapping[str, Tensor], tensors: Mapping[str, Tensor],
        found: Mapping[str, list[Any]],
    ) -> None:  # fmt: skip
        """What one cell's collisions came to."""
        count = len(self.targets)
        for n, name in enumerate(self.starts):
            part = slice(n * count, (n + 1) * count)
            own = tensors[f"mape {who['layer']}"][part]
            start = before[f"mape {who['layer']}"][part]
            found["cells"].append({
                **who, "start": name, "images": count,
                "mape": {layer: tensors[f"mape {layer}"][part].median().item() for layer in layers},
                "least": own.min().item(), "most": own.max().item(), "before": start.median().item(),
                "unrounded": tensors["unrounded"][part].median().item(),
                "same": tensors["same"][part].mean().item(),
                "changed": tensors["changed"][part].max().item(),
            })  # fmt: skip
            found["histograms"].append({**who, "start": name, "mape": own.tolist(), "before": start.tolist()})
        for guard in guards:
            scores = tensors[f"score {guard.name}"]
            found["judged"].append({
                **who, "monitor": guard.name, **one_auroc(clean[guard.name], scores),
                "flagged": share(scores > guard.limit),
                "by_start": {
                    name: share(scores[n * count : (n + 1) * count] > guard.limit) for n, name in enumerate(self.starts)
                },
            })  # fmt: skip
        read, wanted = tensors["read"], tensors["wanted"]
        found["scatters"].append({
            **who, "wanted": wanted.tolist(),
            "read": {name: read[n].tolist() for n, name in enumerate(self.starts)},
            "start": {name: before["read"][n].tolist() for n, name in enumerate(self.starts)},
        })  # fmt: skip
        pictures = tensors["pictures"].float() / 255
        views = {name: photograph(enlarged(pictures[n], SHOWN), SHOWN) for n, name in enumerate(self.starts)}
        found["strips"].append({
            **who, "target": photograph(enlarged(self.targets.images[0], SHOWN), SHOWN), "collisions": views,
        })  # fmt: skip

    def untouched(self, plan: NetworkPlan, guards: Sequence[Guard], layers: Mapping[str, Layer]) -> dict[str, Tensor]:
        """Scores of the starts and of the targets as they are, and how far apart their features are."""

        def made() -> tuple[dict[str, Tensor], dict[str, Any]]:
            both = torch.cat([*self.starts.values(), self.targets.images])
            scores = {guard.name: scores_of(guard, both, self.told.batch_size) for guard in guards}
            return scores | self.seen(guards[0], layers, self.repeated()), {}

        tensors, _ = self.place.part(f"{plan.name} untouched", made)
        return tensors

    def repeated(self) -> Images:
        """Every start, once for each target."""
        return torch.cat([start.expand(len(self.targets), -1, -1, -1) for start in self.starts.values()])

    def cell(
        self, plan: NetworkPlan, guards: Sequence[Guard], layers: Mapping[str, Layer], layer: Layer,
        ball: Mapping[str, Any],
    ) -> dict[str, Tensor]:  # fmt: skip
        """All starts against all targets in one layer and one ball; from its file, if it was done."""
        part = f"{plan.name} {layer.name} {ball['norm']} {ball['given']:g}"

        def made() -> tuple[dict[str, Tensor], dict[str, Any]]:
            starts = self.repeated()
            parts = list(self.attacked(part, guards[0], layer, ball, starts))
            attacked = to_8_bit(torch.cat([images for images, _ in parts]))
            scores = {f"score {guard.name}": scores_of(guard, attacked, self.told.batch_size) for guard in guards}
            change = (attacked - starts).flatten(1)
            order = 2.0 if ball["norm"] == "l2" else torch.inf
            first = attacked[:: len(self.targets)]
            return scores | self.seen(guards[0], layers, attacked) | {
                "unrounded": torch.cat([apart for _, apart in parts]).double(),
                "changed": torch.linalg.vector_norm(change, order, dim=1),
                "pictures": first.mul(255).round().to(torch.uint8),
            }, {}  # fmt: skip

        tensors, _ = self.place.part(part, made)
        return tensors

    def attacked(
        self, phase: str, guard: Guard, layer: Layer, ball: Mapping[str, Any], starts: Images
    ) -> Iterator[tuple[Images, Scores]]:
        """The collisions, batch by batch, and their MAPE before they are rounded to 8 bit."""
        probe = Probe(guard.monitor.backbone, layer.readers)
        attack = slowing(
            ball["eps"], ball["norm"], self.told.steps, restarts=self.told.restarts, values=self.values,
            optimiser=self.told.optimiser,
        )  # fmt: skip
        count = len(self.targets)
        for places in torch.split(torch.arange(len(starts)), self.told.batch_size):
            wanted = read(probe, self.targets.images[places % count])
            objective = layer.objective([wanted[reader.name] for reader in layer.readers])
            made = attack(probe, starts[places], objective, seed=self.told.seed + int(places[0]))
            yield made.images.cpu(), layer.apart(read(probe, made.images), wanted).cpu()
            if self.progress is not None:
                self.progress(phase, int(places[-1]) + 1, len(starts))

    def seen(self, guard: Guard, layers: Mapping[str, Layer], images: Images) -> dict[str, Tensor]:
        """How far images are from the targets in each layer, and whether the network predicts what it does of these.

        `read` and `wanted` are of the bottleneck, or of the first layer: some features of the first target, for each
        start, and the target's own.
        """
        backbone, count = guard.monitor.backbone, len(self.targets)
        probe = Probe(backbone, [reader for layer in layers.values() for reader in layer.readers])
        apart: dict[str, list[Tensor]] = {name: [] for name in layers}
        same: list[Tensor] = []
        dots: list[Tensor] = []
        shown = next(iter(layers.values())).readers[0].name
        for places in torch.split(torch.arange(len(images)), self.told.batch_size):
            targets = self.targets.images[places % count]
            now, then = read(probe, images[places]), read(probe, targets)
            for name, layer in layers.items():
                apart[name].append(layer.apart(now, then).cpu())
            agree = predicted(backbone, images[places]) == predicted(backbone, targets)
            same.append(agree.flatten(1).double().mean(1) if agree.ndim > 1 else agree.double())
            dots += [row.flatten() for place, row in zip(places.tolist(), now[shown].cpu(), strict=True)
                     if place % count == 0]  # fmt: skip
            if int(places[0]) == 0:
                wanted = then[shown][0].flatten().cpu()
        kept = evenly(len(wanted), DOTS)
        return {f"mape {name}": torch.cat(parts).double() for name, parts in apart.items()} | {
            "same": torch.cat(same), "read": torch.stack(dots)[:, kept], "wanted": wanted[kept],
        }  # fmt: skip


def slowing(
    eps: float, norm: Literal["l2", "linf"], steps: int, *, restarts: int, values: int,
    optimiser: Literal["adamax", "pgd"],
) -> Attack:  # fmt: skip
    """`collide` whose moves shrink along a cosine, plain steps twice as long at first."""
    found = collide(eps, norm, -(-steps // 2), restarts=restarts, values=values, optimiser=optimiser)
    return replace(found, steps=steps, stepper=Cosine(found.stepper, steps))


def colliding(
    network: Backbone,
    taps: str,
    goals: Images,
    eps: float,
    *,
    norm: Literal["l2", "linf"] = "linf",
    steps: int = 300,
    restarts: int = 1,
    seed: int = 0,
) -> Callable[[Images, int], tuple[AttackResult, Callable[[Images], dict[str, Tensor]]]]:
    """The attack that gives images the features of others.

    Args:
        network: the encoder.
        taps: where features are to be the same; see `Anatomy.select`.
        goals: the images to collide with, in turn.
        eps, norm: of the ball around each image.

    Returns:
        From images, and the number of the first of them, to the attack's result and a function of images in their
        place: `mape` (n,) from the features wanted, and the share `same` (n,) of the prediction that is the goal's.

    Raises:
        ValueError, Mismatch: no such tap, or images of another size than the goals'.
    """
    anatomy = Anatomy.of(network, (goals.shape[-2], goals.shape[-1]), goals.shape[1])
    shapes = anatomy.select(taps)
    readers = tuple(FeatureMap(tap, shape, f"tap {n}") for n, (tap, shape) in enumerate(shapes.items()))
    layer, probe = Layer(taps, readers, sum(reader.size for reader in readers)), Probe(network, readers)
    attack = slowing(eps, norm, steps, restarts=restarts, values=goals[0].numel(), optimiser="pgd")

    def collided(images: Images, first: int) -> tuple[AttackResult, Callable[[Images], dict[str, Tensor]]]:
        if images.shape[1:] != goals.shape[1:]:
            raise Mismatch(
                f"Images of {tuple(images.shape[1:])} cannot take the features of images of {tuple(goals.shape[1:])}: "
                "resize both to one size"
            )
        chosen = goals[torch.arange(first, first + len(images)) % len(goals)]
        wanted = read(probe, chosen)

        def beside(there: Images) -> dict[str, Tensor]:
            agree = predicted(network, there) == predicted(network, chosen)
            return {
                "mape": layer.apart(read(probe, there), wanted).cpu().double(),
                "same": agree.reshape(len(there), -1).double().mean(1),
            }

        objective = layer.objective([wanted[reader.name] for reader in readers])
        return attack(probe, images, objective, seed=seed + first), beside

    return collided


@torch.no_grad()
def read(probe: Probe, images: Images) -> Mapping[str, Tensor]:
    """What a probe's readers keep."""
    kept: Mapping[str, Tensor] = probe(images.to(probe.backbone.mean)).readings
    return kept


@torch.no_grad()
def predicted(backbone: Backbone, images: Images) -> Tensor:
    """The most likely classes, on the CPU."""
    return most_likely(backbone(images.to(backbone.mean))).cpu()


def one_tap(anatomy: Anatomy, name: str) -> dict[Any, Any]:
    """The tap of this name.

    Raises:
        ValueError: the name means several, or none.
    """
    chosen = anatomy.select(name)
    if len(chosen) != 1:
        raise ValueError(f"A bottleneck is one tap, and '{name}' means {len(chosen)}: {', '.join(map(str, chosen))}")
    return chosen


def key_of(guards: Sequence[Guard]) -> Reader:
    """The reader of the first monitor's key.

    Raises:
        Mismatch: no monitor has one.
    """
    for guard in guards:
        for reader in guard.monitor.probe.readers.values():
            if isinstance(reader, SampledActivations):
                return reader
    raise Mismatch("A collision of what a key reads needs a monitor with a key, such as daain, or no layer 'key'")


def one_auroc(clean: Float[Tensor, " m"], scores: Float[Tensor, " n"]) -> dict[str, Any]:
    """AUROC against clean images, with its interval."""
    found = auroc_interval(clean, scores)
    return {"auroc": found.value, "auroc_interval": [found.low, found.high]}


def null_space(size: int = 8, features: int = 16, steps: int = 400, seed: int = 0) -> dict[str, float]:
    """The attack on an encoder of which algebra says that it collides: one linear layer, from 3 size^2 to few features.

    Returns:
        MAPE of the exact collision, one step along the pseudo-inverse, with its `norm`; of the attack in a ball a
        fifth larger; and of the start.
    """
    generator = torch.Generator().manual_seed(seed)
    values = 3 * size**2
    network = nn.Sequential(nn.Flatten(), nn.Linear(values, features, bias=False))
    weight = torch.randn(features, values, generator=generator) / math.sqrt(values)
    network[1].weight = nn.Parameter(weight.clone())
    reader = logits((features, 1, 1))
    probe = Probe(Backbone(network, Classification(tuple(map(str, range(features))))), [reader])
    inside, outside = (0.3 + 0.4 * torch.rand(1, 3, size, size, generator=generator) for _ in range(2))
    wanted, begun = (read(probe, images)[reader.name] for images in (inside, outside))
    change = (wanted - begun) @ torch.linalg.pinv(weight).T
    met = outside + change.view_as(outside)
    norm = change.norm().item()
    found = collide(1.2 * norm, "l2", steps, values=values)(probe, outside, collision(reader, wanted), seed=seed)
    return {
        "start": mape(begun, wanted).item(), "exact": mape(read(probe, met)[reader.name], wanted).item(),
        "attack": mape(read(probe, found.images)[reader.name], wanted).item(), "norm": norm,
    }  # fmt: skip


def gates(found: Mapping[str, Sequence[Mapping[str, Any]]], oracle: Mapping[str, float]) -> list[dict[str, Any]]:
    """Checks against fooling ourselves."""
    cells = found["cells"]
    pairs = rises = 0
    for cell in cells:
        larger = [
            other for other in cells
            if other["given"] > cell["given"]
            and all(other[name] == cell[name] for name in ("network", "layer", "norm", "start"))
        ]  # fmt: skip
        for other in larger:
            pairs += 1
            rises += other["mape"][cell["layer"]] > 1.1 * cell["mape"][cell["layer"]]
    nearer = sum(cell["mape"][cell["layer"]] < cell["before"] for cell in cells)
    checked = [
        Gate("a linear encoder collides exactly along the pseudo-inverse", f"MAPE at most {EXACT:g}",
             f"{oracle['exact']:.1e}", oracle["exact"] <= EXACT),
        Gate("the attack finds such a collision too", "MAPE below a hundredth of the start's",
             f"{oracle['attack']:.1e} from {oracle['start']:.1e}", oracle["attack"] < oracle["start"] / 100),
        Gate("every collision is nearer than its start", "in every layer, ball and start", f"{nearer} of {len(cells)}",
             nearer == len(cells)),
        Gate("a larger ball comes nearer", "no median MAPE that is a tenth larger", f"{pairs - rises} of {pairs}",
             rises == 0),
    ]  # fmt: skip
    return [gate.told() for gate in checked]
