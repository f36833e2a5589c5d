"""Can a sampling key be read off from a running monitor? A test for who may ask, and has surrogates of the method.

A candidate is an activation. Who knows the network knows which small change of an image moves it the most: the sign of
its Jacobian, a patch as large as its receptive field. The image is shown with that change and with its opposite. If the
candidate is in the monitor's key, the score should rise by more than scores of monitors under other keys do, and those
the attacker makes by himself. A gradient of the score, which no query gives, bounds what small changes could tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inlier.backbones.base import Backbone
from inlier.evaluation.together import Scale, Together, scored
from inlier.monitor import Monitor
from inlier.perturbations.base import to_8_bit
from inlier.probe import Probe
from inlier.readers import SampledActivations
from inlier.sampling import SamplingKey
from inlier.types import Images, Progress

__all__ = ["ORACLES", "Candidates", "extraction", "sampled"]

ORACLES: Mapping[str, str] = {
    "score": "the score, less what surrogates answer",
    "score alone": "the score, without surrogates",
    "size": "the size of the score's change, less that of surrogates",
    "flag": "the flag alone, less that of surrogates",
    "gradient": "the gradient of the smooth score (no query gives it), less that of surrogates",
}
"""What is asked for, and compared with what; each gives one number a candidate, larger = more likely in the key."""
TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Candidates:
    """Activations that may be in a key.

    Args:
        reader: of these; it may not be shown to anybody, since it is made of the keys that are looked for.
        truth: (keys, candidates) whether each is in each key.
    """

    reader: SampledActivations
    truth: Bool[Tensor, "keys candidates"]

    @classmethod
    def drawn(cls, monitors: Sequence[Monitor], count: int, seed: int) -> Candidates:
        """So many points of each monitor's key; to the others they are points of the same kind that are not theirs.

        Raises:
            ValueError: a monitor has no key, or a smaller one.
        """
        generator = torch.Generator().manual_seed(seed)
        chosen, volume, shapes = [], None, {}
        for monitor in monitors:
            key = monitor.keys.key
            if key is None or len(key) < count or monitor.anatomy is None:
                raise ValueError(f"Candidates need monitors with keys of at least {count} points")
            chosen.append(key.points[torch.randperm(len(key), generator=generator)[:count]])
            volume, shapes = key.volume, monitor.anatomy.everywhere()
        assert volume is not None
        points = torch.unique(torch.cat(chosen), dim=0)  # sorted, as a key is
        reader = SampledActivations(SamplingKey(points, volume, "candidates"), shapes, "candidates")
        places = places_of(reader)
        held = [set(places_of(sampled(monitor))) for monitor in monitors]
        return cls(reader, torch.tensor([[place in key for place in places] for key in held]))

    def __len__(self) -> int:
        return self.truth.shape[1]


def sampled(monitor: Monitor) -> SampledActivations:
    """The reader of a monitor's key.

    Raises:
        ValueError: it has none.
    """
    for reader in monitor.needs.readers.values():
        if isinstance(reader, SampledActivations):
            return reader
    raise ValueError("No detector of this monitor samples activations")


def places_of(reader: SampledActivations) -> list[tuple[str, int]]:
    """Tap and place in its activation, of every number that the reader keeps."""
    return [
        (str(tap), place)
        for tap, name in zip(reader.taps, reader.index_names, strict=True)
        for place in reader.get_buffer(name)[0].tolist()
    ]


def extraction(
    backbone: Backbone,
    monitors: Mapping[str, Monitor],
    surrogates: Mapping[str, Monitor],
    scales: Mapping[str, Scale],
    images: Images,
    candidates: Candidates,
    *,
    strength: float,
    progress: Progress | None = None,
) -> dict[str, Float[Tensor, "keys candidates"]]:
    """For each oracle, how much each candidate looks like one of each monitor's key.

    Two queries a candidate and image, on 8-bit images.

    Args:
        monitors: that are asked, in the order of the candidates' keys.
        surrogates: the attacker's own, under other keys.
        scales: of all of them.
        images: clean ones.
        strength: the largest change of a pixel.
    """
    every = {**monitors, **surrogates}
    together, jacobians = Together(backbone, every), Probe(backbone, [candidates.reader])
    seen: list[Tensor] = []  # of each image: rise, size, flag and slope by monitor and candidate
    for number, image in enumerate(torch.split(images, 1)):
        gradients = gradients_of(together, every, scales, image)
        leaf = image.clone().requires_grad_()
        readings = jacobians(leaf).readings[candidates.reader.name][0]
        base = answers(together, every, scales, image)
        columns = []
        for place in range(len(candidates)):
            last = place + 1 == len(candidates)
            (row,) = torch.autograd.grad(readings[place], leaf, retain_graph=not last)
            slope = (gradients @ row.flatten()).abs() / row.norm().clamp_min(TINY)
            step = strength * row.sign()
            asked = to_8_bit((image + torch.cat([step, -step])).clamp(0, 1))
            told = answers(together, every, scales, asked)
            moved = told - base
            columns.append(
                torch.stack([moved.mean(1), moved.abs().mean(1), (told > 0).double().mean(1), slope.double()])
            )
            if progress is not None and (last or place % 20 == 0):
                progress("asking about candidates", number * len(candidates) + place + 1, len(images) * len(candidates))
        seen.append(torch.stack(columns, 2))
    asked_of = len(monitors)
    rise, size, flag, slope = torch.stack(seen, 1)
    return {
        "score": beyond(rise, asked_of), "score alone": rise[:, :asked_of].mean(0), "size": beyond(size, asked_of),
        "flag": (flag[:, :asked_of] - flag[:, asked_of:].mean(1, keepdim=True)).mean(0),
        "gradient": beyond(slope, asked_of),
    }  # fmt: skip


def beyond(values: Float[Tensor, "images monitors candidates"], asked: int) -> Float[Tensor, "asked candidates"]:
    """By how many of the surrogates' standard deviations those asked exceed their mean; the mean over images."""
    own, others = values[:, :asked], values[:, asked:]
    return ((own - others.mean(1, keepdim=True)) / others.std(1, keepdim=True).clamp_min(TINY)).mean(0)


@torch.no_grad()
def answers(
    together: Together, monitors: Mapping[str, Monitor], scales: Mapping[str, Scale], images: Images
) -> Float[Tensor, "monitors n"]:
    """The scores of all monitors, in their scales."""
    return scored(together(images), together, monitors, scales).double()


def gradients_of(
    together: Together, monitors: Mapping[str, Monitor], scales: Mapping[str, Scale], image: Images
) -> Float[Tensor, "monitors values"]:
    """The gradient of each monitor's score with respect to an image."""
    leaf = image.clone().requires_grad_()
    scores = scored(together(leaf), together, monitors, scales)[:, 0]
    rows = [torch.autograd.grad(score, leaf, retain_graph=True)[0].flatten() for score in scores]
    return torch.stack(rows)
