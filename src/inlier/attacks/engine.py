"""The attack engine: climb objectives under a constraint, one forward and one backward pass a step.

An attack is a constraint, a stepper, a parametrisation and a rule; every published attack is a choice of these (see
`recipes`). What it did, at what price, and how far it got is in its result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inlier.attacks.constraints import Constraint, Parametrisation, Pixels
from inlier.attacks.objectives import Context, Objective, Point, Rule, Sum, cross_entropy, damage, most_likely, targeted
from inlier.attacks.steppers import Stepper
from inlier.backbones.base import Task
from inlier.images import check_images
from inlier.observation import Observation
from inlier.probe import Probe
from inlier.types import Images, LabelMaps, Progress, Scores

__all__ = ["Attack", "AttackResult", "Move", "State"]


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What an attack made of images, and what it cost.

    Args:
        images: attacked, in [0, 1].
        clean: as they were.
        parameters: what was optimised; to go on from here, give it to another attack as `initial`.
        before, after: the model's prediction on the clean and on the attacked images.
        labels: true ones where they were given, else `before`.
        damage: in [0, 1]. Segmentation: share of valid pixels whose prediction changed. Classification: 1 where the
            class is not the label.
        trace: each objective at each evaluation, of the restart that each image was taken from.
        seed: of the random starts.
        config: what was run, as JSON values.
        forwards, backwards: passes through the network for this batch, further looks included.
        dead_gradients: share of gradients, one a backward pass and image, that were all zero or not all finite.
    """

    images: Images
    clean: Images
    parameters: Tensor
    before: LabelMaps
    after: LabelMaps
    labels: LabelMaps
    damage: Scores
    trace: Float[Tensor, "objectives evaluations n"]
    seed: int
    config: Mapping[str, Any]
    forwards: int
    backwards: int
    dead_gradients: float

    @property
    def steps(self) -> int:
        """Moves made; there is one evaluation more."""
        return self.trace.shape[1] - 1

    @property
    def norms(self) -> dict[str, Scores]:
        """The size of each image's change over all values of all channels: how many (L0), and L1, L2, Linf."""
        delta = (self.images - self.clean).flatten(1)
        orders = {"L0": 0.0, "L1": 1.0, "L2": 2.0, "Linf": float("inf")}
        return {name: torch.linalg.vector_norm(delta, order, dim=1) for name, order in orders.items()}

    def success(self, least: float = 0.5) -> Bool[Tensor, " n"]:
        """Whether the damage is at least `least`; for a classifier, whether the class is wrong."""
        return self.damage >= least

    def to_8_bit(self) -> Images:
        """The images as an 8-bit file holds them, still in [0, 1]; a change may exceed eps by half a grey level."""
        return (self.images * 255).round() / 255


@dataclass(frozen=True)
class Attack:
    """`attack(probe, images)` climbs: evaluate, step, project, and once more evaluate where it ended.

    Args:
        constraint: where the attacker may be.
        stepper: how a gradient becomes a move.
        steps: how many moves.
        parametrisation: what is optimised.
        rule: how several objectives become one direction.
        start: the clean images, or a random point that the constraint allows.
        keep: the last iterate, or the best one, the clean images included.
        restarts: random starts; the best end of them is kept for each image.
    """

    constraint: Constraint
    stepper: Stepper
    steps: int
    parametrisation: Parametrisation = field(default_factory=Pixels)
    rule: Rule = field(default_factory=Sum)
    start: Literal["clean", "random"] = "clean"
    keep: Literal["last", "best"] = "last"
    restarts: int = 1

    def __post_init__(self) -> None:
        if self.start not in ("clean", "random") or self.keep not in ("last", "best"):
            raise ValueError(
                f"start is 'clean' or 'random' and keep 'last' or 'best', not {self.start!r}, {self.keep!r}"
            )
        if self.steps < 1 or self.restarts < 1:
            raise ValueError(f"An attack needs at least 1 step and 1 restart, not {self.steps} and {self.restarts}")
        if self.restarts > 1 and self.start == "clean":
            raise ValueError(f"{self.restarts} restarts from the clean images are all the same; set start='random'")

    def __call__(
        self,
        probe: Probe,
        images: Images,
        objectives: Objective | Sequence[Objective] | None = None,
        *,
        labels: LabelMaps | None = None,
        target: int | Tensor | None = None,
        better: Objective | None = None,
        initial: Tensor | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> AttackResult:
        """Attack images; they and the network are left as they are.

        Args:
            probe: with the readers that the objectives need.
            images: in [0, 1], at the size at which they are to be attacked: the backbone resizes them after that.
            objectives: what to raise; by default the cross-entropy to the labels or, with a target, its opposite.
            labels: the truth; by default the model's own prediction. Void pixels of it count nowhere.
            target: what to predict instead: one class, one label map, or a tensor of the prediction's shape.
            better: what the best iterate or restart has most of; by default the first objective.
            initial: parameters to start from instead, such as other images; they are projected first.
            seed: of the random starts.

        Raises:
            ValueError: images, labels or target of a wrong shape or range; an objective that is not one differentiable
                value an image.
        """
        check_images(images)
        if initial is not None and self.start == "random":
            raise ValueError("Start at `initial` or at random, not both; set start='clean' to start at `initial`")
        if better is not None and self.keep == "last" and self.restarts == 1:
            raise ValueError("`better` chooses among iterates or restarts, and this attack keeps the last of one")
        clean = images.detach().to(probe.backbone.mean.device, copy=True)
        generator = torch.Generator().manual_seed(seed)
        ascent = _Ascent(self, probe, clean, _chosen(objectives, target), labels, target, better)
        ways = self.parametrisation
        if self.start == "random" or initial is not None:
            ascent.look_at_clean()
        for restart in range(self.restarts):
            if self.start == "random":
                parameters = ways.draw(clean, self.constraint, generator)
            elif initial is not None:
                parameters = ways.project(initial.detach().to(clean), clean, self.constraint)
            else:
                parameters = ways.start(clean)
            ascent.climb(parameters, restart, progress)
        return ascent.result(seed)

    def move(
        self,
        probe: Probe,
        images: Images,
        objectives: Objective | Sequence[Objective],
        parameters: Tensor,
        state: State | None = None,
        *,
        step: int = 0,
    ) -> Move:
        """One step from `parameters`: evaluate, step, project. For whoever sees other images at every step.

        One forward and one backward pass. None is spent on the images as they came, so that the prediction and the
        labels of the context are those on the attacked ones: raise what does not ask for them.

        Args:
            probe, images, objectives: as of a call.
            parameters: where the step starts.
            state: what the move before returned; None at the first one.
            step: how many moves came before.
        """
        check_images(images)
        ascent = _Ascent(self, probe, images.detach().to(parameters), _chosen(objectives, None), None, None, None)
        if state is None:
            state = State(self.stepper.init(parameters), self.rule.init(len(images)))
        with torch.enable_grad():
            point = ascent.evaluate(parameters, step)
            parameters, state = ascent.move(point, parameters, state)
        return Move(parameters, state, tuple(value.detach() for value in point.values))


@dataclass(frozen=True, eq=False)
class State:
    """What a stepper and a rule remember between moves."""

    stepper: Any
    rule: Any


@dataclass(frozen=True, eq=False)
class Move:
    """One move of an attack.

    Args:
        parameters: after it.
        state: for the next one.
        values: of each objective before it, image by image.
    """

    parameters: Tensor
    state: State
    values: tuple[Scores, ...]


class _Ascent:
    """One call of an attack: what it counts and keeps on its way."""

    def __init__(
        self,
        attack: Attack,
        probe: Probe,
        clean: Images,
        objectives: Sequence[Objective],
        labels: LabelMaps | None,
        target: int | Tensor | None,
        better: Objective | None,
    ) -> None:
        self.attack = attack
        self.probe = probe
        self.clean = clean
        self.objectives = objectives
        self.labels = labels
        self.target = target
        self.better = better
        self.context: Context | None = None
        self.kept: _Kept | None = None
        self.traces: list[Tensor] = []
        self.forwards = self.backwards = self.gradients = self.dead = 0

    def look_at_clean(self) -> None:
        """Evaluate the clean images, for an attack that starts elsewhere."""
        parameters = self.attack.parametrisation.start(self.clean)
        with torch.no_grad():
            point = self.evaluate(parameters, 0)
        if self.attack.keep == "best":
            self.consider(point, parameters, 0)
        self.forwards += point.observation.passes

    def climb(self, parameters: Tensor, restart: int, progress: Progress | None) -> None:
        attack = self.attack
        state = State(attack.stepper.init(parameters), attack.rule.init(len(self.clean)))
        trace = []
        for step in range(attack.steps + 1):
            last = step == attack.steps
            with torch.set_grad_enabled(not last):
                point = self.evaluate(parameters, step)
                if last or attack.keep == "best":
                    self.consider(point, parameters, restart)
                if not last:
                    parameters, state = self.move(point, parameters, state)
            trace.append(torch.stack([value.detach().float() for value in point.values]))
            self.forwards += point.observation.passes
            if not last and progress is not None:
                progress("attack", restart * attack.steps + step + 1, attack.restarts * attack.steps)
        self.traces.append(torch.stack(trace, dim=1))

    def move(self, point: Point, parameters: Tensor, state: State) -> tuple[Tensor, State]:
        """From an evaluation at `parameters` to the next ones: direction, step, projection."""
        attack = self.attack
        direction, rule = attack.rule.direction(point, state.rule)
        move, stepper = attack.stepper.update(direction, state.stepper)
        return attack.parametrisation.project(parameters + move, self.clean, attack.constraint), State(stepper, rule)

    def evaluate(self, parameters: Tensor, step: int) -> Point:
        """The objectives at `parameters`, with a graph where gradients are enabled. The first are the clean images."""
        leaf = parameters.detach().requires_grad_(torch.is_grad_enabled())
        observation = self.probe(self.attack.parametrisation.images(leaf, self.clean))
        if self.context is None:
            self.context = self.first_context(observation)
        context = replace(self.context, step=step)
        values = tuple(self.value(objective, observation, context) for objective in self.objectives)

        def pull(total: Tensor, *, again: bool = False) -> Tensor:
            if not total.requires_grad:
                names = ", ".join(str(_describe(objective)) for objective in self.objectives)
                raise ValueError(f"No gradient leads from {names} to the images; raise something differentiable")
            (gradient,) = torch.autograd.grad(total, leaf, retain_graph=again)
            return self.counted(gradient)

        return Point(observation, context, values, pull)

    def first_context(self, observation: Observation) -> Context:
        prediction = most_likely(observation.output)
        task = self.probe.backbone.task
        labels = prediction if self.labels is None else _like("labels", self.labels, prediction, task)
        target = None if self.target is None else _like("target", self.target, prediction, task)
        valid = torch.ones_like(prediction, dtype=torch.bool)
        if self.labels is not None and task.is_dense and task.void is not None:
            valid = labels != task.void
        return Context(0, self.attack.steps, self.clean, prediction, labels, target, valid)

    def value(self, objective: Objective, observation: Observation, context: Context) -> Scores:
        value = objective(observation, context)
        if value.shape != (len(self.clean),):
            raise ValueError(
                f"An objective returns one value an image, ({len(self.clean)},); "
                f"{_describe(objective)} returned {tuple(value.shape)}"
            )
        return value

    def counted(self, gradient: Tensor) -> Tensor:
        peak = gradient.flatten(1).abs().amax(1)
        finite = peak.isfinite()
        self.backwards += 1
        self.gradients += len(peak)
        self.dead += int((~finite | (peak == 0)).sum())
        return gradient if finite.all() else gradient.nan_to_num(0.0, 0.0, 0.0)

    def consider(self, point: Point, parameters: Tensor, restart: int) -> None:
        """Keep, image by image, what is better than all before."""
        value = point.values[0] if self.better is None else self.value(self.better, point.observation, point.context)
        value = self.attack.parametrisation.pool(value.detach()).nan_to_num(nan=-torch.inf)
        new = _Kept(value, parameters, point.observation.output.detach(), torch.full_like(value, restart).long())
        self.kept = new if self.kept is None else self.kept.improved(new)

    def result(self, seed: int) -> AttackResult:
        assert self.context is not None
        assert self.kept is not None
        after = most_likely(self.kept.output)
        images = self.attack.parametrisation.images(self.kept.parameters, self.clean)
        traces = torch.stack(self.traces)
        return AttackResult(
            images=images,
            clean=self.clean,
            parameters=self.kept.parameters,
            before=self.context.prediction,
            after=after,
            labels=self.context.labels,
            damage=damage(after, self.context),
            trace=traces[self.kept.restart, :, :, torch.arange(len(images))].movedim(0, -1),
            seed=seed,
            config={
                "attack": _describe(self.attack),
                "objectives": [_describe(objective) for objective in self.objectives],
                "better": None if self.better is None else _describe(self.better),
                "targeted": self.target is not None,
                "labels": "own prediction" if self.labels is None else "given",
                "surface": {"images": list(self.clean.shape[1:]), "before": "resizing and normalisation"},
                "seed": seed,
            },
            forwards=self.forwards,
            backwards=self.backwards,
            dead_gradients=self.dead / self.gradients,
        )


@dataclass(frozen=True, eq=False)
class _Kept:
    """The best so far: one value, output and restart an image, and the parameters."""

    value: Tensor
    parameters: Tensor
    output: Tensor
    restart: Tensor

    def improved(self, new: _Kept) -> _Kept:
        wins = new.value > self.value
        if wins.all():
            return new
        if not wins.any():
            return self

        def pick(ours: Tensor, theirs: Tensor) -> Tensor:
            return theirs.where(wins.view(-1, *[1] * (ours.ndim - 1)), ours)

        return _Kept(
            pick(self.value, new.value),
            pick(self.parameters, new.parameters),
            pick(self.output, new.output),
            pick(self.restart, new.restart),
        )


def _chosen(objectives: Objective | Sequence[Objective] | None, target: int | Tensor | None) -> Sequence[Objective]:
    if objectives is None:
        return (cross_entropy if target is None else targeted,)
    if callable(objectives):
        return (objectives,)
    if not objectives:
        raise ValueError("An attack needs at least one objective")
    return tuple(objectives)


def _like(what: str, given: int | Tensor, prediction: LabelMaps, task: Task) -> LabelMaps:
    """Labels in the prediction's shape; a target may be one for all images."""
    labels = torch.as_tensor(given, device=prediction.device)
    single = (torch.Size(), prediction.shape[1:]) if what == "target" else ()
    if labels.shape != prediction.shape and labels.shape not in single:
        raise ValueError(f"The {what} must be of shape {tuple(prediction.shape)}, not {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.min() < 0 or labels.max() >= len(task.classes):
        raise ValueError(
            f"The {what} must be integers from 0 to {len(task.classes) - 1}, not {labels.dtype} from {labels.min()} to "
            f"{labels.max()}; give void pixels the index of the class named void"
        )
    return labels.long().expand_as(prediction)


def _describe(value: Any) -> Any:
    """JSON values that say what something is."""
    if is_dataclass(value) and not isinstance(value, type):
        return {"name": type(value).__name__, **{f.name: _describe(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, tuple):
        return [_describe(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__name__", type(value).__name__)
