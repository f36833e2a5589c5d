"""The monitor: a probe, detectors and a calibration.

`Monitor(backbone).fit(clean).calibrate()`, then `verdict = monitor(images)`. Several detectors share one forward pass;
their scores become surprisals, each by its own calibration, and what is made of these is calibrated again.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inlier import artefact
from inlier.anatomy import Anatomy, KeyRing
from inlier.backbones.base import Backbone
from inlier.calibration import Calibration, Rule
from inlier.clean_readings import CleanReadings
from inlier.cross_fitting import Blocks, CleanScores, folds_of
from inlier.detectors.base import Detector
from inlier.detectors.spec import DetectorSpec
from inlier.errors import Mismatch, NotFitted
from inlier.images import ImageSource, as_source, check_channels, check_images
from inlier.observation import Observation, Readings
from inlier.origin import AbsentBackbone, Origin
from inlier.probe import Probe, united
from inlier.readers import Reader
from inlier.sampling import SamplingKey
from inlier.spool import MEMORY_LIMIT
from inlier.types import Images, Progress, Scores
from inlier.verdict import Verdict, Why

__all__ = ["DEFAULT", "ESCALATE", "Fusion", "Monitor", "Needs"]

Fusion = Literal["max", "sum"]

DEFAULT = ("mahalanobis(taps='deepest', normalise='rms')", "profile", "disagreement")
"""The detectors of a monitor that is given none: where things are, how strong the activations and how sure the
prediction, and whether it stands a second look. They were chosen on clean images and stated pseudo-anomalies; how
cleanly, says `docs/notes/0005-the-default.md`."""
ESCALATE = 0.5
"""Their share of images to look at twice."""


class Needs(NamedTuple):
    """What a monitor's readings are made of.

    Args:
        readers: by name.
        measures: by name, what else is worked out of each observation; what has the same name is the same measure.
        origin: of readings by these readers.
    """

    readers: Mapping[str, Reader]
    measures: Mapping[str, Callable[[Observation], Tensor]]
    origin: Origin


class Monitor(nn.Module):
    """Says of every image, in the backbone's own forward pass, whether its prediction can be relied on.

    Args:
        backbone: watched, not changed.
        detectors: names with or without settings (`"daain"`, `"daain(blocks=8)"`), detectors, or several of either. By
            default `DEFAULT`, which looks twice at the half of the images that seem less ordinary, see `escalate`.
        fusion: how the surprisals of several detectors become one score: `max` (an alarm of any) or `sum`.
        escalate: the share of clean images, from 0 to 1, on which detectors that need further passes are asked at all:
            those that look the most anomalous in one pass. Where detectors are given, these are by default asked of
            every image. Needs a detector of one pass, and fusion `max`.
        key: the sampling key, for detectors that sample or look at random; by default one is drawn when the first
            images come.
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

    doubt: Tensor

    def __init__(
        self,
        backbone: Backbone,
        detectors: str | DetectorSpec | Detector | Sequence[str | DetectorSpec | Detector] | None = None,
        *,
        fusion: Fusion = "max",
        escalate: float | None = None,
        key: SamplingKey | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if detectors is None:
            detectors, escalate = DEFAULT, ESCALATE if escalate is None else escalate
        wanted = [detectors] if isinstance(detectors, str | DetectorSpec | Detector) else list(detectors)
        if not wanted or fusion not in ("max", "sum"):
            raise ValueError(f"A monitor needs detectors and fusion 'max' or 'sum'; got {wanted}, {fusion!r}")
        if escalate is not None and (not 0 <= escalate <= 1 or fusion != "max"):
            raise ValueError(
                f"escalate is a share of clean images from 0 to 1, with fusion 'max'; got {escalate!r}, {fusion!r}"
            )
        self.backbone = backbone
        self.specs = [DetectorSpec.parse(item) if isinstance(item, str) else item for item in wanted]
        self.fusion = fusion
        self.escalate = escalate
        self.seed = seed or 0
        self.keys = KeyRing(key, seed)
        self.detectors = nn.ModuleDict()
        self.calibrations = nn.ModuleDict()
        self.calibration = Calibration()
        self.register_buffer("doubt", torch.tensor(-torch.inf, dtype=torch.float64), persistent=False)
        self.false_alarm_rate: float | None = None
        self.anatomy: Anatomy | None = None
        self.clean: CleanScores | None = None
        self.clean_readings: CleanReadings | None = None
        self._readings: Readings | None = None
        self._anomalies: Readings | None = None
        self._cross_fitted: tuple[tuple[Blocks, int], CleanScores] | None = None
        self._blank: dict[str, Detector] = {}
        self._recorded_as: dict[str, str] = {}
        self._required: dict[str, Reader] = {}
        self._probe: Probe | None = None

    # --- learning -----------------------------------------------------------------------------------------------

    def build(self, size: tuple[int, int], channels: int = 3) -> Self:
        """Make the unfitted detectors for images of one size; `fit` does so by itself."""
        if isinstance(self.backbone, AbsentBackbone):
            self.anatomy = self.backbone.anatomy(self.keys)
        else:
            self.anatomy = Anatomy.of(self.backbone, size, channels, self.keys)
        made: dict[str, Detector] = {}
        recorded_as: dict[str, str] = {}
        for item in copy.deepcopy(self.specs):  # a detector given as an object stays as it came, for the next fit too
            detector = item if isinstance(item, Detector) else item.build(self.anatomy)
            number = sum(name.partition("-")[0] == detector.name for name in made)
            name = detector.name if number == 0 else f"{detector.name}-{number + 1}"
            made[name] = detector
            recorded_as[name] = SCORE + (name if isinstance(item, Detector) else str(item))
        if self.escalate is not None and len({detector.passes > 1 for detector in made.values()}) < 2:
            raise Mismatch(
                "escalate is for monitors of detectors that need one pass and of some that need more; this one has "
                + ", ".join(f"{name} ({detector.passes})" for name, detector in made.items())
            )
        self._required = united(reader for detector in made.values() for reader in detector.requires)
        absent = isinstance(self.backbone, AbsentBackbone)
        self._probe = None if absent else Probe(self.backbone, self._readers())
        self._blank = {name: copy.deepcopy(detector) for name, detector in made.items()}
        self._recorded_as = recorded_as
        self.detectors = nn.ModuleDict(made)
        return self

    def build_for(self, source: ImageSource) -> Self:
        """`build` for images like the first of these.

        Raises:
            ValueError: there are none.
            Mismatch: the network is not here.
        """
        if isinstance(self.backbone, AbsentBackbone):
            self.backbone.refuse()
        first = next(iter(source.batches(1)), None)
        if first is None:
            raise ValueError("There are no images to fit to")
        return self.build((first.images.shape[-2], first.images.shape[-1]), first.images.shape[1])

    def read(
        self,
        images: Images | ImageSource,
        *,
        logits: bool = False,
        store: str | Path | None = None,
        memory_limit: int = MEMORY_LIMIT,
        batch_size: int = 8,
        progress: Progress | None = None,
    ) -> Readings:
        """All that the detectors need of images, so that a monitor can be fitted, calibrated or tried without them.

        Of detectors that learn nothing the scores are kept. Readings of `SampledActivations` belong to the key.

        Args:
            images: any; a monitor that was not fitted yet is built for the size of the first.
            logits: keep these too: as many numbers as the backbone gives, for verdicts and other output scores.
            store, memory_limit: where readings go that are too many for memory; see `Probe.read`.

        Raises:
            ValueError: no images, or images that no camera delivers.
        """
        source = as_source(images)
        if not self.detectors:
            self.build_for(source)
        assert self.anatomy is not None
        also = self._measures()
        if logits:
            also["logits"] = lambda observation: observation.output
        return self.probe.read(
            source,
            also=also,
            batch_size=batch_size,
            progress=progress,
            origin=Origin.of(self.backbone, self.anatomy, self._readers()),
            store=store,
            memory_limit=memory_limit,
        )

    @property
    def needs(self) -> Needs:
        """What is read of images for this monitor, so that images can be read for several monitors at once.

        Raises:
            NotFitted: there are no detectors yet; `build` makes them.
        """
        if self.anatomy is None:
            raise NotFitted("The monitor has no detectors yet: call build(size of the images), or fit(clean images)")
        return Needs(dict(self._required), self._measures(), Origin.of(self.backbone, self.anatomy, self._readers()))

    def fit(
        self,
        images: Images | ImageSource | Readings,
        *,
        anomalies: Images | ImageSource | Readings | None = None,
        batch_size: int = 8,
        progress: Progress | None = None,
    ) -> Self:
        """Read clean images, once each, and fit every detector to them.

        Args:
            images: clean ones, or what `read` made of such; the network is not run for these.
            anomalies: images of what is to be found, for detectors that learn from labelled anomalies.

        Fewer than ten images bring a warning.

        Raises:
            ValueError: no images, or images that no camera delivers.
            Mismatch: images of several sizes for a detector that samples; readings of another backbone, key or
                detector; anomalies for detectors that learn from clean images alone.
        """
        before = self._built()
        try:
            if isinstance(images, Readings):
                if images.origin is None:
                    raise Mismatch("These readings do not say what they were read from; make them with Monitor.read")
                self.build(images.origin.size, images.origin.channels)
                readings = self._own(images)
            else:
                self.build_for(as_source(images))
                readings = self._read(as_source(images), batch_size, progress, "reading")
            odd = self._read_anomalies(anomalies, batch_size, progress)
            for name, detector in self._detectors():
                if detector.learns:
                    _fit(detector, readings, odd, self.seed, _renamed(progress, f"fitting {name}"))
            clean_readings = self._empty_clean_readings(readings.names).fit(readings)
            if len(readings) < FEW and any(detector.learns for _, detector in self._detectors()):
                warnings.warn(
                    f"{len(readings)} clean images are too few to learn what is normal: scores are guesses, and no "
                    f"threshold below a false-alarm rate of {1 / (len(readings) + 1):.2g} can be set. Give {USABLE} or "
                    "more, of several places and times.",
                    stacklevel=2,
                )
        except BaseException:  # a fit that fails, or is interrupted, leaves the monitor as it was
            self.anatomy, self.detectors, self._required, self._probe, self._blank, self._recorded_as = before
            raise
        self.clean_readings = clean_readings
        self._readings = readings
        self._anomalies = odd
        self._cross_fitted = None
        self.calibrations = nn.ModuleDict()  # those of an earlier fit say nothing about this one
        self.calibration = Calibration()
        self.clean = None
        self.false_alarm_rate = None
        return self

    def calibrate(
        self,
        held_out: Images | ImageSource | Readings | None = None,
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
            held_out: clean images that `fit` has not seen, or what `read` made of such.
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
        if isinstance(held_out, Readings):
            clean = self._held_out(self._own(held_out), self.scores_of(held_out), blocks, folds)
        elif held_out is not None:
            every = {SCORE + name: detector for name, detector in self._detectors()}
            scored = self.probe.read(
                as_source(held_out), batch_size=batch_size, progress=progress, phase="scoring", also=every
            )
            clean = self._held_out(scored, {n: scored.values[SCORE + n] for n in self.detectors}, blocks, folds)
        elif self._readings is not None:
            clean = self._cross_fit(self._readings, blocks, folds, progress)
        elif self.clean is not None:
            clean = self.clean  # a loaded monitor has no readings, but the scores they gave
        else:
            raise NotFitted("The monitor has no clean scores: call fit(clean images), or give held_out images")
        calibrations = {name: Calibration(rule, confidence).fit(scores) for name, scores in clean.scores.items()}
        calibration = Calibration(rule, confidence).fit(self._fused_clean(clean, rule, confidence)[0])
        calibration.threshold(false_alarm_rate)  # refuses a rate that this many images cannot keep
        self.calibrations = nn.ModuleDict(calibrations)
        self.calibration = calibration
        self.doubt = self._doubt(clean.scores, calibrations)
        self.false_alarm_rate = false_alarm_rate
        self.clean = clean
        return self

    def rekey(
        self,
        images: Images | ImageSource,
        *,
        anomalies: Images | ImageSource | None = None,
        seed: int | None = None,
        blocks: Blocks = "auto",
        folds: int = 5,
        batch_size: int = 8,
        progress: Progress | None = None,
    ) -> Monitor:
        """A monitor like this one with another sampling key: drawn, read, fitted and calibrated anew.

        `anomalies` are for detectors that learn from them, as in `fit`.

        Raises:
            Mismatch: no detector of this monitor has a key.
            NotFitted: the monitor was never calibrated.
        """
        rate = self._calibrated_rate()
        if self.keys.key is None:
            raise Mismatch(
                "No detector of this monitor samples activations or looks at random, so it has no key to draw again"
            )
        fresh = Monitor(self.backbone, self.specs, fusion=self.fusion, escalate=self.escalate, seed=seed)
        fresh.fit(images, anomalies=anomalies, batch_size=batch_size, progress=progress)
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
        return self._fused_clean(self.clean, self.calibration.rule, self.calibration.confidence)[0]

    @property
    def passes(self) -> float:
        """The mean number of forward passes a clean image costs, the prediction's included.

        Raises:
            NotFitted: not calibrated, where it depends on that.
        """
        looks: dict[Any, int] = {}  # what several look at is looked at once
        for name, detector in self._detectors():
            look = getattr(detector, "look", None) or name
            looks[look] = max(looks.get(look, 0), detector.passes - 1)
        further = sum(looks.values())
        if not further or self.escalate is None:
            return 1 + further
        self._calibrated_rate()
        assert self.clean is not None
        again = self._fused_clean(self.clean, self.calibration.rule, self.calibration.confidence)[1]
        return 1 + further * again.double().mean().item()

    # --- scoring ------------------------------------------------------------------------------------------------

    @property
    def probe(self) -> Probe:
        """The backbone with the readers that the detectors need.

        Raises:
            NotFitted: there are no detectors yet.
            Mismatch: the network is not here.
        """
        if not self.detectors:
            raise NotFitted("The monitor is not fitted: call fit(clean images) first")
        if self._probe is None:
            assert isinstance(self.backbone, AbsentBackbone)
            self.backbone.refuse()
        return self._probe

    def objective(self, observation: Observation) -> Scores:
        """The monitor's score of an observation, larger = more anomalous; what an attacker lowers."""
        if len(self.detectors) == 1:
            return next(detector for _, detector in self._detectors())(observation)
        if not self.calibrations:
            raise NotFitted("Several detectors are fused by their calibrations: call calibrate() first")
        calibrations = self._calibrations()
        if self.escalate is None:
            return self._fuse({name: detector(observation) for name, detector in self._detectors()}, calibrations)
        first = self._fuse({n: detector(observation) for n, detector in self._at_once().items()}, calibrations)
        again = first >= self.doubt
        if not again.any():
            return first
        closer = observation if again.all() else observation.subset(again.nonzero()[:, 0])
        second = self._fuse({n: detector(closer) for n, detector in self._by_looking().items()}, calibrations)
        return first.masked_scatter(again, torch.maximum(first[again], second))

    def score(self, images: Images) -> Scores:
        """(n,) scores: tensors alone, differentiable. A single detector's is its own.

        Raises:
            ValueError: images of another channel count; pixels are not looked at, unlike in a verdict.
        """
        check_channels(images, self._channels)
        return self.objective(self.probe(images))

    def scores(self, images: Images) -> dict[str, Scores]:
        """(n,) scores of every detector, of those that need further passes too."""
        check_channels(images, self._channels)
        observation = self.probe(images)
        return {name: detector(observation) for name, detector in self._detectors()}

    def scores_of(self, readings: Readings) -> dict[str, Scores]:
        """(n,) scores of every detector for images that were read earlier; the network is not run.

        Raises:
            NotFitted: there are no detectors yet.
            Mismatch: the readings are of another backbone or key, or lack what a detector needs.
        """
        if not self.detectors:
            raise NotFitted("The monitor is not fitted: call fit(clean images) first")
        own = self._own(readings)
        scores = {}
        with torch.no_grad():
            for name, detector in self._detectors():
                if detector.learns:
                    scores[name] = torch.cat([detector(seen) for seen in own.observations()])
                else:
                    scores[name] = own.values[self._recorded_as[name]]
        return scores

    def score_of(self, readings: Readings) -> Scores:
        """(n,) scores, as `score` gives them, for images that were read earlier; raises as `scores_of` does."""
        scores = self.scores_of(readings)
        if len(scores) == 1:
            return next(iter(scores.values()))
        if not self.calibrations:
            raise NotFitted("Several detectors are fused by their calibrations: call calibrate() first")
        return self._escalated(scores, self._calibrations(), self.doubt)[0]

    def verdict_of(self, readings: Readings) -> Verdict:
        """The verdict on images that were read earlier, together with their logits.

        Raises:
            NotFitted: the monitor is not calibrated.
            Mismatch: as in `scores_of`; or the readings are without logits (`score_of` needs none).
        """
        rate = self._calibrated_rate()
        if "logits" not in readings.values:
            raise Mismatch(
                "A verdict has the network's output in it, and these readings are without logits: read with "
                "logits=True, or use score_of and calibration.flagged"
            )
        return self._verdict(readings.names, readings.values["logits"], self.score_of(readings), rate)

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
        return self._verdict(named, observation.output.detach(), score.detach(), rate, explanation)

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
            escalate=self.escalate,
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
        try:
            monitor = cls(
                backbone, specs, fusion=manifest.fusion, escalate=manifest.escalate, key=key, seed=manifest.seed
            )
            monitor.build(manifest.size, manifest.channels)
        except (ValueError, TypeError, LookupError, RuntimeError) as error:
            said = " ".join(str(error).split())
            raise Mismatch(f"The detectors of '{path}' cannot be made: {said}") from error
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
        others = f"The tensors in '{path}' are not those of its detectors (fit again, or use the inlier that wrote it)"
        if expected != set(tensors):
            odd = sorted(expected ^ set(tensors))[0]
            raise Mismatch(f"{others}: '{odd}' is missing or too much")
        scores = {name: tensors.pop(f"clean.scores.{name}") for name in monitor.detectors}
        folds = tensors.pop("clean.folds")
        monitor.clean = CleanScores(scores, folds, tuple(manifest.names), tuple(manifest.groups), manifest.clean)
        try:
            monitor.load_state_dict(tensors, strict=False)  # the backbone's own tensors are not in the artefact
        except RuntimeError as error:  # of shapes
            said = " ".join(str(error).split())
            raise Mismatch(f"{others}: {said}") from error
        monitor.doubt = monitor._doubt(scores, monitor._calibrations())
        monitor.false_alarm_rate = manifest.false_alarm_rate
        return monitor

    # --- inside -------------------------------------------------------------------------------------------------

    def _detectors(self) -> list[tuple[str, Detector]]:
        return [(name, module) for name, module in self.detectors.items() if isinstance(module, Detector)]

    def _carries_over(self) -> bool:
        return any(detector.carries_over for _, detector in self._detectors())

    def _calibrations(self) -> dict[str, Calibration]:
        return {name: module for name, module in self.calibrations.items() if isinstance(module, Calibration)}

    @property
    def _channels(self) -> int:
        if self.anatomy is None:
            raise NotFitted("The monitor is not fitted: call fit(clean images) first")
        return self.anatomy.channels

    def _calibrated_rate(self) -> float:
        if self.false_alarm_rate is None:
            raise NotFitted("The monitor is not calibrated: call fit(clean images), then calibrate()")
        return self.false_alarm_rate

    def _built(self) -> tuple[Any, ...]:
        return self.anatomy, self.detectors, self._required, self._probe, self._blank, self._recorded_as

    def _read_anomalies(
        self, anomalies: Images | ImageSource | Readings | None, batch_size: int, progress: Progress | None
    ) -> Readings | None:
        if anomalies is None:
            return None
        if not any(detector.learns_from_anomalies for _, detector in self._detectors()):
            raise Mismatch(
                f"Anomalies were given, and none of {', '.join(self.detectors)} learns from them: "
                "leave them out, or add a detector that does"
            )
        if isinstance(anomalies, Readings):
            return self._own(anomalies)
        return self._read(as_source(anomalies), batch_size, progress, "reading anomalies")

    def _readers(self) -> list[Reader]:
        return list(self._required.values())

    def _empty_clean_readings(self, names: Sequence[str]) -> CleanReadings:
        return CleanReadings(names, {reader.name: reader.size for reader in self._readers()})

    def _read(self, source: ImageSource, batch_size: int, progress: Progress | None, phase: str) -> Readings:
        return self.probe.read(source, batch_size=batch_size, progress=progress, phase=phase, also=self._measures())

    def _measures(self) -> dict[str, Callable[[Observation], Tensor]]:
        """What is worked out of images while they are read: measures to learn from; of detectors that learn nothing,
        their scores."""
        measures: dict[str, Callable[[Observation], Tensor]] = {}
        for name, detector in self._detectors():
            measures |= detector.measures if detector.learns else {self._recorded_as[name]: detector}
        return measures

    def _own(self, readings: Readings) -> Readings:
        """What of readings this monitor's detectors need, after it was checked that they are of its making."""
        assert self.anatomy is not None
        if readings.origin is None:
            raise Mismatch("These readings do not say what they were read from; make them with Monitor.read")
        readings.origin.check(Origin.of(self.backbone, self.anatomy, self._readers()))
        values = {reader.name: readings.values[reader.name] for reader in self._readers()}
        for recorded, measure in self._measures().items():
            if recorded in readings.values:
                values[recorded] = readings.values[recorded]
            elif "logits" in readings.values:
                with torch.no_grad():
                    values[recorded] = torch.cat([measure(seen) for seen in readings.observations()])
            else:
                score = recorded.startswith(SCORE)
                what = f"the scores of {recorded.removeprefix(SCORE)}" if score else f"'{recorded}'"
                raise Mismatch(
                    f"The readings hold neither {what} nor logits: read the images again, with this detector among "
                    f"those that are read for{', or with logits' if score else ''}"
                )
        return replace(readings, values=values)

    def _verdict(
        self, names: tuple[str, ...], output: Tensor, score: Scores, rate: float, why: Why | None = None
    ) -> Verdict:
        return Verdict(
            names, output, score, self.calibration.p_value(score), self.calibration.flagged(score, rate), rate, why
        )

    def _fuse(self, scores: Mapping[str, Tensor], calibrations: Mapping[str, Calibration]) -> Scores:
        surprisals = torch.stack([calibrations[name].surprisal(score) for name, score in scores.items()])
        return surprisals.amax(0) if self.fusion == "max" else surprisals.sum(0)

    def _at_once(self) -> dict[str, Detector]:
        """The detectors that need one pass."""
        return {name: detector for name, detector in self._detectors() if detector.passes == 1}

    def _by_looking(self) -> dict[str, Detector]:
        """The detectors that need further passes."""
        return {name: detector for name, detector in self._detectors() if detector.passes > 1}

    def _doubt(self, clean: Mapping[str, Tensor], calibrations: Mapping[str, Calibration]) -> Tensor:
        """The fused surprisal of one pass that a share `escalate` of clean images, with these scores, reaches."""
        if self.escalate is None:
            return torch.tensor(-torch.inf, dtype=torch.float64)
        first = self._fuse({name: clean[name].double() for name in self._at_once()}, calibrations).sort().values
        looked_at = round(self.escalate * len(first))
        return first[len(first) - looked_at] if looked_at else torch.tensor(torch.inf, dtype=torch.float64)

    def _escalated(
        self, scores: Mapping[str, Tensor], calibrations: Mapping[str, Calibration], doubt: Tensor
    ) -> tuple[Scores, Tensor]:
        """The fused scores of images all of whose scores are at hand, and which of them count as looked at again."""
        if self.escalate is None:
            fused = self._fuse(scores, calibrations)
            return fused, torch.ones_like(fused, dtype=torch.bool)
        first = self._fuse({name: scores[name] for name in self._at_once()}, calibrations)
        second = self._fuse({name: scores[name] for name in self._by_looking()}, calibrations)
        again = first >= doubt
        return first.where(~again, torch.maximum(first, second)), again

    def _fused_clean(self, clean: CleanScores, rule: Rule, confidence: float) -> tuple[Scores, Tensor]:
        """What the fused score of clean images is, each fold's surprisals by calibrations made of the other folds; and
        which of the images are looked at again."""
        again = torch.ones(len(clean.names), dtype=torch.bool)
        if len(clean.scores) == 1:
            return next(iter(clean.scores.values())), again
        fused = torch.empty(len(clean.names), dtype=torch.float64)
        for fold in sorted(set(clean.folds.tolist())):
            inside = clean.folds == fold
            outside = {name: scores[~inside] for name, scores in clean.scores.items()}
            others = {name: Calibration(rule, confidence).fit(scores) for name, scores in outside.items()}
            fused[inside], again[inside] = self._escalated(
                {n: s[inside].double() for n, s in clean.scores.items()}, others, self._doubt(outside, others)
            )
        return fused, again

    def _cross_fit(self, readings: Readings, blocks: Blocks, folds: int, progress: Progress | None) -> CleanScores:
        if self._cross_fitted is not None and self._cross_fitted[0] == (blocks, folds):
            return self._cross_fitted[1]
        if blocks == "auto" and len(set(readings.groups)) >= GROUPS and self._carries_over():
            blocks = "group"
        fold, made = folds_of(self._vectors(readings), readings.groups, blocks, folds, readings.memory_limit)
        scores: dict[str, Tensor] = {}
        for name, blank in self._blank.items():
            if not blank.learns:
                scores[name] = readings.values[self._recorded_as[name]]
                continue
            scores[name] = torch.empty(len(readings), dtype=torch.float64)
            numbers = sorted(set(fold.tolist()))
            for done, number in enumerate(numbers):
                detector = copy.deepcopy(blank)
                phase = f"cross-fitting {name} {done + 1}/{len(numbers)}"
                outside, inside = ((part).nonzero()[:, 0] for part in (fold != number, fold == number))
                _fit(detector, readings.subset(outside), self._anomalies, self.seed, _renamed(progress, phase))
                with torch.no_grad():
                    parts = [detector(seen) for seen in readings.subset(inside).observations()]
                scores[name][inside] = torch.cat(parts).double()
        clean = CleanScores(scores, fold, readings.names, readings.groups, f"cross-fitted over {made}")
        self._cross_fitted = ((blocks, folds), clean)
        return clean

    def _held_out(self, readings: Readings, scores: Mapping[str, Tensor], blocks: Blocks, folds: int) -> CleanScores:
        groups = set(readings.groups)
        if len(groups) == 1:
            warnings.warn(
                f"All {len(readings)} held-out images are of one group ({groups.pop()}): the false-alarm rate will "
                "hold for images like them, and may be far off elsewhere. Hold out images of several groups, or "
                "calibrate without held-out images, to cross-fit over those of fit.",
                stacklevel=3,
            )
        if len(scores) == 1:
            fold, made = torch.zeros(len(readings), dtype=torch.long), "as they are"
        else:
            fold, made = folds_of(self._vectors(readings), readings.groups, blocks, folds, readings.memory_limit)
            made = f"fused over {made}"
        doubles = {name: values.double() for name, values in scores.items()}
        return CleanScores(doubles, fold, readings.names, readings.groups, f"held out, {made}")

    def _vectors(self, readings: Readings) -> Tensor | None:
        """What the first reader of vectors kept."""
        values = [readings.values[reader.name] for reader in self._readers()]
        return next((value for value in values if value.ndim == 2), None)

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


FEW, USABLE = 10, 25
"""Below the first number of clean images `fit` warns; from the second on the default monitor is of use."""
GROUPS = 3
"""From so many groups on, whole groups are held out for a detector that carries over: two must be left to fit to."""
LEARNT = ("detectors.", "calibrations.", "calibration.", "clean_readings.")
"""Prefixes of the tensors that an artefact holds."""
SCORE = "score:"
"""Prefix of the readings that are scores of detectors that learn nothing."""


def _fit(
    detector: Detector, readings: Readings, anomalies: Readings | None, seed: int, progress: Progress | None
) -> None:
    fit: Callable[..., Detector] = detector.fit
    more = {"anomalies": anomalies} if detector.learns_from_anomalies else {}
    fit(readings, seed=seed, progress=progress, **more)


def _renamed(progress: Progress | None, phase: str) -> Progress | None:
    return None if progress is None else lambda _, done, total: progress(phase, done, total)
