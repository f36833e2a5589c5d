"""Hardening: a short adversarial fine-tune of a network, and an equally long clean one beside it as its control.

Every step draws images, attacks some of them on the network as it is, and lowers the cross-entropy on all of them. The
network stays in eval mode throughout, so that no running statistic of a batch normalisation changes. What is drawn at
a step comes from the seed and the step's number alone: the control sees the same images in the same order, and a run
that was killed goes on to the same weights.

Source: random-start FGSM of Wong et al. 2020 (arXiv:2001.03994, algorithm 3), PGD of Madry et al. 2018
(arXiv:1706.06083, eq. 2.1), the consistency term of Zhang et al. 2019 (arXiv:1901.08573, eq. 5), weights between those
of two networks after Wortsman et al. 2022 (arXiv:2109.01903, section 3).
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import itertools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from inlier.attacks.engine import Attack, State
from inlier.attacks.objectives import Context, Objective, cross_entropy
from inlier.attacks.recipes import RECIPES, recipe_named
from inlier.backbones.base import Backbone, Task
from inlier.errors import Mismatch
from inlier.files import read_tensors, write_tensors
from inlier.images import ImageSource, LabelledSource, as_source, check_images
from inlier.observation import Observation
from inlier.probe import Probe
from inlier.types import Images, LabelMaps, Logits, Progress, Scores

__all__ = [
    "Consistency", "Hardened", "Hardening", "Pool", "Schedule", "apart", "blended", "fine_tuned", "harden", "weights_of"
]  # fmt: skip

Consistency: TypeAlias = Literal["kl", "jensen_shannon"]
Schedule: TypeAlias = Literal["cosine", "constant"]

WARM_UP = 0.05
"""Share of the steps in which the learning rate rises, from its own size over their number."""
RARE = 1.10
"""c of the class weights 1 / ln(c + share), with which ESPNet was trained (arXiv:1803.06815, section 4.1)."""
MOST_BYTES = 4_000_000_000
"""Of images held in memory, 8 bit a value."""


@dataclass(frozen=True)
class Hardening:
    """How a network is fine-tuned.

    Args:
        eps: radius of the attacker's ball in units of [0, 1], in the recipe's norm.
        recipe: a row of `RECIPES` without a target, or an alias, which becomes the row's name. It starts at a random
            point of the ball, and the last iterate is trained on. `fgsm` steps by eps; differs from Wong et al., whose
            step is 1.25 eps.
        attack_steps: of the recipe; by default its own. An attacked image costs so many passes forward and back.
        clean_share: of each batch that stays as it is; 1 is the control. With a consistency term every image is seen
            both ways, and this is the weight of the clean cross-entropy against the attacked one (1 is TRADES).
        consistency: a divergence between the softmax of the clean and of the attacked image that is lowered, too.
        consistency_weight: its weight, where there is one.
        layers: patterns of parameter names (`level3.*`), of which those that match any are trained; by default all.
        steps: of Adam.
        batch_size: images a step.
        lr: Adam's learning rate, at its highest.
        schedule: `cosine` rises over the first 5 % of the steps and falls to 0 along half a cosine.
        crop: (h, w) of the random part of an image that is shown; for segmentation.
        flip: mirror half of the images.
        balanced: weigh rare classes up by 1 / ln(1.10 + share of the pixels).
        even_groups: show images of every group (drive, site) equally often.
        seed: of all that is drawn.

    Raises:
        LookupError: no such recipe.
        ValueError: settings that cannot be.
    """

    eps: float = 2.5 / 255
    recipe: str = "fgsm"
    attack_steps: int | None = None
    clean_share: float = 0.5
    consistency: Consistency | None = None
    consistency_weight: float = 1.0
    layers: tuple[str, ...] = ()
    steps: int = 700
    batch_size: int = 6
    lr: float = 5e-4
    schedule: Schedule = "cosine"
    crop: tuple[int, int] | None = None
    flip: bool = True
    balanced: bool = False
    even_groups: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "recipe", recipe_named(self.recipe))  # equal settings compare equal
        if RECIPES[self.recipe].needs_target:
            raise ValueError(f"Recipe '{self.recipe}' aims at a target, and hardening has none; take another recipe")
        takes = inspect.signature(RECIPES[self.recipe].factory).parameters
        if self.attack_steps is not None and "steps" not in takes:
            raise ValueError(f"Recipe '{self.recipe}' takes no number of steps; take pgd_linf")
        if self.consistency not in (None, *get_args(Consistency)) or self.schedule not in get_args(Schedule):
            raise ValueError(
                f"consistency is None or one of {', '.join(get_args(Consistency))}, and schedule one of "
                f"{', '.join(get_args(Schedule))}; not {self.consistency!r} and {self.schedule!r}"
            )
        wrong = [
            f"{name}={value!r}"
            for name, value, right in (
                ("eps", self.eps, 0 < self.eps <= 1),
                ("attack_steps", self.attack_steps, self.attack_steps is None or self.attack_steps >= 1),
                ("clean_share", self.clean_share, 0 <= self.clean_share <= 1),
                ("consistency_weight", self.consistency_weight, 0 <= self.consistency_weight < math.inf),
                ("steps", self.steps, self.steps >= 1),
                ("batch_size", self.batch_size, self.batch_size >= 1),
                ("lr", self.lr, 0 < self.lr < math.inf),
                ("crop", self.crop, self.crop is None or min(self.crop) >= 1),
            )
            if not right
        ]
        if wrong:
            raise ValueError(
                "eps is in (0, 1], clean_share in [0, 1], attack_steps, steps, batch_size and crop at least 1, lr "
                f"above 0 and consistency_weight at least 0; not {', '.join(wrong)}"
            )

    @property
    def control(self) -> Hardening:
        """The same without an attacker; what is said of one is at its default, so that equal controls compare equal."""
        plain = Hardening()
        return replace(
            self, eps=plain.eps, recipe=plain.recipe, attack_steps=None, clean_share=1.0, consistency=None,
            consistency_weight=plain.consistency_weight,
        )  # fmt: skip

    @property
    def attack(self) -> Attack:
        """The recipe, from a random start."""
        more = {} if self.attack_steps is None else {"steps": self.attack_steps}
        return replace(RECIPES[self.recipe].factory(eps=self.eps, **more), start="random", restarts=1, stop=None)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if self.schedule == "constant":
            return self.lr
        rising = max(1, round(WARM_UP * self.steps))
        if step < rising:
            return self.lr * (step + 1) / rising
        return self.lr * (1 + math.cos(math.pi * (step - rising) / max(1, self.steps - rising))) / 2


@dataclass(frozen=True, eq=False)
class Pool:
    """Images held in memory as 8-bit values, with labels.

    Args:
        images: (c, h, w) uint8 each, of several sizes if they are to be cropped.
        labels: () or (h, w) each.
        names: one an image.
        made: whether the labels are the network's own predictions.
        digest: of pixels, labels and groups, by which a run that was killed knows them again.
        groups: one an image; by default all are of one.
    """

    images: tuple[UInt8[Tensor, "c h w"], ...]
    labels: tuple[Int[Tensor, "*hw"], ...]
    names: tuple[str, ...]
    made: bool
    digest: str = ""
    groups: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        images: Images | ImageSource,
        *,
        translate: Int[Tensor, " classes"] | None = None,
        batch_size: int = 8,
        progress: Progress | None = None,
    ) -> Self:
        """Read images once; the labels are the source's where it has any, else what the network predicts.

        Args:
            translate: the network's output for each label of the source; by default they are the same.

        Raises:
            ValueError: more images than are held in memory, or labels of another kind than the network's predictions.
        """
        source = as_source(images)
        labelled = isinstance(source, LabelledSource) and bool(source.classes)
        pixels: list[Tensor] = []
        labels: list[Tensor] = []
        names: list[str] = []
        groups: list[str] = []
        digest, held = hashlib.sha256(), 0
        for batch in source.batches(batch_size):
            check_images(batch.images)
            if labelled:
                assert batch.labels is not None
                given = batch.labels if translate is None else translate[batch.labels]
            else:
                with torch.no_grad():
                    given = backbone.predict(batch.images.to(backbone.mean.device)).cpu()
            expected = (len(batch.images), *(batch.images.shape[-2:] if backbone.task.is_dense else ()))
            if given.shape != expected:
                raise ValueError(f"This network needs labels {expected} for a batch, and {tuple(given.shape)} came")
            stored, short = (batch.images * 255).round().byte().cpu(), given.short().cpu()
            held += stored.numel()
            if held > MOST_BYTES:
                raise ValueError(
                    f"Hardening holds its images in memory, and these are more than {MOST_BYTES / 1e9:g} GB after "
                    f"{len(names)}; give fewer of them, or resize them"
                )
            for part in (stored, short):
                digest.update(f"{tuple(part.shape)}".encode() + part.contiguous().numpy().tobytes())
            pixels.extend(stored)
            labels.extend(short)
            names.extend(batch.names)
            groups.extend(batch.groups)
            if progress is not None:
                progress("reading", len(names), max(len(names), len(source)))
        if not pixels:
            raise ValueError("There are no images to harden the network with")
        digest.update(json.dumps(groups).encode())
        return cls(tuple(pixels), tuple(labels), tuple(names), not labelled, digest.hexdigest()[:16], tuple(groups))

    def __len__(self) -> int:
        return len(self.images)

    def order(self, seed: int, epoch: int, even_groups: bool = False) -> list[int]:
        """As many images as there are, in an epoch's order: each once, or as many of every group, give or take one,
        each of a group once before any of it comes again."""
        generator = dice(seed, epoch, "order")
        order: list[int] = torch.randperm(len(self), generator=generator).tolist()
        if not even_groups:
            return order
        members: dict[str, list[int]] = {}
        for index in order:
            members.setdefault(self.groups[index], []).append(index)
        turns = zip(*(itertools.cycle(some) for some in members.values()), strict=True)
        dealt = list(itertools.islice(itertools.chain.from_iterable(turns), len(self)))
        return [dealt[place] for place in torch.randperm(len(self), generator=generator).tolist()]

    def batch(self, settings: Hardening, step: int) -> tuple[Images, LabelMaps]:
        """The images and the labels of a step.

        Raises:
            ValueError: images of several sizes and no crop, or a crop larger than an image.
        """
        generator = dice(settings.seed, step, "batch")
        places = range(step * settings.batch_size, (step + 1) * settings.batch_size)
        epochs = {place // len(self) for place in places}
        orders = {epoch: self.order(settings.seed, epoch, settings.even_groups) for epoch in epochs}
        images, labels = [], []
        for place in places:
            index = orders[place // len(self)][place % len(self)]
            image, label = self.images[index], self.labels[index]
            if settings.crop is not None:
                image, label = cropped(image, label, settings.crop, generator, self.names[index])
            if settings.flip and bool(torch.rand((), generator=generator) < 0.5):
                image, label = image.flip(-1), label.flip(-1) if label.ndim else label
            images.append(image)
            labels.append(label)
        if len({image.shape for image in images}) > 1:
            raise ValueError("The images are of several sizes: give a crop that fits into all, or resize them")
        return torch.stack(images).float() / 255, torch.stack(labels).long()

    def shares(self, classes: int) -> Float[Tensor, " classes"]:
        """Of all labels, how many are of each class."""
        counts = torch.zeros(classes, dtype=torch.long)
        for label in self.labels:
            counts += torch.bincount(label.flatten().int(), minlength=classes)
        return counts / counts.sum()


def cropped(
    image: Tensor, label: Tensor, size: tuple[int, int], generator: torch.Generator, name: str
) -> tuple[Tensor, Tensor]:
    rows, columns = (there - wanted for there, wanted in zip(image.shape[-2:], size, strict=True))
    if rows < 0 or columns < 0:
        raise ValueError(f"A crop of {size} does not fit into '{name}', which is {tuple(image.shape[-2:])}")
    top, left = (int(torch.randint(room + 1, (), generator=generator)) for room in (rows, columns))
    window = (..., slice(top, top + size[0]), slice(left, left + size[1]))
    return image[window], label[window]


def dice(seed: int, number: int, what: str) -> torch.Generator:
    """A generator that depends on nothing else."""
    digest = hashlib.sha256(f"{seed} {number} {what}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@dataclass(frozen=True, eq=False)
class Hardened:
    """What came of it.

    Args:
        hardened, control: copies of the backbone with other weights.
        losses: of every step, by name.
        settings: what was run, as JSON values.
    """

    hardened: Backbone
    control: Backbone
    losses: Mapping[str, Float[Tensor, " steps"]]
    settings: Mapping[str, Any]


def harden(
    backbone: Backbone,
    images: Images | ImageSource | Pool,
    settings: Hardening | None = None,
    *,
    folder: str | Path | None = None,
    save_every: int = 50,
    progress: Progress | None = None,
) -> Hardened:
    """Fine-tune copies of a backbone's network, once against an attacker and once without; the original stays as it is.

    Args:
        images: clean ones. Without labels the network's own predictions are what is kept.
        settings: by default those of `Hardening`.
        folder: where the work is kept, so that a run that was killed goes on there.
        save_every: so many steps.

    Raises:
        Mismatch: the folder is of other settings, images or another network.
        ValueError: images or settings that do not suit the network.

    >>> from inlier.backbones.base import Backbone, Classification
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    >>> backbone = Backbone(network, Classification(("cat", "dog")))
    >>> made = harden(backbone, torch.rand(8, 3, 2, 2), Hardening(eps=0.1, steps=3, batch_size=4))
    >>> len(made.losses["hardened"])
    3
    """
    settings = settings or Hardening()
    pool = images if isinstance(images, Pool) else Pool.of(backbone, images, progress=progress)
    made, losses = {}, {}
    for name, how in (("hardened", settings), ("control", settings.control)):
        work = None if folder is None else Path(folder) / f"{name}.safetensors"
        made[name], losses[name] = fine_tuned(
            backbone, pool, how, work=work, save_every=save_every, name=name, progress=progress
        )
    told = facts(backbone, pool, settings)
    return Hardened(made["hardened"], made["control"], losses, told)


def fine_tuned(
    backbone: Backbone,
    pool: Pool,
    settings: Hardening,
    *,
    work: Path | None = None,
    save_every: int = 50,
    name: str = "hardening",
    progress: Progress | None = None,
) -> tuple[Backbone, Float[Tensor, " steps"]]:
    """One fine-tune: a copy of the backbone with other weights, and the loss of every step.

    Args:
        work: file in which it is kept, so that it goes on there; by default nowhere.
        save_every: so many steps.
        name: of the phase that progress is told of.

    Raises:
        Mismatch, ValueError: as `harden`.
    """
    run = FineTune(backbone, pool, settings)
    run.resume(work)
    while run.step < settings.steps:
        run.advance()
        if progress is not None:
            progress(name, run.step, settings.steps)
        if work is not None and (run.step % save_every == 0 or run.step == settings.steps):
            run.save(work)
    return run.result(), run.losses


class FineTune:
    """A fine-tune at some step."""

    def __init__(self, backbone: Backbone, pool: Pool, settings: Hardening) -> None:
        check(backbone, pool, settings)
        self.pool, self.settings = pool, settings
        self.facts = facts(backbone, pool, settings)
        self.backbone = copy.deepcopy(backbone)
        # Several times faster than the default on a CPU; the stubs of Module.to leave the argument out.
        self.backbone.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trained = chosen(self.backbone.network, settings.layers)
        self.probe = Probe(self.backbone)
        self.attack = settings.attack
        self.objective = RECIPES[settings.recipe].objective or cross_entropy
        self.weights = class_weights(pool, backbone.task, settings.balanced).to(backbone.mean.device)
        self.adam = torch.optim.Adam(self.trained.values(), lr=settings.lr)
        self.losses = torch.full((settings.steps,), math.nan)
        self.step = 0

    def advance(self) -> None:
        """One step of Adam."""
        images, labels = (part.to(self.backbone.mean.device) for part in self.pool.batch(self.settings, self.step))
        for group in self.adam.param_groups:
            group["lr"] = self.settings.rate(self.step)
        loss = self.loss(images.contiguous(memory_format=torch.channels_last), labels)
        self.adam.zero_grad()
        if not loss.isfinite():
            raise ValueError(
                f"The loss of step {self.step + 1} is {loss.item()}: take a smaller lr than {self.settings.lr:g}"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        self.adam.step()
        self.losses[self.step] = loss.detach().cpu()
        self.step += 1

    def loss(self, images: Images, labels: LabelMaps) -> Tensor:
        share, settings = self.settings.clean_share, self.settings
        if settings.consistency is None:
            attacked = round((1 - share) * len(images))
            if attacked:
                images = torch.cat([self.attacked(images[:attacked], labels[:attacked]), images[attacked:]])
            return self.error(self.seen(images), labels)
        clean, other = self.seen(torch.cat([images, self.attacked(images, labels)])).chunk(2)
        moved = apart(settings.consistency, clean, other).mean()
        total = settings.consistency_weight * moved
        if share > 0:
            total = total + share * self.error(clean, labels)
        if share < 1:
            total = total + (1 - share) * self.error(other, labels)
        return total

    def seen(self, images: Images) -> Logits:
        """The logits, with a graph that leads to the chosen parameters alone."""
        for parameter in self.trained.values():
            parameter.requires_grad_(True)
        with torch.enable_grad():
            logits: Logits = self.backbone(images)
        return logits

    def error(self, logits: Logits, labels: LabelMaps) -> Tensor:
        """The cross-entropy, averaged over labels that are not void, by the weights of their classes."""
        weights = self.weights[labels]
        return (F.cross_entropy(logits, labels, reduction="none") * weights).sum() / weights.sum().clamp_min(1e-6)

    def attacked(self, images: Images, labels: LabelMaps) -> Images:
        """Where the attacker ends who starts at a random point and knows the labels."""
        for parameter in self.trained.values():
            parameter.requires_grad_(False)  # nobody asks for its gradient yet
        ways = self.attack.parametrisation
        parameters = ways.draw(images, self.attack.constraint, dice(self.settings.seed, self.step, "start"))
        objective = on_labels(self.objective, labels, self.weights[labels] > 0, self.attack.steps)
        state: State | None = None
        for step in range(self.attack.steps):
            move = self.attack.move(self.probe, images, objective, parameters, state, step=step)
            parameters, state = move.parameters, move.state
        return ways.images(parameters, images).detach()

    def result(self) -> Backbone:
        """The backbone, done with training."""
        self.backbone.network.requires_grad_(False)
        self.backbone.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        for parameter in self.trained.values():
            parameter.grad = None
        return self.backbone

    # --- going on ------------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Weights, both moments of Adam and the losses so far; what was run in the metadata."""
        tensors = {"losses": self.losses}
        for name, parameter in self.trained.items():
            tensors[f"weight {name}"] = parameter
            state = self.adam.state.get(parameter, {})
            tensors |= {f"{what} {name}": state[key] for what, key in MOMENTS.items() if key in state}
        write_tensors(path, tensors, {"hardening": json.dumps(self.facts), "step": str(self.step)})

    def resume(self, path: Path | None) -> None:
        """Go on where `save` left off, if it did.

        Raises:
            Mismatch: the file is of other settings, images or another network, or damaged.
        """
        if path is None or not path.is_file():
            return
        tensors, metadata = read_tensors(path)
        if not {"hardening", "step"} <= set(metadata):
            raise Mismatch(f"'{path}' holds no unfinished hardening; give another folder")
        there, here = json.loads(metadata["hardening"]), json.loads(json.dumps(self.facts))
        for name in here:
            if there.get(name) != here[name]:
                raise Mismatch(
                    f"'{path}' is a hardening with {name} = {json.dumps(there.get(name))}, and this one has "
                    f"{json.dumps(here[name])}. Give this one another folder."
                )
        self.step = int(metadata["step"])
        self.losses = tensors["losses"]
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(tensors[f"weight {name}"])
                moments = {
                    key: torch.empty_like(parameter).copy_(tensors[f"{what} {name}"])
                    for what, key in MOMENTS.items()
                    if f"{what} {name}" in tensors
                }
                if moments:
                    self.adam.state[parameter] = {"step": torch.tensor(float(self.step)), **moments}


MOMENTS = {"first": "exp_avg", "second": "exp_avg_sq"}
"""Adam's, by what they are called in the file of an unfinished run."""


def facts(backbone: Backbone, pool: Pool, settings: Hardening) -> dict[str, Any]:
    return {
        **asdict(settings), "network": backbone.fingerprint(), "images": len(pool), "pixels": pool.digest,
        "labels": "own predictions" if pool.made else "given", "inlier": version("inlier"),
    }  # fmt: skip


def check(backbone: Backbone, pool: Pool, settings: Hardening) -> None:
    if settings.even_groups and len(set(pool.groups)) < 2:
        raise ValueError(
            "Groups can be shown equally often where there are several, and all these images are of one; leave out "
            "even_groups, or say which group each image is of (group_by, groups)"
        )
    if settings.crop is None:
        return
    if not backbone.task.is_dense:
        raise ValueError("A crop is for segmentation: of a part of an image the class of the whole may not be seen")
    if backbone.size is not None:
        raise ValueError(f"This backbone resizes images to {backbone.size}, crops too; leave out the crop")


def chosen(network: nn.Module, patterns: Iterable[str]) -> dict[str, nn.Parameter]:
    """The parameters whose names match one of the patterns, or all if there are none.

    Raises:
        ValueError: a pattern that no floating point parameter matches.
    """
    every = {name: value for name, value in network.named_parameters() if value.is_floating_point()}
    patterns = tuple(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in every):
            some = list(every)[:3]
            raise ValueError(f"No parameter's name matches '{pattern}'; names are such as {', '.join(some)}")
    if not every:
        raise ValueError("This network has no parameters to train")
    if not patterns:
        return every
    return {name: value for name, value in every.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}


def class_weights(pool: Pool, task: Task, balanced: bool) -> Float[Tensor, " classes"]:
    """Of each class in the loss; 0 for void."""
    shares = pool.shares(len(task.classes))
    weights = 1 / torch.log(RARE + shares) if balanced else torch.ones_like(shares)
    if task.void is not None:
        weights[task.void] = 0
    return weights


def on_labels(objective: Objective, labels: LabelMaps, valid: Tensor, steps: int) -> Objective:
    """An objective for `Attack.move`, which spends no pass on clean images: labels stand for their prediction."""

    def told(observation: Observation, context: Context) -> Scores:
        known = replace(context, labels=labels, prediction=labels, valid=valid, steps=steps)
        return objective(observation, known)

    told.__name__ = getattr(objective, "__name__", type(objective).__name__)
    return told


def apart(kind: Consistency, clean: Logits, attacked: Logits) -> Float[Tensor, "n *hw"]:
    """KL(p || q), or the Jensen-Shannon divergence, of the softmax p of clean and q of attacked logits, in nats."""
    p, q = clean.log_softmax(1), attacked.log_softmax(1)
    if kind == "kl":
        return (p.exp() * (p - q)).sum(1)
    middle = torch.logaddexp(p, q) - math.log(2)
    return ((p.exp() * (p - middle)).sum(1) + (q.exp() * (q - middle)).sum(1)) / 2


def blended(original: Backbone, tuned: Backbone, share: float) -> Backbone:
    """A copy with weights `share` of the way from the original's to the tuned ones.

    Raises:
        ValueError: a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"The share of the way is from 0 (the original) to 1 (the tuned network), not {share}")
    made = copy.deepcopy(original)
    there = tuned.network.state_dict()
    with torch.no_grad():
        for name, tensor in made.network.state_dict().items():
            if tensor.is_floating_point():
                tensor.lerp_(there[name].to(tensor), share)
    return made


def weights_of(backbone: Backbone) -> dict[str, Tensor]:
    """The network's tensors by name, as `load_backbone` reads them; of several names for one tensor the first."""
    found: dict[str, Tensor] = {}
    places = set()
    for name, tensor in backbone.network.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() and place in places:
            continue
        places.add(place)
        found[name] = tensor
    return found
