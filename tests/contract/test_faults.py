"""A check finds the fault: for every claim there is something that breaks it, and what is told names the claim."""

import itertools
import random
import sys
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from inlier.backbones.base import Backbone, Classification
from inlier.detectors.base import Detector
from inlier.detectors.table import DETECTORS
from inlier.errors import NotFitted
from inlier.images import Batch, TensorImages
from inlier.perturbations.base import Perturbation
from inlier.readers import ChannelStatistics
from inlier.registry import Entry
from inlier.testing import backbones, datasets, detectors, perturbations
from inlier.testing.backbones import check_backbone
from inlier.testing.claims import ClaimFailed
from inlier.testing.datasets import check_dataset
from inlier.testing.detectors import check_detector
from inlier.testing.perturbations import check_perturbation
from inlier.testing.specimens import tiny_backbone

pytestmark = pytest.mark.usefixtures("unchecked_shapes")


def claims_of(module):
    """All public functions of a module that take a case."""
    return {
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", "") == module.__name__ and getattr(value, "__annotations__", {}).get("case")
    }


def told(check, *arguments, **settings):
    with pytest.raises(ClaimFailed) as failed:
        check(*arguments, **settings)
    return str(failed.value)


# --- detectors --------------------------------------------------------------------------------------------------------


class Distance(Detector):
    """A detector without a fault: the mean square distance to the clean mean."""

    name = "distance"

    def __init__(self, anatomy):
        super().__init__()
        self.reader = ChannelStatistics(anatomy.everywhere())
        self.requires = (self.reader,)
        self.register_buffer("mean", torch.full((self.reader.size,), torch.nan))

    def fit(self, readings, *, seed=0, progress=None):
        self.mean = readings.values["statistics"].mean(0)
        return self

    def forward(self, observation):
        if self.mean.isnan().any():
            raise NotFitted("call fit(clean readings) first")
        return (observation.readings["statistics"] - self.mean).square().mean(1)


class BadName(Distance):
    name = "my-distance"


class BadFit(Distance):
    def fit(self, readings, *, seed=0, progress=None):
        super().fit(readings)


class BadReader(Distance):
    def __init__(self, anatomy):
        super().__init__(anatomy)
        self.reader.origins = lambda: torch.full((self.reader.size,), 99)


class NotFinite(Distance):
    def forward(self, observation):
        return super().forward(observation) / 0


class AmongOthers(Distance):
    def forward(self, observation):
        scores = super().forward(observation)
        return scores - scores.mean() / 2


class Tiring(Distance):
    seen = 0

    def forward(self, observation):
        self.seen += 1
        return super().forward(observation) + self.seen


class Learning(Distance):
    def forward(self, observation):
        scores = super().forward(observation)
        self.mean = self.mean + 1
        return scores


class UpsideDown(Distance):
    def forward(self, observation):
        return -super().forward(observation)


class Detached(Distance):
    def forward(self, observation):
        return super().forward(observation).detach()


class Shared(Distance):
    def __init__(self, anatomy):
        super().__init__(anatomy)
        self.means = Means()

    def fit(self, readings, *, seed=0, progress=None):
        super().fit(readings)
        self.means[0] = self.mean
        return self

    def forward(self, observation):
        super().forward(observation)
        return (observation.readings["statistics"] - self.means[0]).square().mean(1)


class Means(dict):
    def __deepcopy__(self, memo):
        return self


class LearnsAfterAll(Distance):
    learns = False


class Accumulating(Distance):
    def fit(self, readings, *, seed=0, progress=None):
        before = torch.zeros_like(self.mean) if self.mean.isnan().any() else self.mean
        super().fit(readings)
        self.mean = self.mean + before / 2
        return self


class Gambling(Distance):
    def __init__(self, anatomy, draw):
        super().__init__(anatomy)
        self.draw = draw

    def fit(self, readings, *, seed=0, progress=None):
        self.draw()
        return super().fit(readings)


class Boasting(Distance):
    def fit(self, readings, *, seed=0, progress=None):
        if progress is not None:
            progress("fitting", 3, 2)
        return super().fit(readings)


class NeverFitted(Distance):
    def forward(self, observation):
        self.mean = self.mean.nan_to_num()
        return super().forward(observation)


class Forgetful(Distance):
    def __init__(self, anatomy):
        super().__init__(anatomy)
        self.scale = None

    def fit(self, readings, *, seed=0, progress=None):
        self.scale = readings.values["statistics"].std()
        return super().fit(readings)

    def forward(self, observation):
        return super().forward(observation) * (1 if self.scale is None else self.scale)


class SmallMaps(Distance):
    def maps(self, observation):
        return observation.images.mean(1)[:, ::2]


class Hooking(Distance):
    def forward(self, observation):
        observation._probe.backbone.network[0].register_forward_hook(lambda *_: None)
        return super().forward(observation)


DETECTOR_FAULTS = [
    ("it_is_a_detector_with_a_name", BadName),
    ("fit_returns_the_detector", BadFit),
    ("a_reader_keeps_as_many_numbers_as_it_says", BadReader),
    ("scores_are_one_finite_number_an_image", NotFinite),
    ("scores_of_a_batch_are_the_scores_one_by_one", AmongOthers),
    ("scores_do_not_depend_on_what_was_scored_before", Tiring),
    ("scoring_changes_nothing_of_the_detector", Learning),
    ("what_is_like_no_clean_image_scores_higher", UpsideDown),
    ("a_gradient_reaches_every_image", Detached),
    ("a_copy_scores_the_same_and_is_fitted_apart", Shared),
    ("a_copy_scores_the_same_and_is_fitted_apart", LearnsAfterAll),
    ("a_fit_is_fixed_by_its_seed_and_starts_anew", Accumulating),
    ("the_global_random_generators_are_left_alone", lambda anatomy: Gambling(anatomy, lambda: torch.rand(1))),
    ("the_global_random_generators_are_left_alone", lambda anatomy: Gambling(anatomy, random.random)),
    ("the_global_random_generators_are_left_alone", lambda anatomy: Gambling(anatomy, np.random.rand)),
    ("progress_is_told_in_growing_steps", Boasting),
    ("an_unfitted_detector_says_so", NeverFitted),
    ("its_state_holds_all_it_learnt", Forgetful),
    ("maps_are_one_value_a_pixel_where_there_are_any", SmallMaps),
    ("the_backbone_is_left_as_it_was", Hooking),
]


def test_a_detector_without_a_fault_passes():
    check_detector(Distance)


@pytest.mark.parametrize(("claim", "detector"), DETECTOR_FAULTS)
def test_a_fault_of_a_detector_is_found_and_told(claim, detector):
    found = told(check_detector, detector, backbones=[tiny_backbone("classifier")])
    assert f"  - {claim.replace('_', ' ')}: " in found


@pytest.fixture
def registered(monkeypatch):
    module = ModuleType("faulty_detectors")
    monkeypatch.setitem(sys.modules, "faulty_detectors", module)

    def register(name, factory):
        module.factory = factory
        monkeypatch.setitem(DETECTORS._claims, name, (Entry("faulty_detectors:factory", "faulty"),))

    return register


def test_a_name_that_is_not_the_detectors_own_is_found(registered):
    registered("nearness", lambda anatomy: Distance(anatomy))
    found = told(check_detector, "nearness")
    assert "registered under: it is registered as 'nearness', its name is 'distance'" in found


def test_what_a_saved_monitor_loses_is_found(registered):
    registered("distance", lambda anatomy: Forgetful(anatomy))
    assert "  - a saved monitor gives the same scores: saved and loaded: " in told(check_detector, "distance")


# --- perturbations ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Darker(Perturbation):
    """A perturbation without a fault."""

    def perturb(self, images, generator):
        return images * (1 - 0.1 * self.severity)


class NeverNothing(Darker):
    def __call__(self, images, generator=None):
        return self.perturb(images, generator)

    def perturb(self, images, generator):
        return images * 0.5


class TooBright(Darker):
    def __call__(self, images, generator=None):
        return images if self.severity == 0 else images * 3


class Turned(Darker):
    def perturb(self, images, generator):
        return images.transpose(2, 3)


class Idle(Darker):
    def perturb(self, images, generator):
        return images


@dataclass(frozen=True)
class Unsteady(Darker):
    def perturb(self, images, generator):
        return images * next(FALLING)


FALLING = (0.999**k for k in itertools.count(1))


class InPlace(Darker):
    def perturb(self, images, generator):
        return images.mul_(0.9)


class Global(Darker):
    def perturb(self, images, generator):
        return images * torch.rand(()).item()


class AnySeverity(Darker):
    def __post_init__(self):
        pass


class Levelled(Darker):
    def perturb(self, images, generator):
        return images * 0.5 + images.mean() * 0.5


class SameForAll(Darker):
    def perturb(self, images, generator):
        return images + 0.1 * torch.rand(images.shape[1:], generator=self.randomness(generator))


class Curt(Darker):
    def perturb(self, images, generator):
        if generator is None:
            raise ValueError("no")
        return images + 0.1 * torch.rand(images.shape, generator=generator)


PERTURBATION_FAULTS = [
    ("severity_0_is_the_identity", NeverNothing),
    ("images_stay_images", TooBright),
    ("images_stay_images", Turned),
    ("every_severity_from_1_changes_the_images", Idle),
    ("equal_seeds_give_equal_images", Unsteady),
    ("what_it_is_given_is_not_changed", InPlace),
    ("the_global_random_generators_are_left_alone", Global),
    ("a_severity_that_is_none_is_refused", AnySeverity),
    ("images_of_a_batch_are_changed_as_they_are_alone", Levelled),
    ("other_seeds_and_other_images_are_perturbed_otherwise", SameForAll),
    ("without_a_generator_it_asks_for_one", Curt),
]


def test_a_perturbation_without_a_fault_passes():
    check_perturbation(Darker)


@pytest.mark.parametrize(("claim", "perturbation"), PERTURBATION_FAULTS)
def test_a_fault_of_a_perturbation_is_found_and_told(claim, perturbation):
    assert f"  - {claim.replace('_', ' ')}: " in told(check_perturbation, perturbation)


# --- backbones --------------------------------------------------------------------------------------------------------


class Network(nn.Module):
    """A network without a fault."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, x):
        return self.last(self.first(x).relu().mean((2, 3)))


def wrapped(network=None, wrap=Backbone, **changes):
    network = network or Network()
    for name, value in changes.items():
        setattr(network, name, value)
    return wrap(network, Classification(("a", "b")))


class Wakeful(Backbone):
    def train(self, mode=True):
        return nn.Module.train(self, mode)


class Raw(Backbone):
    def prepare(self, images):
        return images


class Blind(Network):
    def forward(self, x):
        return super().forward(x * 0)


class Dropping(Network):
    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.5, training=True))


class Cut(Network):
    def forward(self, x):
        return super().forward(x.detach())


class Twice(nn.Module):
    """Has no module that runs once."""

    def __init__(self):
        super().__init__()
        self.only = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.only(self.only(x)).mean((2, 3))[:, :2]


class Overwriting(Network):
    def forward(self, x):
        return super().forward(x.mul_(0.5))


class Stubborn(Network):
    def forward(self, x):
        try:
            return super().forward(x)
        except Exception:
            return x.mean((2, 3))[:, :2]


class Counting(Network):
    def __init__(self):
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes += 1
        return super().forward(x)


BACKBONE_FAULTS = [
    ("it_stays_in_eval_mode", lambda: wrapped(wrap=Wakeful)),
    ("logits_have_a_place_for_every_class", lambda: Backbone(nn.Conv2d(3, 2, 1), Classification(("a", "b")))),
    ("logits_depend_on_the_image", lambda: wrapped(Blind())),
    ("two_passes_give_the_same", lambda: wrapped(Dropping())),
    ("logits_of_a_batch_are_the_logits_one_by_one",
     lambda: wrapped(last=nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2)))),
    ("a_gradient_reaches_every_image", lambda: wrapped(Cut())),
    ("activations_can_be_read_inside_it", lambda: wrapped(Twice())),
    ("what_the_network_is_given_is_not_changed", lambda: wrapped(Overwriting(), wrap=Raw)),
    ("no_hook_survives_a_pass_that_fails", lambda: wrapped(Stubborn())),
    ("the_network_is_left_as_it_was", lambda: wrapped(Counting())),
]  # fmt: skip


def test_a_backbone_without_a_fault_passes():
    check_backbone(wrapped)
    check_backbone(wrapped())
    check_backbone(tiny_backbone("segmentation"), size=(16, 16))


@pytest.mark.parametrize(("claim", "factory"), BACKBONE_FAULTS)
def test_a_fault_of_a_backbone_is_found_and_told(claim, factory):
    assert f"  - {claim.replace('_', ' ')}: " in told(check_backbone, factory, size=(16, 16))


def test_a_network_that_is_no_backbone_is_told_how_to_become_one():
    assert "the factory made Network, no Backbone; wrap the network" in told(check_backbone, Network)


# --- data sets --------------------------------------------------------------------------------------------------------


def source_of(kind=TensorImages, *arguments, **named):
    return kind(torch.rand(5, 3, 4, 6, generator=torch.Generator().manual_seed(0)), *arguments, **named)


class Understated(TensorImages):
    def __len__(self):
        return 2

    def batches(self, size):
        return TensorImages(self.images).batches(size)


class Nameless(TensorImages):
    def batches(self, size):
        for batch in super().batches(size):
            yield Batch(batch.images, batch.names[:-1], batch.groups)


class Shuffled(TensorImages):
    turn = 0

    def batches(self, size):
        self.turn += 1
        for batch in super().batches(size):
            yield Batch(batch.images.roll(self.turn, 0), batch.names, batch.groups)


class OneCursor(TensorImages):
    def batches(self, size):
        self.place = 0
        while self.place < len(self):
            part = slice(self.place, self.place + size)
            yield Batch(self.images[part], self.names[part], self.groups[part])
            self.place += size


class Labelled(TensorImages):
    def __init__(self, images, label, classes):
        super().__init__(images)
        self.label, self.classes = label, classes

    def batches(self, size):
        for batch in super().batches(size):
            labels = torch.tensor(self.label).expand(len(batch.names))
            yield Batch(batch.images, batch.names, batch.groups, labels)


class Lenient(TensorImages):
    def batches(self, size):
        return super().batches(max(1, size))


class Augmenting(TensorImages):
    def batches(self, size):
        torch.rand(1)
        return super().batches(size)


DATASET_FAULTS = [
    ("it_has_images_and_no_more_than_it_says", lambda: source_of(Understated)),
    ("a_batch_has_a_name_and_a_group_for_every_image", lambda: source_of(Nameless)),
    ("names_are_unique", lambda: source_of(names=["a", "b", "c", "a", "e"])),
    ("images_are_rgb_or_grey_in_0_to_1", lambda: TensorImages(torch.rand(2, 2, 4, 4))),
    ("another_pass_gives_the_same_whatever_the_batch_size", lambda: source_of(Shuffled)),
    ("two_passes_at_once_do_not_disturb_each_other", lambda: source_of(OneCursor)),
    ("labels_are_class_indices_of_the_images", lambda: source_of(Labelled, 0.5, ("a", "b"))),
    ("labels_are_class_indices_of_the_images", lambda: source_of(Labelled, 2, ("a", "b"))),
    ("labels_are_class_indices_of_the_images", lambda: source_of(Labelled, 0, ())),
    ("a_batch_of_none_is_refused", lambda: source_of(Lenient)),
    ("the_global_random_generators_are_left_alone", lambda: source_of(Augmenting)),
]


def test_a_source_without_a_fault_passes():
    check_dataset(source_of())
    check_dataset(source_of(Labelled, 1, ("a", "b")))


@pytest.mark.parametrize(("claim", "factory"), DATASET_FAULTS)
def test_a_fault_of_a_source_is_found_and_told(claim, factory):
    assert f"  - {claim.replace('_', ' ')}: " in told(check_dataset, factory())


# --- all --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "faults"),
    [
        (detectors, DETECTOR_FAULTS),
        (perturbations, PERTURBATION_FAULTS),
        (backbones, BACKBONE_FAULTS),
        (datasets, DATASET_FAULTS),
    ],
)
def test_every_claim_has_been_seen_to_fail(module, faults):
    of_names = {"it_bears_the_name_it_is_registered_under", "a_saved_monitor_gives_the_same_scores"}
    assert claims_of(module) - of_names == {claim for claim, _ in faults}


def test_all_that_is_wrong_is_told_at_once_with_values():
    @dataclass(frozen=True)
    class Wrong(NeverNothing):
        marks: list = field(default_factory=list)

        def __post_init__(self):
            pass

    found = told(check_perturbation, Wrong)
    assert found.startswith("Perturbation 'Wrong': 2 of 8 claims do not hold:\n")
    assert "at severity 0: 0." in found
    assert "severity -1 is taken; raise ValueError for what is not 0 to 5" in found
