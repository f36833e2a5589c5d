"""The monitor: a probe, detectors and a calibration.

`Monitor(backbone).fit(clean).calibrate()`, then `verdict = monitor(images)`. Several detectors share one forward pass;
their scores become surprisals, each by its own calibration, and what is made of these is calibrated again.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Self, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inlier import artefact
from inlier.anatomy import Anatomy, KeyRing
from inlier.backbones.base import Backbone
from inlier.calibration import Calibration, Rule, autocorrelation_length, blocked_folds, group_folds
from inlier.clean_readings import CleanReadings
from inlier.densities.gaussian import Gaussian
from inlier.detectors.base import Detector
from inlier.detectors.spec import DetectorSpec
from inlier.errors import Mismatch, NotFitted
from inlier.images import ImageSource, as_source, check_images
from inlier.observation import Observation, Readings
from inlier.probe import Probe
from inlier.readers import Reader
from inlier.sampling import SamplingKey
from inlier.types import Images, Progress, Scores
from inlier.verdict import Verdict, Why

__all__ = ["Blocks", "CleanScores", "Monitor"]

Fusion = Literal["max", "sum"]
Blocks: TypeAlias = int | Literal["auto", "group"]
"""How clean images are kept together when folds are made: blocks of so many neighbours, as many as stay correlated
(`auto`), or whole groups."""

FIRST_BLOCK = 10
"""Images a block while it is being found out how long correlation lasts."""
CONSTANT = 0.3
"""Share of the median standard deviation below which a number read counts as constant there: what hardly ever moves
adds noise to the distance, which hides that neighbours are alike."""


@dataclass(frozen=True)
class CleanScores:
    """Each detector's scores of clean images that it was not fitted to; what calibrations are made of.

    Args:
        scores: by detector.
        folds: of the images; images of one fold were scored together, by detectors fitted to the other folds.
        names, groups: of the images.
        made: how, in words.
    """

    scores: Mapping[str, Tensor]
    folds: Tensor
    names: tuple[str, ...]
    groups: tuple[str, ...]
    made: str


class Monitor(nn.Module):
    """Says of every image, in the backbone's own forward pass, whether its prediction can be relied on.

    Args:
        backbone: watched, not changed.
        detectors: names with or without settings (`"daain"`, `"daain(blocks=8)"`), detectors, or several of either.
        fusion: how the surprisals of several detectors become one score: `max` (an alarm of any) or `sum`.
        key: the sampling key, for detectors that sample; by default one is drawn when the first images come.
        seed: fixes that key and every fit. By default the key comes from the system's randomness and fits use 0.

    Example:
        >>> from inlier.backbones.base import Backbone, Classification
        >>> _ = torch.manual_seed(0)
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        ...                               torch.nn.Flatten(), torch.nn.Linear(8, 2))
        >>> clean = torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> monitor = Monitor(Backbone(network, Classification(("cat", "dog")))).fit(clean)
        >>> monitor = monitor.calibrate(false_alarm_rate=0.05)
        >>> stripes = torch.zeros(1, 3, 8, 8)
        >>> stripes[:, :, ::2] = 1
        >>> bool(monitor(stripes).flagged)
        True
    """

    def __init__(
        self,
        backbone: Backbone,
        detectors: str | DetectorSpec | Detector | Sequence[str | DetectorSpec | Detector] = "mahalanobis",
        *,
        fusion: Fusion = "max",
        key: SamplingKey | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        wanted = [detectors] if isinstance(detectors, str | DetectorSpec | Detector) else list(detectors)
        if not wanted or fusion not in ("max", "sum"):
            raise ValueError(f"A monitor needs detectors and fusion 'max' or 'sum'; got {wanted}, {fusion!r}")
        self.backbone = backbone
        self.specs = [DetectorSpec.parse(item) if isinstance(item, str) else item for item in wanted]
        self.fusion = fusion
        self.seed = seed or 0
        self.keys = KeyRing(key, seed)
        self.detectors = nn.ModuleDict()
        self.calibrations = nn.ModuleDict()
        self.calibration = Calibration()
        self.false_alarm_rate: float | None = None
        self.anatomy: Anatomy | None = None
        self.clean: CleanScores | None = None
        self.clean_readings: CleanReadings | None = None
        self._readings: Readings | None = None
        self._blank: dict[str, Detector] = {}
        self._probe: Probe | None = None

    # --- learning -----------------------------------------------------------------------------------------------

    def build(self, size: tuple[int, int], channels: int = 3) -> Self:
        """Make the unfitted detectors for images of one size; `fit` does so by itself."""
        self.anatomy = Anatomy.of(self.backbone, size, channels, self.keys)
        made: dict[str, Detector] = {}
        for item in copy.deepcopy(self.specs):  # a detector given as an object stays as it came, for the next fit too
            detector = item if isinstance(item, Detector) else item.build(self.anatomy)
            number = sum(name.partition("-")[0] == detector.name for name in made)
            made[detector.name if number == 0 else f"{detector.name}-{number + 1}"] = detector
        self._probe = Probe(self.backbone, [reader for detector in made.values() for reader in detector.requires])
        self._blank = {name: copy.deepcopy(detector) for name, detector in made.items()}
        self.detectors = nn.ModuleDict(made)
        return self

    def fit(self, images: Images | ImageSource, *, batch_size: int = 8, progress: Progress | None = None) -> Self:
        """Read clean images, once each, and fit every detector to them.

        Raises:
            ValueError: no images, or images that no camera delivers.
            Mismatch: images of several sizes for a detector that samples.
        """
        source = as_source(images)
        first = next(iter(source.batches(1)), None)
        if first is None:
            raise ValueError("There are no images to fit to")
        self.build((first.images.shape[-2], first.images.shape[-1]), first.images.shape[1])
        readings = self.probe.read(
            source, batch_size=batch_size, progress=progress, phase="reading", also=self._unlearnt()
        )
        for name, detector in self._detectors():
            if detector.learns:
                detector.fit(readings, seed=self.seed, progress=_renamed(progress, f"fitting {name}"))
        self.clean_readings = self._empty_clean_readings(readings.names).fit(readings)
        self._readings = readings
        self.calibrations = nn.ModuleDict()  # those of an earlier fit say nothing about this one
        self.calibration = Calibration()
        self.clean = None
        self.false_alarm_rate = None
        return self

    def calibrate(
        self,
        held_out: Images | ImageSource | None = None,
        *,
        false_alarm_rate: float = 0.01,
        rule: Rule = "order_statistic",
        confidence: float = 0.95,
        blocks: Blocks = "auto",
        folds: int = 5,
        batch_size: int = 8,
        progress: Progress | None = None,
    ) -> Self:
        """Set the threshold from clean images alone.

        Without `held_out` the images of `fit` are cross-fitted: cut into folds of whole blocks or groups, each fold
        scored by detectors fitted to the others. With `held_out` those images are scored as they are; images of a
        single group say nothing about others, and a warning says so.

        Args:
            held_out: clean images that `fit` has not seen.
            false_alarm_rate: the share of clean images that may be flagged.
            rule, confidence: see `Calibration`.
            blocks: what stays together in a fold; see `Blocks`.
            folds: how many, for blocks of images.

        Raises:
            NotFitted: there is nothing to calibrate with yet.
            ValueError: too few images for the rate (the message has the number needed), or for the folds.
        """
        if not self.detectors:
            raise NotFitted("The monitor is not fitted: call fit(clean images) first")
        if held_out is not None:
            clean = self._score_held_out(as_source(held_out), blocks, folds, batch_size, progress)
        elif self._readings is not None:
            clean = self._cross_fit(self._readings, blocks, folds, progress)
        elif self.clean is not None:
            clean = self.clean  # a loaded monitor has no readings, but the scores they gave
        else:
            raise NotFitted("The monitor has no clean scores: call fit(clean images), or give held_out images")
        calibrations = {name: Calibration(rule, confidence).fit(scores) for name, scores in clean.scores.items()}
        calibration = Calibration(rule, confidence).fit(self._fused_clean(clean, rule, confidence))
        calibration.threshold(false_alarm_rate)  # refuses a rate that this many images cannot keep
        self.calibrations = nn.ModuleDict(calibrations)
        self.calibration = calibration
        self.false_alarm_rate = false_alarm_rate
        self.clean = clean
        return self

    def rekey(
        self,
        images: Images | ImageSource,
        *,
        seed: int | None = None,
        blocks: Blocks = "auto",
        folds: int = 5,
        batch_size: int = 8,
        progress: Progress | None = None,
    ) -> Monitor:
        """A monitor like this one with another sampling key: drawn, read, fitted and calibrated anew.

        Raises:
            Mismatch: no detector of this monitor samples activations, so that there is no key.
            NotFitted: the monitor was never calibrated.
        """
        rate = self._calibrated_rate()
        if self.keys.key is None:
            raise Mismatch("No detector of this monitor samples activations, so it has no key to draw again")
        fresh = Monitor(self.backbone, self.specs, fusion=self.fusion, seed=seed)
        fresh.fit(images, batch_size=batch_size, progress=progress)
        return fresh.calibrate(
            false_alarm_rate=rate,
            rule=self.calibration.rule,
            confidence=self.calibration.confidence,
            blocks=blocks,
            folds=folds,
            progress=progress,
        )

    @property
    def calibration_scores(self) -> Scores:
        """The clean images' own scores, in their order, as the calibration saw them."""
        self._calibrated_rate()
        assert self.clean is not None
        return self._fused_clean(self.clean, self.calibration.rule, self.calibration.confidence)

    # --- scoring ------------------------------------------------------------------------------------------------

    @property
    def probe(self) -> Probe:
        """The backbone with the readers that the detectors need."""
        if self._probe is None:
            raise NotFitted("The monitor is not fitted: call fit(clean images) first")
        return self._probe

    def objective(self, observation: Observation) -> Scores:
        """The monitor's score of an observation, larger = more anomalous; what an attacker lowers."""
        if len(self.detectors) == 1:
            return next(detector for _, detector in self._detectors())(observation)
        if not self.calibrations:
            raise NotFitted("Several detectors are fused by their calibrations: call calibrate() first")
        return self._fuse({name: detector(observation) for name, detector in self._detectors()}, self._calibrations())

    def score(self, images: Images) -> Scores:
        """(n,) scores in one forward pass: tensors alone, differentiable. A single detector's is its own."""
        return self.objective(self.probe(images))

    def scores(self, images: Images) -> dict[str, Scores]:
        """(n,) scores of every detector, in one forward pass."""
        observation = self.probe(images)
        return {name: detector(observation) for name, detector in self._detectors()}

    def forward(self, images: Images, names: Sequence[str] | None = None, *, why: bool = False) -> Verdict:
        """The verdict on images; with `why`, also what stands behind it, at the cost of a backward pass.

        Raises:
            NotFitted: the monitor is not calibrated.
            TypeError, ValueError: images that no camera delivers, or of another channel count.
        """
        rate = self._calibrated_rate()
        assert self.anatomy is not None
        check_images(images, self.anatomy.channels)
        named = tuple(names) if names is not None else tuple(str(i) for i in range(len(images)))
        if len(named) != len(images):
            raise ValueError(f"{len(images)} images came with {len(named)} names")
        with torch.set_grad_enabled(why):
            observation = self.probe(images.detach().requires_grad_(why))
            score = self.objective(observation)
        explanation = self._explain(observation, score) if why else None
        score = score.detach()
        return Verdict(
            named,
            observation.output.detach(),
            score,
            self.calibration.p_value(score),
            self.calibration.flagged(score, rate),
            rate,
            explanation,
        )

    # --- files --------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the monitor to a file, and its sampling key to another beside it with mode 0600.

        The backbone is not in it: `load` wants the same weights again.

        Raises:
            NotFitted: the monitor is not calibrated.
            Mismatch: a detector was given as an object, so that no name tells how to make it again.
        """
        rate = self._calibrated_rate()
        unnamed = [spec.name for spec in self.specs if isinstance(spec, Detector)]
        if unnamed:
            raise Mismatch(f"Detector {unnamed[0]!r} was given as an object; only detectors given by name can be saved")
        assert self.anatomy is not None
        assert self.clean is not None
        assert self.clean_readings is not None
        manifest = artefact.Manifest(
            format_version=artefact.FORMAT_VERSION,
            inlier_version=version("inlier"),
            backbone=self.backbone.fingerprint(),
            size=self.anatomy.size,
            channels=self.anatomy.channels,
            taps={str(tap): shape for tap, shape in self.anatomy.shapes.items()},
            detectors=[
                artefact.DetectorEntry(name=spec.name, settings=dict(spec.settings))
                for spec in self.specs
                if isinstance(spec, DetectorSpec)
            ],
            fusion=self.fusion,
            seed=self.seed if self.keys.key is None else None,
            clean=self.clean.made,
            names=list(self.clean.names),
            groups=list(self.clean.groups),
            fitted_to=list(self.clean_readings.names),
            rule=self.calibration.rule,
            confidence=self.calibration.confidence,
            false_alarm_rate=rate,
            key_file=None,
            key_digest=None,
        )
        tensors = {name: tensor for name, tensor in self.state_dict().items() if name.startswith(LEARNT)}
        tensors |= {f"clean.scores.{name}": scores for name, scores in self.clean.scores.items()}
        tensors |= {"clean.folds": self.clean.folds}
        artefact.save(Path(path), manifest, tensors, self.keys.key)

    @classmethod
    def load(cls, path: str | Path, backbone: Backbone) -> Monitor:
        """Read a monitor that was fitted to this backbone.

        Raises:
            FileNotFoundError: there is no such file.
            Mismatch: the file is no whole artefact of this format, the backbone is not the one it was fitted to, or the
                key is missing.
        """
        manifest, tensors, key = artefact.load(Path(path))
        if backbone.fingerprint() != manifest.backbone:
            raise Mismatch(
                f"'{path}' was fitted to a backbone with other weights or preprocessing "
                f"(fingerprint {manifest.backbone[:12]}, this one {backbone.fingerprint()[:12]}). "
                "Give the backbone it was fitted to, or fit a monitor to this one."
            )
        try:
            specs = [DetectorSpec(entry.name, entry.settings) for entry in manifest.detectors]
        except (LookupError, ValueError) as error:
            raise Mismatch(f"'{path}' has a detector that this inlier does not make: {error}") from error
        monitor = cls(backbone, specs, fusion=manifest.fusion, key=key, seed=manifest.seed)
        monitor.build(manifest.size, manifest.channels)
        assert monitor.anatomy is not None
        if {str(tap): shape for tap, shape in monitor.anatomy.shapes.items()} != manifest.taps:
            raise Mismatch(f"The backbone's modules are not those that '{path}' was fitted to, though its weights are")
        monitor.clean_readings = monitor._empty_clean_readings(manifest.fitted_to)
        monitor.calibrations = nn.ModuleDict(
            {name: Calibration(manifest.rule, manifest.confidence) for name in monitor.detectors}
        )
        monitor.calibration = Calibration(manifest.rule, manifest.confidence)
        expected = {name for name in monitor.state_dict() if name.startswith(LEARNT)}
        expected |= {"clean.folds", *(f"clean.scores.{name}" for name in monitor.detectors)}
        if expected != set(tensors):
            odd = sorted(expected ^ set(tensors))[0]
            raise Mismatch(f"The tensors in '{path}' are not those of its detectors: '{odd}' is missing or too much")
        scores = {name: tensors.pop(f"clean.scores.{name}") for name in monitor.detectors}
        folds = tensors.pop("clean.folds")
        monitor.clean = CleanScores(scores, folds, tuple(manifest.names), tuple(manifest.groups), manifest.clean)
        try:
            monitor.load_state_dict(tensors, strict=False)  # the backbone's own tensors are not in the artefact
        except RuntimeError as error:  # of shapes
            raise Mismatch(f"The tensors in '{path}' are not those of its detectors: {error}") from error
        monitor.false_alarm_rate = manifest.false_alarm_rate
        return monitor

    # --- inside -------------------------------------------------------------------------------------------------

    def _detectors(self) -> list[tuple[str, Detector]]:
        return [(name, module) for name, module in self.detectors.items() if isinstance(module, Detector)]

    def _calibrations(self) -> dict[str, Calibration]:
        return {name: module for name, module in self.calibrations.items() if isinstance(module, Calibration)}

    def _calibrated_rate(self) -> float:
        if self.false_alarm_rate is None:
            raise NotFitted("The monitor is not calibrated: call fit(clean images), then calibrate()")
        return self.false_alarm_rate

    def _readers(self) -> list[Reader]:
        return [reader for reader in self.probe.readers.values() if isinstance(reader, Reader)]

    def _empty_clean_readings(self, names: Sequence[str]) -> CleanReadings:
        return CleanReadings(names, {reader.name: reader.size for reader in self._readers()})

    def _unlearnt(self) -> dict[str, Callable[[Observation], Tensor]]:
        """Detectors that learn nothing score clean images while these are read; nothing else of them is kept."""
        return {SCORE + name: detector for name, detector in self._detectors() if not detector.learns}

    def _fuse(self, scores: Mapping[str, Tensor], calibrations: Mapping[str, Calibration]) -> Scores:
        surprisals = torch.stack([calibrations[name].surprisal(score) for name, score in scores.items()])
        return surprisals.amax(0) if self.fusion == "max" else surprisals.sum(0)

    def _fused_clean(self, clean: CleanScores, rule: Rule, confidence: float) -> Scores:
        """What the fused score of clean images is, each fold's surprisals by calibrations made of the other folds."""
        if len(clean.scores) == 1:
            return next(iter(clean.scores.values()))
        fused = torch.empty(len(clean.names), dtype=torch.float64)
        for fold in sorted(set(clean.folds.tolist())):
            inside = clean.folds == fold
            others = {name: Calibration(rule, confidence).fit(scores[~inside]) for name, scores in clean.scores.items()}
            fused[inside] = self._fuse({n: s[inside].double() for n, s in clean.scores.items()}, others)
        return fused

    def _cross_fit(self, readings: Readings, blocks: Blocks, folds: int, progress: Progress | None) -> CleanScores:
        fold, made = self._folds(readings, blocks, folds)
        scores: dict[str, Tensor] = {}
        for name, blank in self._blank.items():
            if not blank.learns:
                scores[name] = readings.values[SCORE + name]
                continue
            scores[name] = torch.empty(len(readings), dtype=torch.float64)
            numbers = sorted(set(fold.tolist()))
            for done, number in enumerate(numbers):
                detector = copy.deepcopy(blank).fit(
                    readings.subset((fold != number).nonzero()[:, 0]),
                    seed=self.seed,
                    progress=_renamed(progress, f"cross-fitting {name} {done + 1}/{len(numbers)}"),
                )
                inside = (fold == number).nonzero()[:, 0]
                with torch.no_grad():
                    parts = [detector(seen) for seen in readings.subset(inside).observations()]
                scores[name][inside] = torch.cat(parts).double()
        return CleanScores(scores, fold, readings.names, readings.groups, f"cross-fitted over {made}")

    def _score_held_out(
        self, source: ImageSource, blocks: Blocks, folds: int, batch_size: int, progress: Progress | None
    ) -> CleanScores:
        every = {SCORE + name: detector for name, detector in self._detectors()}
        readings = self.probe.read(source, batch_size=batch_size, progress=progress, phase="scoring", also=every)
        groups = set(readings.groups)
        if len(groups) == 1:
            warnings.warn(
                f"All {len(readings)} held-out images are of one group ({groups.pop()}): the false-alarm rate will "
                "hold for images like them, and may be far off elsewhere. Hold out images of several groups, or "
                "calibrate without held-out images, to cross-fit over those of fit.",
                stacklevel=3,
            )
        scores = {name: readings.values[SCORE + name].double() for name in self.detectors}
        if len(scores) == 1:
            fold, made = torch.zeros(len(readings), dtype=torch.long), "as they are"
        else:
            fold, made = self._folds(readings, blocks, folds)
            made = f"fused over {made}"
        return CleanScores(scores, fold, readings.names, readings.groups, f"held out, {made}")

    def _folds(self, readings: Readings, blocks: Blocks, folds: int) -> tuple[Tensor, str]:
        groups = f"{len(set(readings.groups))} group{'s' if len(set(readings.groups)) > 1 else ''}"
        if blocks == "group":
            return group_folds(readings.groups), f"whole groups ({groups})"
        if blocks != "auto" and not isinstance(blocks, int):
            raise ValueError(f"blocks is 'auto', 'group' or a number of images, not {blocks!r}")
        if folds < 2:
            raise ValueError(f"Cross-fitting needs at least 2 folds, not {folds}")
        length = self._correlation_length(readings, folds) if blocks == "auto" else blocks
        fold = blocked_folds(readings.groups, block=length, folds=folds)
        return fold, f"{folds} folds of blocks of about {length} neighbouring images ({groups})"

    def _correlation_length(self, readings: Readings, folds: int) -> int:
        """How many images apart scores of held-out images are no longer alike, judged by a Gaussian of the readings.

        The Gaussian stands in for every detector, since it is fitted in a blink.
        """
        vectors = [value for name, value in readings.values.items() if not name.startswith(SCORE) and value.ndim == 2]
        longest = max(readings.groups.count(group) for group in set(readings.groups))
        if not vectors or longest < 2 * FIRST_BLOCK:
            return 1 if longest == 1 else min(FIRST_BLOCK, max(1, longest // folds))
        fold = blocked_folds(readings.groups, block=min(FIRST_BLOCK, max(1, len(readings) // folds)), folds=folds)
        distances = torch.empty(len(readings))
        for number in range(folds):
            inside = fold == number
            density = Gaussian(vectors[0].shape[1], constant=CONSTANT).fit(vectors[0][~inside])
            distances[inside] = density.mahalanobis(vectors[0][inside]).log().float()
        return autocorrelation_length(distances, readings.groups)

    def _explain(self, observation: Observation, score: Scores) -> Why:
        readers = self._readers()
        readings = [observation.readings[reader.name] for reader in readers]
        gradients = torch.autograd.grad(score.sum(), [observation.images, *readings], allow_unused=True)
        height, width = observation.images.shape[-2:]
        slope = gradients[0]
        heat = (slope if slope is not None else torch.zeros_like(observation.images)).abs().sum(1, keepdim=True)
        reach = max(1, min(height, width) // 24)
        heat = F.avg_pool2d(heat, 2 * reach + 1, stride=1, padding=reach, count_include_pad=False)[:, 0]
        heat = heat / heat.flatten(1).amax(1).clamp_min(1e-30)[:, None, None]
        assert self.clean_readings is not None
        if not readers:
            return Why(((),) * len(score), heat, (None,) * len(score))
        shares = self.clean_readings.shares(readers, readings, gradients[1:])
        return Why(shares, heat, self.clean_readings.nearest([reading.detach() for reading in readings]))


LEARNT = ("detectors.", "calibrations.", "calibration.", "clean_readings.")
"""Prefixes of the tensors that an artefact holds."""
SCORE = "score:"
"""Prefix of the readings that are scores of detectors that learn nothing."""


def _renamed(progress: Progress | None, phase: str) -> Progress | None:
    return None if progress is None else lambda _, done, total: progress(phase, done, total)
