"""The attack engine: climb objectives under a constraint, one forward and one backward pass a step.

An attack is a constraint, a stepper, a parametrisation and a rule; every published attack is a choice of these (see
`recipes`). What it did, at what price, and how far it got is in its result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inlier.attacks.constraints import Constraint, Parametrisation, Pixels
from inlier.attacks.objectives import (
    Condition,
    Context,
    Objective,
    Point,
    Rule,
    Sum,
    cross_entropy,
    damage,
    most_likely,
    targeted,
)
from inlier.attacks.steppers import Stepper, Where
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
        valid: false where the given labels are void; such pixels count nowhere.
        damage: in [0, 1]. Segmentation: share of valid pixels whose prediction changed. Classification: 1 where the
            class is not the label.
        trace: each objective at each evaluation, of the restart that each image was taken from; what it was when the
            image left goes on to the end.
        path: the L2 and the Linf norm of the change at each evaluation, of the same restart: with the trace of a score
            it is a curve of score over norm at no further cost.
        moves: steps made for each image, over all restarts.
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
    valid: Bool[Tensor, "n *hw"]
    damage: Scores
    trace: Float[Tensor, "objectives evaluations n"]
    path: Mapping[str, Float[Tensor, "evaluations n"]]
    moves: Int[Tensor, " n"]
    seed: int
    config: Mapping[str, Any]
    forwards: int
    backwards: int
    dead_gradients: float

    @property
    def steps(self) -> int:
        """Moves that a restart makes at most; there is one evaluation more."""
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

    def damage_of(self, prediction: LabelMaps) -> Scores:
        """The damage that another prediction would be, such as that on the images rounded to 8 bit."""
        context = Context(0, 0, self.clean, self.before, self.labels, None, self.valid)
        return damage(prediction, context)

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
        stop: images for which it holds are done: they leave the batch, and no further restart is spent on them.
        schedule: stages as (share of the steps, factor of the constraint's radius), of which the last has factor 1:
            an attack may begin in a larger ball (arXiv:2306.12941). Only iterates of the last stage are kept.
    """

    constraint: Constraint
    stepper: Stepper
    steps: int
    parametrisation: Parametrisation = field(default_factory=Pixels)
    rule: Rule = field(default_factory=Sum)
    start: Literal["clean", "random"] = "clean"
    keep: Literal["last", "best"] = "last"
    restarts: int = 1
    stop: Condition | None = None
    schedule: tuple[tuple[float, float], ...] = ((1.0, 1.0),)

    def __post_init__(self) -> None:
        shares, factors = zip(*self.schedule, strict=True)
        if min(shares) <= 0 or min(factors) <= 0 or abs(sum(shares) - 1) > 1e-9 or factors[-1] != 1:
            raise ValueError(
                "A schedule has shares of the steps that add up to 1, with positive factors of which the last is 1, "
                f"not {self.schedule}"
            )
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
            if len(ascent.left) == 0:
                break
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
            parameters, state = ascent.move(point, parameters, state, step)
        return Move(parameters, state, tuple(value.detach() for value in point.values))

    def constraint_at(self, step: int) -> tuple[Constraint, bool]:
        """Where the iterate after so many moves may be, and whether that is the attack's own ball; the start's is."""
        if step == 0:
            return self.constraint, True
        done = 0.0
        for share, factor in self.schedule[:-1]:
            done += share
            if step < round(done * self.steps):
                return self.constraint.scaled(factor), False
        return self.constraint, True


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
        self.paths: list[Tensor] = []
        self.left = torch.arange(len(clean), device=clean.device)  # images that are not done, by their places
        self.moves = torch.zeros(len(clean), dtype=torch.long)
        self.forwards = self.backwards = self.gradients = self.dead = 0

    @property
    def clean_left(self) -> Images:
        """The clean images of those that are not done."""
        return self.clean if len(self.left) == len(self.clean) else self.clean[self.left]

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
        if attack.stop is not None and len(parameters) != len(self.clean):
            raise ValueError("Images cannot leave an attack that has one delta for all of them; leave out `stop`")
        state = State(attack.stepper.init(parameters), attack.rule.init(len(self.clean)))
        trace = torch.full((len(self.objectives), attack.steps + 1, len(self.clean)), torch.nan)
        path = torch.full((2, attack.steps + 1, len(self.clean)), torch.nan)
        if len(self.left) < len(self.clean):
            parameters, state = parameters[self.left], rows_of(state, self.left)
        for step in range(attack.steps + 1):
            last = step == attack.steps
            with torch.set_grad_enabled(not last):
                point = self.evaluate(parameters, step)
                places = self.left.cpu()
                heights = torch.stack([value.detach().float().cpu() for value in point.values])
                trace[:, step:, places] = heights[:, None]  # to the end: what it was when the image left
                path[:, step:, places] = self.norms(point)[:, None].float().cpu()
                done = None
                if attack.stop is not None and attack.constraint_at(step)[1]:
                    done = attack.stop(point.observation, point.context)
                if last or attack.keep == "best":
                    self.consider(point, parameters, restart)
                elif done is not None and done.any():
                    self.consider(point, parameters, restart, done)
                if not last:
                    parameters, state = self.move(point, parameters, state, step)
                    self.moves[places if done is None else places[~done.cpu()]] += 1
            self.forwards += point.observation.passes
            if done is not None and done.any():
                if not last:
                    parameters, state = parameters[~done], rows_of(state, ~done)
                self.left = self.left[~done]
            nobody, steps = len(self.left) == 0, attack.restarts * attack.steps
            if progress is not None and (nobody or not last):
                progress("attack", steps if nobody else restart * attack.steps + step + 1, steps)
            if nobody:
                break
        self.traces.append(trace)
        self.paths.append(path)

    def norms(self, point: Point) -> Float[Tensor, "2 n"]:
        change = (point.observation.images.detach() - self.clean_left).flatten(1)
        # vector_norm takes eight times as long for the maximum on a processor
        return torch.stack([torch.linalg.vector_norm(change, dim=1), change.abs().amax(1)])

    def move(self, point: Point, parameters: Tensor, state: State, step: int) -> tuple[Tensor, State]:
        """From an evaluation at `parameters` to the next ones: direction, step, projection."""
        attack = self.attack
        clean, constraint = self.clean_left, attack.constraint_at(step + 1)[0]

        def project(there: Tensor) -> Tensor:
            return attack.parametrisation.project(there, clean, constraint)

        direction, rule = attack.rule.direction(point, state.rule)
        where = Where(parameters, point.values[0].detach(), project)
        move, stepper = attack.stepper.update(direction, state.stepper, where)
        return project(parameters + move), State(stepper, rule)

    def evaluate(self, parameters: Tensor, step: int) -> Point:
        """The objectives at `parameters`, with a graph where gradients are enabled. The first are the clean images."""
        leaf = parameters.detach().requires_grad_(torch.is_grad_enabled())
        observation = self.probe(self.attack.parametrisation.images(leaf, self.clean_left))
        if self.context is None:
            self.context = self.first_context(observation)
        everybody = len(self.left) == len(self.clean)
        context = replace(self.context if everybody else self.context.subset(self.left), step=step)
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
        if value.shape != (len(self.left),):
            raise ValueError(
                f"An objective returns one value an image, ({len(self.left)},); "
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

    def consider(self, point: Point, parameters: Tensor, restart: int, which: Tensor | None = None) -> None:
        """Keep, image by image, what is better than all before; `which` of the images alone, if not all."""
        if not self.attack.constraint_at(point.context.step)[1]:
            return
        value = point.values[0] if self.better is None else self.value(self.better, point.observation, point.context)
        value = self.attack.parametrisation.pool(value.detach()).nan_to_num(nan=-torch.inf)
        new = _Kept(value, parameters, point.observation.output.detach(), torch.full_like(value, restart).long())
        if self.kept is None:
            self.kept = new if which is None and len(new.value) == len(self.clean) else _Kept.none(new, len(self.clean))
        if which is None and len(new.value) == len(self.clean):
            self.kept = self.kept.improved(new)
            return
        places, rows = (self.left, new) if which is None else (self.left[which], new.rows(which))
        self.kept = self.kept.with_rows(places, self.kept.rows(places).improved(rows))

    def result(self, seed: int) -> AttackResult:
        assert self.context is not None
        assert self.kept is not None
        after = most_likely(self.kept.output)
        images = self.attack.parametrisation.images(self.kept.parameters, self.clean)
        traces, restart = torch.stack(self.traces), self.kept.restart.cpu()

        def chosen(every: Float[Tensor, "restarts k evaluations n"]) -> Float[Tensor, "k evaluations n"]:
            return every[restart, :, :, torch.arange(len(images))].movedim(0, -1)

        return AttackResult(
            images=images,
            clean=self.clean,
            parameters=self.kept.parameters,
            before=self.context.prediction,
            after=after,
            labels=self.context.labels,
            valid=self.context.valid,
            damage=damage(after, self.context),
            trace=chosen(traces),
            path=dict(zip(("L2", "Linf"), chosen(torch.stack(self.paths)), strict=True)),
            moves=self.moves,
            seed=seed,
            config={
                "attack": _describe(self.attack),
                "objectives": [_describe(objective) for objective in self.objectives],
                "better": None if self.better is None else _describe(self.better),
                "targeted": self.target is not None,
                "labels": "own prediction" if self.labels is None else "given",
                "surface": {
                    "images": list(self.clean.shape[1:]),
                    "optimised": list(self.kept.parameters.shape[1:]),
                    "before": "resizing and normalisation",
                },
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

    @classmethod
    def none(cls, like: _Kept, count: int) -> _Kept:
        """Of so many images nothing yet, which anything is better than."""

        def blank(rows: Tensor) -> Tensor:
            return rows.new_zeros((count, *rows.shape[1:]))

        return cls(blank(like.value).fill_(torch.nan), blank(like.parameters), blank(like.output), blank(like.restart))

    def rows(self, which: Tensor) -> _Kept:
        return _Kept(self.value[which], self.parameters[which], self.output[which], self.restart[which])

    def with_rows(self, places: Tensor, new: _Kept) -> _Kept:
        """With others in some places."""
        parts = zip(self.parts(), new.parts(), strict=True)
        return _Kept(*(ours.index_copy(0, places, theirs) for ours, theirs in parts))

    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.value, self.parameters, self.output, self.restart

    def improved(self, new: _Kept) -> _Kept:
        wins = (new.value > self.value) | self.value.isnan()
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


def rows_of(state: Any, which: Tensor) -> Any:
    """Some images' part of a stepper's and a rule's state: rows of tensors, in tuples of any depth."""
    if isinstance(state, State):
        return State(rows_of(state.stepper, which), rows_of(state.rule, which))
    if isinstance(state, Tensor):
        return state[which] if state.ndim else state
    if isinstance(state, tuple):
        parts = [rows_of(part, which) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    return state


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
