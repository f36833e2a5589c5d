"""A check-up: is this network, with these clean images, fit for a monitor, and if not, what is to be done?

Each check is a finding in words and in numbers. What is wrong with a network or a file is what a check-up is for, so
that it never ends in an exception of theirs: a check that cannot be made is a problem found. Images are looked at all,
and shown to the network a few hundred at most.
"""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from inlier.anatomy import Anatomy
from inlier.backbones.base import Backbone
from inlier.calibration import blocked_folds, images_needed
from inlier.cross_fitting import correlation_length
from inlier.datasets.labels import translation
from inlier.detectors.mahalanobis import mahalanobis
from inlier.errors import InlierError
from inlier.evaluation.cost import milliseconds
from inlier.evaluation.metrics import ConfusionMatrix
from inlier.images import ImageSource, TensorImages, check_images
from inlier.observation import Readings
from inlier.probe import Probe
from inlier.taps import Listener, Tap
from inlier.types import Images, Progress

__all__ = ["Checkup", "Finding", "Plan", "check_up"]

State: TypeAlias = Literal["ok", "note", "problem"]

MOST_IMAGES = 200
"""Shown to the network: as many of each group, the first ones in their order, so that neighbours stay neighbours."""
MOST_PIXELS = 50_000_000
"""Of them all; as floats they take 600 MB."""
RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
FOLDS = 5
NEAR = 0.15
"""Distance, as a share of the median between two images, below which two images are the same but for noise. On clean
CamVid frames a copy saved as JPEG of quality 90 and the frames of a standing car are as near, other neighbours not."""
ROUNDING = 1e-4
"""Share of the largest logit by which sums in another order may differ."""


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Args:
        name: of the check.
        state: `problem`: a monitor will not work, or will promise what it does not keep; `note`: worth knowing.
        found: in words.
        advice: what to do; empty where there is nothing.
        data: the same in numbers, as JSON values.
    """

    name: str
    state: State
    found: str
    advice: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """How a monitor would be fitted to these images.

    Args:
        detector: that needs no more than there is; None for those that a monitor has by default.
        false_alarm_rate: the lowest of the usual ones that so many images can keep.
        folds, blocks: of cross-fitting, where they must not be the usual ones.
        size: (h, w) to resize images to, where there are several sizes.
    """

    detector: str | None
    false_alarm_rate: float
    folds: int = FOLDS
    blocks: int | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Checkup:
    """All findings in their order, and a plan where there is no problem."""

    findings: tuple[Finding, ...]
    plan: Plan | None

    @property
    def problems(self) -> int:
        """How many findings are problems."""
        return sum(finding.state == "problem" for finding in self.findings)

    def finding(self, name: str) -> Finding:
        """The finding of one check.

        Raises:
            LookupError: there is none of that name.
        """
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise LookupError(f"No check named '{name}'. There are {', '.join(one.name for one in self.findings)}.")

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "problems": self.problems,
            "findings": [asdict(finding) for finding in self.findings],
            "plan": None if self.plan is None else asdict(self.plan),
        }


def check_up(
    backbone: Backbone,
    images: ImageSource,
    *,
    labels: Callable[[str], Tensor] | None = None,
    progress: Progress | None = None,
) -> Checkup:
    """Look at a network and at the clean images that a monitor is to be fitted to.

    Args:
        backbone: with its preprocessing.
        images: if they have labels, these are used; those whose classes the network names differently are a finding.
        labels: the label map of an image by its name, in the network's own classes, instead of the images' labels.
        progress: told of every batch that is read.
    """
    patient = Patient(backbone, Sample(images, labels, progress))
    findings = []
    for name, check in CHECKS.items():
        try:
            finding: Finding | None = check(patient)
        except NotNow:
            finding = None
        except Exception as error:  # a user's network or file may raise anything
            said = " ".join(str(error).split())
            told = said if isinstance(error, InlierError | ValueError) and said else f"{type(error).__name__}: {said}"
            finding = Finding(name, "problem", f"could not be checked: {told}", CANNOT.get(name, MEND), {"error": told})
        if finding is not None:
            findings.append(finding)
        if progress is not None:
            progress("checking", list(CHECKS).index(name) + 1, len(CHECKS))
    troubled = any(finding.state == "problem" for finding in findings)
    return Checkup(tuple(findings), None if troubled else patient.plan())


class NotNow(Exception):
    """There is nothing that this check could look at; another finding says why."""


class Sample:
    """What is to be known of all images, and some of them to show to the network, all of one size.

    Args:
        source: read once, here.
        labels: see `check_up`.
        progress: likewise.
    """

    def __init__(self, source: ImageSource, labels: Callable[[str], Tensor] | None, progress: Progress | None) -> None:
        self.source = source
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.names: list[str] = []
        self.groups: list[str] = []
        self.brightness: list[float] = []
        self.contrast: list[float] = []
        self.error = ""
        shown: list[tuple[Tensor, str, str, Tensor | None]] = []
        told = getattr(source, "groups", None)  # a data set knows them beforehand
        groups = len(told) if isinstance(told, Mapping) and told else 1
        quota, taken = math.ceil(MOST_IMAGES / groups), Counter[str]()
        room = MOST_PIXELS
        try:
            for batch in source.batches(1):
                check_images(batch.images)
                pixels, name, group = batch.images[0], batch.names[0], batch.groups[0]
                self.names.append(name)
                self.groups.append(group)
                self.sizes[(pixels.shape[1], pixels.shape[2])] += 1
                self.brightness.append(pixels.mean().item())
                self.contrast.append(pixels.std(correction=0).item())
                area = pixels.shape[1] * pixels.shape[2]
                if taken[group] < quota and len(shown) < MOST_IMAGES and (area <= room or not shown):
                    taken[group] += 1
                    room -= area
                    shown.append((pixels, name, group, None if batch.labels is None else batch.labels[0]))
                if progress is not None:
                    progress("reading", len(self.names), len(source))
        except Exception as error:  # as in check_up; what was read until then counts
            self.error = " ".join(str(error).split()) or type(error).__name__
        self.size = self.sizes.most_common(1)[0][0] if self.sizes else None
        fitting = [one for one in shown if tuple(one[0].shape[1:]) == self.size]
        self.images = torch.stack([one[0] for one in fitting]) if fitting else None
        self.shown_names = tuple(one[1] for one in fitting)
        self.shown_groups = tuple(one[2] for one in fitting)
        self.labels, self.unlabelled = self._labels(fitting, labels)
        self.classes: tuple[str, ...] = () if labels is not None else tuple(getattr(source, "classes", ()))

    def _labels(
        self, fitting: Sequence[tuple[Tensor, str, str, Tensor | None]], labels: Callable[[str], Tensor] | None
    ) -> tuple[list[Tensor | None], str]:
        if labels is None:
            return [one[3] for one in fitting], ""
        found: list[Tensor | None] = []
        first = ""
        for _, name, _, _ in fitting:
            try:
                found.append(labels(name))
            except (OSError, ValueError, LookupError) as error:
                found.append(None)
                first = first or str(error)
        return found, first


class Patient:
    """The network, the images, and what several checks want to know, worked out once."""

    def __init__(self, backbone: Backbone, sample: Sample) -> None:
        self.backbone = backbone
        self.sample = sample
        self.length = 1
        self._anatomy: Anatomy | None = None
        self._output: Tensor | None = None
        self._readings: Readings | None = None

    @property
    def images(self) -> Images:
        """Those shown to the network."""
        if self.sample.images is None:
            raise NotNow
        return self.sample.images

    @property
    def first(self) -> Images:
        """The first of them, where the network is."""
        return self.images[:1].to(self.backbone.mean.device)

    @property
    def anatomy(self) -> Anatomy:
        """Of the network, for images of this size."""
        if self._anatomy is None:
            self._anatomy = Anatomy.of(
                self.backbone, (self.images.shape[2], self.images.shape[3]), self.images.shape[1]
            )
        return self._anatomy

    def logits(self, images: Images) -> Tensor:
        """Of images, a few at a time, on the CPU."""
        with torch.no_grad():
            parts = [self.backbone(part.to(self.backbone.mean.device)).cpu() for part in torch.split(images, 4)]
        return torch.cat(parts)

    def plan(self) -> Plan | None:
        """How to fit a monitor; None where there are too few images."""
        count = len(self.sample.names)
        rates = [rate for rate in RATES if images_needed(rate) <= count]
        if not rates or count < 2 * FOLDS:
            return None
        size = self.sample.size if len(self.sample.sizes) > 1 else None
        detector: str | None
        try:
            self.anatomy.stage_ends()
            detector = None
        except Exception:  # as in check_up
            detector = "energy"
        for folds, blocks in ((FOLDS, None), (2, None), (FOLDS, max(1, count // (2 * FOLDS)))):
            try:
                blocked_folds(self.sample.groups, block=blocks or self.length, folds=folds)
            except ValueError:
                continue
            return Plan(detector, rates[0], folds, blocks, size)
        return None


# --- the checks ------------------------------------------------------------------------------------------------------


def versions(patient: Patient) -> Finding:
    told = {
        "inlier": importlib.metadata.version("inlier"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
    }
    return Finding("versions", "ok", ", ".join(f"{name} {value}" for name, value in told.items()), "", told)


def device(patient: Patient) -> Finding:
    places = sorted({str(parameter.device) for parameter in patient.backbone.network.parameters()})
    accelerator = torch.cuda.is_available()
    told = {"devices": places, "cuda_available": accelerator}
    on = ", ".join(places) or "the CPU, without parameters"
    if len(places) > 1:
        return Finding("device", "problem", f"parameters lie on {on}", "put the network on one device", told)
    if accelerator and places == ["cpu"]:
        advice = "move it there if time matters: backbone.to('cuda')"
        return Finding("device", "note", "the network is on the CPU, and there is a GPU", advice, told)
    return Finding("device", "ok", f"on {on}", "", told)


def mode(patient: Patient) -> Finding:
    modules = dict(patient.backbone.network.named_modules())
    training = [name or "(the network)" for name, module in modules.items() if module.training]
    norms = [name for name, module in modules.items() if isinstance(module, NORMS)]
    unkept = [name for name in norms if getattr(modules[name], "running_mean", None) is None]
    dropouts = [name for name, module in modules.items() if isinstance(module, DROPOUTS)]
    told = {
        "training": training,
        "batch_norms": len(norms),
        "without_running_statistics": unkept,
        "dropouts": len(dropouts),
    }
    if training:
        found = f"{len(training)} modules are in training mode, such as {training[0]}"
        return Finding("mode", "problem", found, "leave eval mode on: call nothing that trains after loading", told)
    if unkept:
        found = f"{len(unkept)} batch norms keep no running statistics, such as {unkept[0]}"
        advice = "an image's output depends on its batch: train with track_running_stats=True"
        return Finding("mode", "problem", found, advice, told)
    found = f"eval mode; {len(norms)} batch norms with running statistics, {len(dropouts)} dropouts, all off"
    return Finding("mode", "ok", found, "", told)


NORMS = (nn.modules.batchnorm._BatchNorm,)
DROPOUTS = (nn.modules.dropout._DropoutNd,)


def files(patient: Patient) -> Finding:
    sample = patient.sample
    skipped = [(one.name, one.reason) for one in getattr(sample.source, "skipped", ())]
    told = {
        "read": len(sample.names),
        "skipped": [{"image": name, "reason": why} for name, why in skipped],
        "error": sample.error,
    }
    if not sample.names:
        found = sample.error or "there is not one image"
        return Finding("files", "problem", found, "give a folder of images that can be opened", told)
    if sample.error:
        found = f"after {len(sample.names)} images reading ended: {sample.error}"
        return Finding("files", "problem", found, "mend or remove what is named there", told)
    if skipped:
        found = f"{len(sample.names)} images read, {len(skipped)} skipped, such as {skipped[0][0]}: {skipped[0][1]}"
        return Finding("files", "note", found, "copy these files again, or remove them", told)
    return Finding("files", "ok", f"{len(sample.names)} images read, none skipped", "", told)


def sizes(patient: Patient) -> Finding:
    if not patient.sample.sizes:
        raise NotNow
    common = patient.sample.sizes.most_common()
    told = {"sizes": [{"height": h, "width": w, "images": count} for (h, w), count in common]}
    (height, width), count = common[0]
    if len(common) == 1:
        return Finding("sizes", "ok", f"all are {height} x {width} (h x w)", "", told)
    found = f"{len(common)} sizes; {count} images are {height} x {width} (h x w), and only these are looked at below"
    advice = f"resize them all: --resize {height}x{width}; a detector with a sampling key takes one size"
    return Finding("sizes", "note", found, advice, told)


def pixels(patient: Patient) -> Finding:
    sample = patient.sample
    if not sample.names:
        raise NotNow
    dark = sum(value < 0.03 for value in sample.brightness)
    bright = sum(value > 0.97 for value in sample.brightness)
    flat = sum(value < 0.01 for value in sample.contrast)
    mean = sum(sample.brightness) / len(sample.brightness)
    told = {"mean": mean, "nearly_black": dark, "nearly_white": bright, "without_contrast": flat}
    odd = {"nearly black": dark, "nearly white": bright, "of one colour": flat}
    kind, most = max(odd.items(), key=lambda item: item[1])
    found = f"mean {mean:.2f} in [0, 1]"
    if most:
        found += f"; {most} of {len(sample.names)} images are {kind}"
        advice = "look at them: a monitor takes what it is fitted to for normal"
        return Finding("pixels", "problem" if most > len(sample.names) / 2 else "note", found, advice, told)
    return Finding("pixels", "ok", found, "", told)


def prepared(patient: Patient) -> Finding:
    images = patient.images[:32]
    with torch.no_grad():
        parts = [patient.backbone.prepare(image[None].to(patient.backbone.mean.device)).cpu() for image in images]
    low, high = min(part.min().item() for part in parts), max(part.max().item() for part in parts)
    means = torch.stack([part.mean((0, 2, 3)) for part in parts]).mean(0)
    spread = torch.stack([part.std((0, 2, 3), correction=0) for part in parts]).mean(0)
    height, width = parts[0].shape[2:]
    told = {
        "low": number(low),
        "high": number(high),
        "means": [number(value) for value in means.tolist()],
        "stds": [number(value) for value in spread.tolist()],
        "size": [height, width],
    }
    found = f"the network sees {height} x {width} pixels in [{low:.3g}, {high:.3g}], mean {average(means)}"
    if not (math.isfinite(low) and math.isfinite(high)):
        return Finding("prepared", "problem", found, "look at --mean and --std: these are not finite", told)
    contrast = torch.tensor([part.std(correction=0).item() for part in images]).mean().item()
    if spread.max() < 0.2 * contrast:
        advice = "--mean and --std look as if made for pixels up to 255: divide them by 255, if it was not trained so"
        return Finding("prepared", "note", f"{found}, hardly any contrast", advice, told)
    if means.abs().max() > 3:
        advice = "trained networks mostly expect means between -3 and 3: look at --mean and --std"
        return Finding("prepared", "note", found, advice, told)
    if patient.backbone.mean.abs().max() == 0 and bool((patient.backbone.std == 1).all()):
        advice = "if it was trained on normalised images, give --mean and --std"
        return Finding("prepared", "note", f"{found}; pixels go in as they are", advice, told)
    return Finding("prepared", "ok", found, "", told)


def output(patient: Patient) -> Finding:
    images = patient.images[:32]
    classes = patient.backbone.task.classes
    seen: Counter[int] = Counter()
    bad = 0
    shape: tuple[int, ...] = ()
    for image in images:
        logits = patient.logits(image[None])
        shape = tuple(logits.shape[1:])
        if logits.isfinite().all():
            seen.update(logits.max(1).indices.flatten().bincount(minlength=len(classes)).nonzero().flatten().tolist())
        else:
            bad += 1
    told = {"shape": list(shape), "not_finite": bad, "classes": len(classes), "classes_predicted": len(seen)}
    if bad:
        found = f"the logits of {bad} of {len(images)} images are NaN or infinite"
        return Finding("output", "problem", found, "look at the weights, and at --mean and --std", told)
    found = f"logits {shape}, finite; {len(seen)} of {len(classes)} classes predicted on {len(images)} images"
    if len(seen) == 1 and len(classes) > 1 and len(images) > 1:
        (only,) = seen
        advice = "if the images show more than that, look at the weights, --mean, --std, --bgr and --size"
        return Finding("output", "note", f"{found}: always '{classes[only]}'", advice, told)
    return Finding("output", "ok", found, "", told)


def taps(patient: Patient) -> Finding:
    places = patient.anatomy.places
    usable = usable_taps(patient)
    refused = [place for place in places if place.leaf and place.problem and place.tap.side == "output"]
    reasons = Counter(place.problem for place in refused)
    told = {
        "usable": len(usable),
        "not_usable": len(refused),
        "reasons": dict(reasons.most_common()),
        "modules": [str(place.tap) for place in refused],
    }
    why = f"; {len(refused)} cannot be tapped, mostly: {reasons.most_common(1)[0][0]}" if refused else ""
    if not usable:
        found = f"not one module can be tapped{why}"
        advice = (
            "use detectors of the output alone, such as energy, or give the network before it is compiled or scripted"
        )
        return Finding("taps", "note", found, advice, told)
    try:
        ends = len(patient.anatomy.stage_ends())
    except InlierError as error:
        found = f"{len(usable)} outputs of modules can be tapped{why}, but {str(error)[0].lower()}{str(error)[1:]}"
        return Finding("taps", "note", found, "name the taps: mahalanobis(taps='...')", told)
    found = f"{len(usable)} outputs of modules can be tapped, {ends} of them at the end of a stage{why}"
    return Finding("taps", "ok", found, "`inlier taps` lists them" if refused else "", told)


def usable_taps(patient: Patient) -> list[Tap]:
    return list(patient.anatomy.everywhere())


def gradients(patient: Patient) -> Finding:
    images = patient.first.clone().requires_grad_()
    chosen = usable_taps(patient)
    listener = Listener(patient.backbone, [(tap, lambda activation: activation.reshape(-1)[:1]) for tap in chosen])
    with listener.listening() as kept, torch.enable_grad():
        logits = patient.backbone(images)
        linked = sum(piece is not None and piece.requires_grad for piece in kept)
    told: dict[str, Any] = {"taps_linked": linked, "taps": len(chosen), "reaches_image": False}
    advice = "attacks and heat maps need it: look for no_grad, detach, rounding or NumPy in the network's forward"
    if not logits.requires_grad:
        found = f"no gradient comes from the logits back to the image; {linked} of {len(chosen)} taps are linked to it"
        return Finding("gradients", "note", found, advice, told)
    (slope,) = torch.autograd.grad(logits.amax(1).sum(), images, allow_unused=True)
    if slope is None or not slope.isfinite().all() or not slope.any():
        kind = "no gradient" if slope is None or not slope.any() else "a gradient that is not finite"
        return Finding("gradients", "note", f"{kind} comes from the logits back to the image", advice, told)
    share = (slope != 0).any(1).double().mean().item()
    told |= {"reaches_image": True, "pixels_reached": share}
    found = f"reach {100 * share:.0f} % of the image's pixels; {linked} of {len(chosen)} taps are linked to the image"
    if linked < len(chosen):
        return Finding("gradients", "note", found, "the others cannot be attacked or explained", told)
    return Finding("gradients", "ok", found, "", told)


def amount(patient: Patient) -> Finding:
    count = len(patient.sample.names)
    if not count:
        raise NotNow
    lowest = 1 / (count + 1)
    rate = next((rate for rate in RATES if images_needed(rate) <= count), None)
    told = {
        "images": count,
        "lowest_false_alarm_rate": lowest,
        "needed_for_0.01": images_needed(0.01),
        "needed_for_0.01_with_high_probability": images_needed(0.01, "high_probability"),
    }
    found = f"{count} images support a false-alarm rate of {lowest:.2g} at the lowest"
    if rate is None or count < 2 * FOLDS:
        return Finding("amount", "problem", found, f"give {images_needed(RATES[0])} or more for a rate of 0.01", told)
    if rate > RATES[0]:
        advice = f"ask for {rate} or more, or give {images_needed(RATES[0])} images or more for 0.01"
        return Finding("amount", "note", found, advice, told)
    return Finding("amount", "ok", found, "", told)


def groups(patient: Patient) -> Finding:
    counts = Counter(patient.sample.groups)
    if not counts:
        raise NotNow
    told = {"groups": dict(counts)}
    shown = ", ".join(f"{name} {count}" for name, count in counts.most_common(5)) + (", ..." if len(counts) > 5 else "")
    if len(counts) == 1 and sum(counts.values()) > 1:
        advice = (
            "if they are of several drives, sites or patients, say so with --group-by or --groups; if not, the "
            "false-alarm rate holds for images like these alone"
        )
        return Finding("groups", "note", f"all images are of one group ({shown})", advice, told)
    return Finding("groups", "ok", f"{len(counts)} groups: {shown}", "", told)


def likeness(patient: Patient) -> Finding:
    vectors = next(iter(patient_readings(patient).values.values())).double()
    if len(vectors) < 2 or not vectors.isfinite().all():
        raise NotNow
    spread = vectors.std(0, correction=0)
    standard = (vectors - vectors.mean(0)) / spread.clamp_min(1e-6 * spread.max().item() + 1e-30)
    gaps = torch.cdist(standard, standard)
    typical = gaps[~torch.eye(len(gaps), dtype=torch.bool)].median()
    gaps.fill_diagonal_(torch.inf)
    nearest = gaps.min(1)
    alike = nearest.values <= NEAR * typical
    names = patient.sample.shown_names
    pairs = [(names[i], names[int(nearest.indices[i])]) for i in alike.nonzero().flatten().tolist()]
    if len(vectors) >= 2 * FOLDS:
        patient.length = correlation_length(vectors.float(), patient.sample.shown_groups, FOLDS)
    told = {
        "looked_at": len(vectors),
        "block_length": patient.length,
        "nearly_the_same": len(pairs),
        "pairs": [list(pair) for pair in pairs[:10]],
    }
    count = len(patient.sample.names)
    worth = max(1, count // patient.length)
    found = f"neighbours stay alike for about {patient.length} images, so that {count} are worth about {worth}"
    if patient.length == 1:
        found = "neighbours are not alike"
    if pairs:
        found += (
            f"; {len(pairs)} of {len(vectors)} are nearly the same as another, such as {pairs[0][0]} as {pairs[0][1]}"
        )
    if 2 * len(pairs) > len(vectors):
        advice = "keep one of each: copies say nothing new, and hide how large the scores of other images are"
        return Finding("likeness", "problem", found, advice, told)
    if pairs:
        return Finding("likeness", "note", found, "keep one of each where they are copies", told)
    if worth < images_needed(RATES[0]) <= count:
        advice = "give images that are farther apart, or of more recordings"
        return Finding("likeness", "note", found, advice, told)
    return Finding("likeness", "ok", found, "", told)


def patient_readings(patient: Patient) -> Readings:
    """What the default detector reads of the images shown."""
    if patient._readings is None:
        probe = Probe(patient.backbone, default_detector(patient).requires)
        source = TensorImages(patient.images, patient.sample.shown_names, patient.sample.shown_groups)
        patient._readings = probe.read(source, batch_size=4)
    return patient._readings


def default_detector(patient: Patient) -> Any:
    try:
        return mahalanobis(patient.anatomy)
    except Exception:  # as in check_up; the finding about taps says what is the matter
        raise NotNow from None


def accuracy(patient: Patient) -> Finding:
    sample, task = patient.sample, patient.backbone.task
    known = [place for place, label in enumerate(sample.labels) if label is not None]
    if not known:
        if sample.unlabelled:
            return Finding("accuracy", "problem", f"no labels were found: {sample.unlabelled}", "look at --labels")
        raise NotNow
    translate = translation(sample.classes, task.classes) if sample.classes else None
    matrix = ConfusionMatrix(len(task.classes), task.void)
    for place in known:
        label = sample.labels[place]
        assert label is not None
        truth = label[None] if translate is None else translate[label[None]]
        predicted = patient.logits(patient.images[place : place + 1]).max(1).indices
        matrix.update(predicted, truth)
    share = matrix.pixel_accuracy()
    commonest = (matrix.counts.sum(1).max() / matrix.counts.sum().clamp_min(1)).item()
    told: dict[str, Any] = {"images": len(known), "accuracy": number(share), "commonest_class": commonest}
    if task.is_dense:
        told["miou"] = number(matrix.mean_iou())
        found = f"mean IoU {100 * matrix.mean_iou():.1f} %, {100 * share:.1f} % of pixels right, on {len(known)} images"
    else:
        found = f"{100 * share:.1f} % of {len(known)} images right"
    if sample.unlabelled:
        found += f"; {len(sample.labels) - len(known)} without labels: {sample.unlabelled}"
    if not share > commonest:
        advice = "always saying the commonest class is as good: look at --mean, --std, --bgr, --size and --classes"
        return Finding("accuracy", "problem", found, advice, told)
    if sample.unlabelled:
        return Finding("accuracy", "note", found, "add the labels that are missing, or judge by the others", told)
    return Finding("accuracy", "ok", found, "", told)


def determinism(patient: Patient) -> Finding:
    passes = [patient.logits(patient.images[:1]).nan_to_num() for _ in range(5)]
    same = all(torch.equal(passes[0], other) for other in passes[1:])
    together = patient.images[:4]
    apart = torch.cat([patient.logits(image[None]) for image in together]).nan_to_num()
    batch = patient.logits(together).nan_to_num()
    difference = ((batch - apart).abs().max() / apart.abs().max().clamp_min(1e-30)).item()
    told = {"five_passes_equal": same, "batch_against_single": difference, "batch": len(together)}
    if not same:
        advice = "look for dropout or noise that eval mode does not turn off; scores would change from pass to pass"
        return Finding("determinism", "problem", "five passes of one image give different logits", advice, told)
    if len(together) == 1:
        return Finding("determinism", "ok", "five passes are equal to the bit", "", told)
    if difference > ROUNDING:
        found = f"logits of an image in a batch of {len(together)} differ from those of it alone by {difference:.1e}"
        advice = "look for statistics of the batch: batch norms without running statistics, or means over all images"
        return Finding("determinism", "problem", found, advice, told)
    also = "too" if difference == 0 else f"but for rounding ({difference:.0e})"
    return Finding("determinism", "ok", f"five passes are equal to the bit, a batch and its images {also}", "", told)


def speed(patient: Patient) -> Finding:
    image = patient.first
    with torch.no_grad():
        alone = milliseconds(lambda: patient.backbone(image), repeats=5)
    told: dict[str, Any] = {"network": alone}
    found = f"{alone:.1f} ms a forward pass of one image"
    try:
        detector = default_detector(patient).fit(patient_readings(patient))
    except (NotNow, InlierError, ValueError):
        return Finding("time", "ok", found, "", told)
    probe = Probe(patient.backbone, detector.requires)
    with torch.no_grad():
        watched = milliseconds(lambda: detector(probe(image)), repeats=5)
    told["with_mahalanobis"] = watched
    return Finding("time", "ok", f"{found}, {watched:.1f} ms with the detector mahalanobis beside it", "", told)


def number(value: float) -> float | None:
    """A number, or None where JSON has none for it."""
    return value if math.isfinite(value) else None


def average(values: Tensor) -> str:
    return ", ".join(f"{value:.2f}" for value in values.tolist())


CHECKS: dict[str, Callable[[Patient], Finding]] = {
    "versions": versions,
    "device": device,
    "mode": mode,
    "files": files,
    "sizes": sizes,
    "pixels": pixels,
    "prepared": prepared,
    "output": output,
    "determinism": determinism,
    "taps": taps,
    "gradients": gradients,
    "amount": amount,
    "groups": groups,
    "likeness": likeness,
    "accuracy": accuracy,
    "time": speed,
}
MEND = "see to the problems above first; if there are none, `inlier --debug fit` shows where it comes from"
CANNOT = {
    "prepared": "look at --mean, --std and --size: they must suit the images' channels",
    "output": "the network does not take these images: look at --size, --output and --classes",
    "determinism": "the network does not take these images: look at --size",
    "accuracy": "look at --labels and --classes",
}
"""What to do where a check could not be made."""
