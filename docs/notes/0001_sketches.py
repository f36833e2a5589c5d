"""The awkward consumers of the joints, a few lines each. Type-checked with the package, never imported.

If one of these needs a special case, the joint is wrong. What each shows is told in 0001-joints.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inlier.attacks.constraints import LinfBall, SharedDelta
from inlier.attacks.engine import Attack
from inlier.attacks.objectives import Context, Objective, Point, cross_entropy
from inlier.attacks.steppers import SignStep
from inlier.backbones.base import Backbone
from inlier.calibration import group_folds
from inlier.densities.gaussian import Gaussian, Moments
from inlier.detectors.base import Detector
from inlier.monitor import Monitor
from inlier.observation import Look, Observation, Readings
from inlier.probe import Probe
from inlier.readers import FeatureMap, Reader
from inlier.types import Images, Maps, Progress, Scores


# --- looks: other images, another network ----------------------------------------------------------------------------
class Dropout(Look):
    """MC-dropout changes the network, not the image."""

    @contextmanager
    def network(self, backbone: Backbone, generator: torch.Generator | None) -> Iterator[None]:
        dropped = [module for module in backbone.network.modules() if isinstance(module, nn.Dropout)]
        for module in dropped:
            module.training = True
        try:
            yield
        finally:
            for module in dropped:
                module.training = False


class MCDropout(Detector):
    name = "mc_dropout"
    learns = False

    def forward(self, observation: Observation) -> Scores:
        generator = torch.Generator().manual_seed(0)
        draws = [observation.look(Dropout(), generator).output.softmax(1).amax(1) for _ in range(10)]
        return torch.stack(draws).var(0).flatten(1).amax(1)


class Patches(Look):
    """K patches an image: n images in, n * K out, and K predictions where they overlap."""

    def __init__(self, boxes: Sequence[tuple[int, int]], size: int) -> None:
        self.boxes, self.size = tuple(boxes), size

    def images(self, images: Images, generator: torch.Generator | None) -> Images:
        return torch.cat([images[..., y : y + self.size, x : x + self.size] for y, x in self.boxes])


class SpatialConsistency(Detector):
    name = "spatial_consistency"
    learns = False

    def __init__(self, look: Patches) -> None:
        super().__init__()
        self.look = look

    def forward(self, observation: Observation) -> Scores:
        patches = torch.stack(observation.look(self.look).output.softmax(1).chunk(len(self.look.boxes)))
        return (patches[:-1] - patches[1:]).abs().mean((0, 2, 3, 4))


class Rounded(torch.autograd.Function):
    """A JPEG look has a stand-in gradient of its own; here rounding with the identity's gradient."""

    @staticmethod
    def forward(ctx: object, images: Tensor) -> Tensor:
        return (images * 32).round() / 32

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0]


class Coarse(Look):
    def images(self, images: Images, generator: torch.Generator | None) -> Images:
        rounded: Tensor = Rounded.apply(images)  # type: ignore[no-untyped-call]
        return rounded


# --- detectors that need a gradient, no network, several networks, a long stream, maps -------------------------------
class GradientAlignment(Detector):
    """Needs a gradient, and is attacked in turn: then the graph is kept."""

    name = "gradient_alignment"
    learns = False

    def forward(self, observation: Observation) -> Scores:
        label = observation.look(Coarse()).output.argmax(1)
        gradient = observation.gradient(
            lambda seen: F.cross_entropy(seen.output, label), create_graph=torch.is_grad_enabled()
        )
        return F.cosine_similarity(observation.images.flatten(1), gradient.flatten(1))


class PixelModel(Detector):
    """A density on images asks for `images` alone, so that no forward pass of the backbone is made."""

    name = "pixel_model"

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, observation: Observation) -> Scores:
        scores: Scores = -self.model(observation.images)
        return scores


class Ensemble(Detector):
    """Four backbones: the monitor's own, and three that this detector brings along as probes of its own."""

    name = "ensemble"
    learns = False

    def __init__(self, others: Sequence[Probe]) -> None:
        super().__init__()
        self.others = nn.ModuleList(others)

    def forward(self, observation: Observation) -> Scores:
        outputs = [observation.output, *(probe(observation.images).output for probe in self.others)]
        return torch.stack([output.softmax(1) for output in outputs]).var(0).flatten(1).mean(1)


class ClassConditional(Detector):
    """Class-conditional Mahalanobis from a stream: moments are merged, features never held together."""

    name = "class_conditional"

    def __init__(self, reader: Reader, classes: int) -> None:
        super().__init__()
        self.requires, self.reader = (reader,), reader
        self.densities = nn.ModuleList(Gaussian(reader.size) for _ in range(classes))

    def stream(self, batches: Iterable[tuple[Tensor, Tensor]]) -> list[Moments]:
        moments = [Moments(self.reader.size) for _ in self.densities]
        for features, labels in batches:
            for label, moment in enumerate(moments):
                moment.update(features[labels == label])
        return moments

    def fit(self, readings: Readings, *, seed: int = 0, progress: Progress | None = None) -> Self:
        assert readings.labels is not None
        for label, density in enumerate(self.densities):
            assert isinstance(density, Gaussian)
            density.fit(readings.values[self.reader.name][readings.labels == label])
        return self

    def forward(self, observation: Observation) -> Scores:
        features = observation.readings[self.reader.name]
        densities = [density for density in self.densities if isinstance(density, Gaussian)]
        return torch.stack([density.mahalanobis(features) for density in densities]).amin(0)


class MixtureByEM(Detector):
    """EM goes over readings as often as it likes: they can be iterated again."""

    name = "mixture"

    def __init__(self, reader: Reader, components: int) -> None:
        super().__init__()
        self.requires, self.reader = (reader,), reader
        self.register_buffer("means", torch.zeros(components, reader.size))
        self.means: Tensor

    def fit(self, readings: Readings, *, seed: int = 0, progress: Progress | None = None) -> Self:
        for _ in range(10):
            total, weight = torch.zeros_like(self.means), torch.zeros(len(self.means), 1)
            for seen in readings.observations():
                x = seen.readings[self.reader.name]
                responsibility = (-torch.cdist(x, self.means).square()).softmax(1)
                total, weight = total + responsibility.T @ x, weight + responsibility.sum(0)[:, None]
            self.means = total / weight
        return self

    def forward(self, observation: Observation) -> Scores:
        return torch.cdist(observation.readings[self.reader.name], self.means).amin(1)


class PixelNeighbours(Detector):
    """A k-nearest-neighbour map a pixel, and an image score made of it."""

    name = "pixel_knn"

    def __init__(self, reader: FeatureMap, bank: Tensor, k: int = 5) -> None:
        super().__init__()
        self.requires, self.reader, self.k = (reader,), reader, k
        self.register_buffer("bank", bank)
        self.bank: Tensor

    def maps(self, observation: Observation) -> Maps:
        features = observation.readings[self.reader.name].movedim(1, -1)
        distance = torch.cdist(features.flatten(1, 2), self.bank).topk(self.k, largest=False).values[..., -1]
        return distance.reshape(features.shape[:3])

    def forward(self, observation: Observation) -> Scores:
        return self.maps(observation).flatten(1).mean(1)


# --- attacks ---------------------------------------------------------------------------------------------------------
def gd_uap(probe: Probe, taps: Reader, images: Images) -> Images:
    """One delta for all images, raising the activations of all taps; no data but what it is tried on."""

    def activations(observation: Observation, context: Context) -> Scores:
        return observation.readings[taps.name].square().sum(1).log()

    attack = Attack(LinfBall(10 / 255), SignStep(0.1 / 255), steps=400, parametrisation=SharedDelta())
    return attack(probe, images, [activations]).images


class Dual:
    """A rule with state: the penalty's weight goes up for images that are flagged and down for those that are not."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def init(self, images: Images) -> Tensor:
        return torch.ones(len(images))

    def direction(self, point: Point, state: Tensor) -> tuple[Tensor, Tensor]:
        damage, silence = point.values
        weight = torch.where(-silence.detach() > self.threshold, state * 1.5, state / 1.5)
        return point.pull((damage + weight * silence).sum()), weight


def unflagged_first(detector: Callable[[Observation], Tensor], threshold: float) -> Objective:
    """What `better` gets, so that the best *unflagged* iterate is kept."""

    def better(observation: Observation, context: Context) -> Scores:
        return cross_entropy(observation, context) - 1e6 * (detector(observation) > threshold)

    return better


def segpgd(observation: Observation, context: Context) -> Scores:
    """Needs the step and which pixels are still right: both are in the context and the observation."""
    wrong_weight = context.step / (2 * context.steps)
    losses = F.cross_entropy(observation.output, context.labels, reduction="none")
    right = observation.output.argmax(1) == context.labels
    return context.mean(torch.where(right, 1 - wrong_weight, wrong_weight) * losses)


def dag(observation: Observation, context: Context) -> Scores:
    """Active pixels only, those that are not yet the target; what is lowered is the currently predicted logit."""
    assert context.target is not None
    predicted = observation.output.argmax(1)
    active = (predicted != context.target) & context.valid
    gap = observation.output.gather(1, context.target[:, None]) - observation.output.gather(1, predicted[:, None])
    return (gap[:, 0] * active).flatten(1).sum(1)


def collision(reader: Reader, of: Tensor) -> Objective:
    """All taps towards those of another image: fools any key over them."""
    return lambda observation, context: -(observation.readings[reader.name] - of).square().sum(1)


def square_attack_oracle(monitor: Monitor) -> Callable[[Images], Tensor]:
    """All that a hard-label attacker may see of a monitor."""
    return lambda images: monitor(images).flagged


# --- calibration and export ------------------------------------------------------------------------------------------
def leave_one_drive_out(monitor: Monitor, readings: Readings) -> Tensor:
    monitor.calibrate(blocks="group", false_alarm_rate=0.05)
    return group_folds(readings.groups)


class AsGraph(nn.Module):
    """The monitor as one graph: images in, logits, score and p-value out, nothing but tensors between."""

    def __init__(self, monitor: Monitor) -> None:
        super().__init__()
        self.monitor = monitor

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        observation = self.monitor.probe(images)
        score = self.monitor.objective(observation)
        return observation.output, score, self.monitor.calibration.p_value(score)
