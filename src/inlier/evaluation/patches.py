"""Patches: an attacker has a square of the image to himself. How far does the harm reach, and who notices it where?

Inside the square any pixel may have any value, outside nothing changes. The prediction, the activations of every tap,
and detectors that may look at the activations of one ring around the patch alone are told over the distance from it;
beside the attack stand patches that nobody optimised. The attacker knows the network and does not know that there is a
monitor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from inlier.anatomy import Anatomy
from inlier.attacks.constraints import Constraint, LinfBall, MaskedPatch, Unbounded
from inlier.attacks.engine import Attack
from inlier.attacks.objectives import Objective, cross_entropy, most_likely, share_changed
from inlier.attacks.steppers import Cosine, MomentumSign
from inlier.attacks.surrogates import correct_cross_entropy, hinge
from inlier.backbones.base import Backbone
from inlier.calibration import blocked_folds
from inlier.errors import Mismatch
from inlier.evaluation.guarded import Guarded, GuardedWork
from inlier.evaluation.guards import Guard, NetworkPlan, Pool, scores_of
from inlier.evaluation.measure import share
from inlier.evaluation.patch_results import area_bands, gates, mean_bands, strip
from inlier.evaluation.rings import DistanceDetector, Ordinary, Square, ring_names, rings, seen_by, zones
from inlier.images import evenly
from inlier.perturbations.base import to_8_bit
from inlier.probe import Probe
from inlier.readers import FeatureMap
from inlier.registry import nearest
from inlier.taps import Shape, Tap
from inlier.types import Images, LabelMaps, Progress, Scores

__all__ = ["CLEAN", "KINDS", "Eye", "Patches"]

KINDS = {
    "attack": "the attack",
    "noise": "noise",
    "object": "a piece of another image",
    "grey": "a grey square",
}
"""What is in the patch."""
CLEAN = "clean"
"""The same images as they are."""
LOSSES: Mapping[str, Objective] = {"masked_cross_entropy": correct_cross_entropy, "hinge": hinge()}
DECAY = 0.75
"""Of the attack's momentum."""


@dataclass(frozen=True, kw_only=True)
class Patches(Guarded):
    """The settings of an experiment of the kind `patches`: those of `Guarded`, and these.

    Args:
        sizes: sides of the square in pixels, rising; a patch each.
        place: of it, [y, x] from 0 to 1; [0.5, 0.5] is the middle.
        rings: distances from the patch's edge in pixels, rising, at which one ring ends and the next begins.
        taps: where activations are read, see `Anatomy.select`.
        eps: radius of the Linf ball within the patch in grey levels of 255; None for any value. What stands beside the
            attack is brought into the same ball.
        steps, step_size, restarts: of the attack: momentum sign steps from noise that shrink along a cosine; the best
            iterate is kept. The first step is a quarter of eps by default, an eighth of the range without one.
        loss: `masked_cross_entropy` or `hinge`, of a dense network; of a classifier it is cross-entropy.
        shrinkage: of what is ordinary at a place, see `Ordinary`; a fit of few images needs some.
        folds, block: with `held_out` of 0, one of so many parts of the images of the fit, in blocks of so many
            neighbours, is not fitted to: monitors and distance detectors are calibrated with it.

    Raises:
        ValueError, LookupError: settings that cannot be.
    """

    title: str = "Patches"
    sizes: Sequence[int] = (32, 64, 128)
    place: Sequence[float] = (0.5, 0.5)
    rings: Sequence[float] = (8, 16, 32, 64, 128)
    taps: str | Sequence[str] = "stage_ends"
    eps: float | None = None
    steps: int = 40
    step_size: float | None = None
    restarts: int = 1
    loss: str = "masked_cross_entropy"
    shrinkage: float = 5.0
    folds: int = 4
    block: int = 10
    batch_size: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, values in (("sizes", self.sizes), ("rings", self.rings)):
            if not values or list(values) != sorted(set(values)) or min(values) <= 0:
                raise ValueError(f"{name} are pixels that rise, such as [16, 32], not {list(values)}")
        if any(side != int(side) for side in self.sizes):
            raise ValueError(f"sizes are whole pixels, not {list(self.sizes)}")
        Square.at(self.place, 1, (1, 1))
        if self.size is not None:
            self.squares((int(self.size[0]), int(self.size[1])))
        if self.loss not in LOSSES:
            raise ValueError(f"There is no loss '{self.loss}' of a patch. {nearest(self.loss, list(LOSSES))}")
        for name, wrong in (("eps", self.eps), ("step_size", self.step_size)):
            if wrong is not None and wrong <= 0:
                raise ValueError(f"{name} of a patch is above 0, or left out, not {wrong}")
        if min(self.steps, self.restarts, self.block) < 1 or self.folds < 2 or self.shrinkage < 0:
            raise ValueError(
                "Patches need steps, restarts and block of at least 1, folds of at least 2, shrinkage >= 0"
            )
        if self.reference < 2:
            raise ValueError("Patches need at least 2 reference images: a piece of one is put into another")

    def squares(self, size: tuple[int, int]) -> list[Square]:
        """The patches of images of `size` (h, w).

        Raises:
            ValueError: one is larger than the images, or the place lies outside.
        """
        return [Square.at(self.place, int(side), size) for side in self.sizes]

    @property
    def constraint(self) -> Constraint:
        """What the patch's pixels may be."""
        return Unbounded() if self.eps is None else LinfBall(self.eps / 255)

    def attack(self, ways: MaskedPatch) -> Attack:
        """The attack on one patch."""
        first = self.step_size or (0.125 if self.eps is None else self.eps / 255 / 4)
        return Attack(
            self.constraint, Cosine(MomentumSign(first, DECAY), self.steps), self.steps, ways, start="random",
            keep="best", restarts=self.restarts,
        )  # fmt: skip

    def run(
        self, out: Path, *, data: Path | None = None, command: str = "", progress: Progress | None = None
    ) -> dict[str, Any]:
        """Put every patch into every network's images, and tell; see `Experiment`."""
        return Work(self, out, data, progress).results(command)


@dataclass(frozen=True, eq=False)
class Eye:
    """A network whose activation maps are looked at.

    Args:
        probe: whose readers are `tap 0`, `tap 1` and so on.
        shapes: of the taps, in that order.
        left_out: taps that were chosen and have no places.
    """

    probe: Probe
    shapes: Mapping[Tap, Shape]
    left_out: tuple[str, ...] = ()

    @classmethod
    def of(cls, backbone: Backbone, size: tuple[int, int], taps: str | Sequence[str], channels: int = 3) -> Eye:
        """Look at some taps; vectors and tokens have no places, and are left out.

        Raises:
            Mismatch: none has places, or the network crops its images.
        """
        if backbone.crop is not None:
            raise Mismatch(
                "The network crops its images, so that its maps are not over the whole of them: give size = the crop, "
                "and a network that does not crop"
            )
        chosen = Anatomy.of(backbone, size, channels).select(taps)
        shapes = {tap: shape for tap, shape in chosen.items() if min(shape[1:]) > 1}
        if not shapes:
            raise Mismatch(f"No tap of '{taps}' is a map of places: {', '.join(map(str, chosen))}. See `inlier taps`.")
        readers = [FeatureMap(tap, shape, f"tap {n}") for n, (tap, shape) in enumerate(shapes.items())]
        return cls(Probe(backbone, readers), shapes, tuple(str(tap) for tap in chosen if tap not in shapes))

    @torch.no_grad()
    def __call__(self, images: Images) -> tuple[LabelMaps, list[Float[Tensor, "n c h w"]]]:
        """The prediction, on the CPU, and the maps of all taps."""
        seen = self.probe(images.to(self.probe.backbone.mean.device))
        return most_likely(seen.output).cpu(), [seen.readings[f"tap {n}"] for n in range(len(self.shapes))]


class Work(GuardedWork[Patches]):
    """An experiment at work, in its folder."""

    def __init__(self, told: Patches, out: Path, data: Path | None, progress: Progress | None) -> None:
        super().__init__(told, out, data, "an experiment with patches", progress)
        if self.pool.held_out is None:
            fold = blocked_folds(self.fit.groups, block=told.block, folds=told.folds)
            self.pool = Pool(self.fit.some((fold == 0).nonzero()[:, 0].tolist()), self.pool.reference)
            self.fit = self.fit.some((fold > 0).nonzero()[:, 0].tolist())
        assert self.pool.held_out is not None
        self.held_out = self.pool.held_out.images
        if (len(self.held_out) + 1) * told.rate < 1:
            raise ValueError(
                f"{len(self.held_out)} clean images are held out, and a false-alarm rate of {told.rate:g} needs at "
                f"least {math.ceil(1 / told.rate) - 1}: give more, or a higher rate"
            )
        reference = self.pool.reference
        self.places = evenly(len(reference), told.images)
        self.attacked = reference.some(self.places)
        height, width = reference.images.shape[2:]
        self.pixels = (int(height), int(width))
        self.squares = told.squares(self.pixels)
        self.count = len(told.rings) + 2

    def results(self, command: str) -> dict[str, Any]:
        """All that the page tells."""
        found: dict[str, list[dict[str, Any]]] = {
            name: [] for name in ("networks", "monitors", "cells", "felt", "seen", "false_alarms", "judged", "strips")
        }
        for plan, backbone in self.networks:
            guards = self.guards(plan, backbone)
            eye = Eye.of(backbone, self.pixels, self.told.taps, self.attacked.images.shape[1])
            found["networks"].append({
                "name": plan.name, "label": plan.label or plan.name, "fingerprint": backbone.fingerprint(),
                "dense": backbone.task.is_dense,
                "taps": [{"tap": str(tap), "shape": list(shape)} for tap, shape in eye.shapes.items()],
            })  # fmt: skip
            if eye.left_out:
                self.notes.append(f"{plan.name}: no places, left out: {', '.join(eye.left_out)}")
            self.looked_at(plan, guards, eye, found)
        return {
            **self.told_of_all(command), "images": len(self.attacked), "rings": ring_names(self.told.rings),
            "patches": [
                {"side": square.side, "top": square.top, "left": square.left,
                 "share": square.side**2 / (self.pixels[0] * self.pixels[1]),
                 "pixels": torch.bincount(self.rings_of(square, self.pixels).flatten(), minlength=self.count).tolist()}
                for square in self.squares
            ],
            **found, "gates": gates(found, len(self.attacked), self.told.rate),
        }  # fmt: skip

    def rings_of(self, square: Square, grid: tuple[int, int]) -> Tensor:
        """The ring of each cell of a grid over the images."""
        return rings(square.distance(grid, self.pixels), self.told.rings)

    def zones(self, square: Square, eye: Eye) -> list[Float64[Tensor, "zones hw"]]:
        """The places of each tap that are in each zone."""
        return [zones(self.rings_of(square, shape[1:]), self.count) for shape in eye.shapes.values()]

    def looked_at(
        self, plan: NetworkPlan, guards: Sequence[Guard], eye: Eye, found: Mapping[str, list[dict[str, Any]]]
    ) -> None:
        """Every patch in one network."""
        clean = {guard.name: self.clean_scores(plan, guard) for guard in guards}
        for guard in guards:
            found["monitors"].append({
                "network": plan.name, "monitor": guard.name, "label": guard.label, "limit": guard.limit,
                "false_alarms": share(clean[guard.name] > guard.limit),
            })  # fmt: skip
            self.judge(
                {"network": plan.name, "side": None, "kind": CLEAN}, guard, clean[guard.name][self.places], found
            )
        held_out, reference = (
            self.clean_zones(plan, eye, name, images)
            for name, images in (("held_out", self.held_out), ("reference", self.pool.reference.images))
        )
        for square in self.squares:
            detector = DistanceDetector.fit(held_out[f"{square.side}"], self.told.rate)
            others = detector.scores(reference[f"{square.side}"])
            who = {"network": plan.name, "side": square.side}
            found["false_alarms"].append(who | self.by_zone(
                [share(flags) for flags in detector.flagged(others).unbind(1)], others
            ))  # fmt: skip
            self.tell_seen({**who, "kind": CLEAN}, detector, others, others[self.places], found)
            images, dead = self.patched(plan, eye.probe.backbone, square)
            for kind in KINDS:
                tensors = self.told_of(plan, guards, eye, square, kind, images[kind])
                self.tell({**who, "kind": kind}, eye, tensors, dead if kind == "attack" else None, found)
                self.tell_seen({**who, "kind": kind}, detector, others, detector.scores(tensors["seen"]), found)
                for guard in guards:
                    self.judge({**who, "kind": kind}, guard, tensors[f"score {guard.name}"], found)
            said = self.told_of(plan, guards, eye, square, "attack", images["attack"])
            pair = self.attacked.images[0], images["attack"][0]
            found["strips"].append({
                **who, "image": self.attacked.names[0],
                **strip(eye.probe.backbone, *pair, said["before"], said["after"]),
            })  # fmt: skip

    # --- what is read ---------------------------------------------------------------------------------------------

    def batches(self, images: Images, phase: str) -> Iterator[Images]:
        """Images, and word of each batch that is done."""
        done = 0
        for part in torch.split(images, self.told.batch_size):
            yield part
            done += len(part)
            if self.progress is not None:
                self.progress(phase, done, len(images))

    def ordinary(self, plan: NetworkPlan, eye: Eye) -> Ordinary:
        """What is ordinary at every place of every tap, learnt from the images of the fit."""

        def made() -> tuple[dict[str, Tensor], dict[str, Any]]:
            maps = (eye(part)[1] for part in self.batches(self.fit.images, f"{plan.name}, what is ordinary"))
            return Ordinary.of(maps, self.told.shrinkage).tensors(), {}

        tensors, _ = self.place.part(f"{plan.name} ordinary", made)
        return Ordinary.from_tensors(tensors, eye.probe.backbone.mean.device)

    def clean_zones(
        self, plan: NetworkPlan, eye: Eye, name: str, images: Images
    ) -> dict[str, Float64[Tensor, "n taps zones"]]:
        """The surprise of clean images in every zone, for the patch of each side."""

        def made() -> tuple[dict[str, Tensor], dict[str, Any]]:
            ordinary = self.ordinary(plan, eye)
            every = {f"{square.side}": self.zones(square, eye) for square in self.squares}
            found: dict[str, list[Tensor]] = {side: [] for side in every}
            for part in self.batches(images, f"{plan.name}, {name} images"):
                surprise = ordinary.surprise(eye(part)[1])
                for side, inside in every.items():
                    found[side].append(over_taps(surprise, inside))
            return {side: torch.cat(parts) for side, parts in found.items()}, {}

        tensors, _ = self.place.part(f"{plan.name} {name} zones", made)
        return tensors

    def patched(self, plan: NetworkPlan, backbone: Backbone, square: Square) -> tuple[dict[str, Images], float]:
        """The images with the patch, by what is in it, as 8-bit files hold them; and the share of dead gradients."""
        part = f"{plan.name} {square.side} patches"

        def made() -> tuple[dict[str, Tensor], dict[str, Any]]:
            attacked, dead = self.optimised(part, backbone, square)
            every = {"attack": attacked, **self.controls(square)}
            small = {kind: to_8_bit(images).mul(255).round().to(torch.uint8) for kind, images in every.items()}
            return small, {"dead": dead}

        tensors, told = self.place.part(part, made)
        return {kind: images.float() / 255 for kind, images in tensors.items()}, told["dead"]

    def optimised(self, phase: str, backbone: Backbone, square: Square) -> tuple[Images, float]:
        """The attack itself."""
        dense = backbone.task.is_dense
        attack, probe = self.told.attack(MaskedPatch(square.mask(self.pixels))), Probe(backbone)
        objective = LOSSES[self.told.loss] if dense else cross_entropy
        parts, dead = [], 0.0
        for number, images in enumerate(self.batches(self.attacked.images, phase)):
            made = attack(
                probe, images, objective, better=share_changed if dense else None, seed=self.told.seed + number
            )
            parts.append(made.images.cpu())
            dead += made.dead_gradients * len(images) / len(self.attacked)
        return torch.cat(parts), dead

    def controls(self, square: Square) -> dict[str, Images]:
        """The same images with patches that nobody optimised."""
        ways, constraint, clean = MaskedPatch(square.mask(self.pixels)), self.told.constraint, self.attacked.images
        generator = torch.Generator().manual_seed(self.told.seed)
        return {
            "noise": ways.draw(clean, constraint, generator),
            "object": ways.project(self.pieces(square, generator), clean, constraint),
            "grey": ways.project(torch.full_like(clean, 0.5), clean, constraint),
        }

    def pieces(self, square: Square, generator: torch.Generator) -> Images:
        """Each image with a piece of another in the patch: of the reference image half of them on, from anywhere."""
        others, made = self.pool.reference.images, self.attacked.images.clone()
        rows, columns = (slice(start, start + square.side) for start in (square.top, square.left))
        for n, place in enumerate(self.places):
            top, left = (int(torch.randint(p - square.side + 1, (), generator=generator)) for p in self.pixels)
            other = others[(place + len(others) // 2) % len(others)]
            made[n, :, rows, columns] = other[:, top : top + square.side, left : left + square.side]
        return made

    def told_of(
        self, plan: NetworkPlan, guards: Sequence[Guard], eye: Eye, square: Square, kind: str, images: Images
    ) -> dict[str, Tensor]:
        """What network, taps and monitors make of patched images; from its file, if it was done."""
        part = f"{plan.name} {square.side} {kind}"

        def made() -> tuple[dict[str, Tensor], dict[str, Any]]:
            scores = {f"score {guard.name}": scores_of(guard, images, self.told.batch_size) for guard in guards}
            outside = (images - self.attacked.images).abs().amax(1)[:, ~square.mask(self.pixels)]
            return scores | self.changes(part, self.ordinary(plan, eye), eye, square, images) | {
                "outside": outside.amax()[None] if outside.numel() else torch.zeros(1),
            }, {}  # fmt: skip

        tensors, _ = self.place.part(part, made)
        return tensors

    def changes(self, phase: str, ordinary: Ordinary, eye: Eye, square: Square, images: Images) -> dict[str, Tensor]:
        """How prediction and activations differ from those of the clean images, and how surprising these are.

        Clean and patched images go through the network in batches of the same size, so that what a patch cannot reach
        is the same to the last bit.
        """
        inside, pixels = self.zones(square, eye), zones(self.rings_of(square, self.pixels), self.count)
        far = [square.distance(shape[1:], self.pixels) for shape in eye.shapes.values()]
        found: dict[str, list[Tensor]] = {name: [] for name in ("damage", "seen", "change", "reached", "farthest")}
        before, after = [], []
        for part, clean in zip(
            self.batches(images, phase), torch.split(self.attacked.images, self.told.batch_size), strict=True
        ):
            (was, then), (now, maps) = eye(clean), eye(part)
            touched = [(b != a).any(1).double().cpu() for a, b in zip(then, maps, strict=True)]
            wrong = (now != was).double()
            found["damage"].append(seen_by(wrong, pixels) if wrong.ndim > 1 else wrong[:, None])
            found["seen"].append(over_taps(ordinary.surprise(maps), inside))
            found["change"].append(over_taps(ordinary.change(then, maps), inside))
            found["reached"].append(over_taps(touched, inside))
            found["farthest"].append(torch.stack([
                (where * (reach + 1)).flatten(1).amax(1) - 1 for where, reach in zip(touched, far, strict=True)
            ], 1))  # fmt: skip
            before.append(was)
            after.append(now)
        return {name: torch.cat(parts) for name, parts in found.items()} | {
            "before": torch.cat(before)[0].short(), "after": torch.cat(after)[0].short(),
        }  # fmt: skip

    # --- what is told ---------------------------------------------------------------------------------------------

    def by_zone(self, values: Sequence[Any], scores: Float64[Tensor, "n zones"]) -> dict[str, list[Any]]:
        """Values of all zones by ring and from each ring on; None where a zone has no place."""
        there = [None if nowhere else value for value, nowhere in zip(values, scores[0].isnan().tolist(), strict=True)]
        return {"rings": there[: self.count], "beyond": there[self.count :]}

    def tell(
        self, who: Mapping[str, Any], eye: Eye, tensors: Mapping[str, Tensor], dead: float | None,
        found: Mapping[str, list[dict[str, Any]]],
    ) -> None:  # fmt: skip
        """What a patch did to the prediction and to the activations."""
        bands = mean_bands(tensors["damage"], self.told.seed)
        dense = len(bands) > 1
        found["cells"].append({
            **who, "damage": bands[self.count] if dense else bands[0], "dead": dead,
            "outside": bands[self.count + 1] if dense else None, "rings": bands[: self.count] if dense else None,
            "changed_outside": tensors["outside"].item(),
        })  # fmt: skip
        change, reached = (tensors[name].mean(0) for name in ("change", "reached"))
        found["felt"].append({
            **who, "taps": [
                {"tap": str(tap), "change": change[n, : self.count].tolist(),
                 "reached": reached[n, : self.count].tolist(), "share": reached[n, self.count].item(),
                 "farthest": farthest if farthest >= 0 else None}
                for n, (tap, farthest) in enumerate(zip(eye.shapes, tensors["farthest"].amax(0).tolist(), strict=True))
            ],
        })  # fmt: skip

    def tell_seen(
        self, who: Mapping[str, Any], detector: DistanceDetector, others: Float64[Tensor, "m zones"],
        scores: Float64[Tensor, "n zones"], found: Mapping[str, list[dict[str, Any]]],
    ) -> None:  # fmt: skip
        """What the detector of each zone makes of the images, against clean ones."""
        flagged = [share(flags) for flags in detector.flagged(scores).unbind(1)]
        bands = area_bands(others, scores, self.told.seed)
        both = [(area or {}) | {"flagged": flags} for area, flags in zip(bands, flagged, strict=True)]
        found["seen"].append(dict(who) | self.by_zone(both, scores))

    def judge(
        self, who: Mapping[str, Any], guard: Guard, scores: Scores, found: Mapping[str, list[dict[str, Any]]]
    ) -> None:
        """What a whole monitor flags of the images."""
        found["judged"].append({**who, "monitor": guard.name, "flagged": share(scores > guard.limit)})


def over_taps(maps: Sequence[Float[Tensor, "n h w"]], inside: Sequence[Tensor]) -> Float64[Tensor, "n taps zones"]:
    """The mean of each tap's map over each zone."""
    return torch.stack([seen_by(*each) for each in zip(maps, inside, strict=True)], 1)
