"""The probe: a backbone with readers in it. One forward pass makes an observation.

Hooks are set for the forward pass alone and removed after it, also when the model raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from inlier.backbones.base import Backbone
from inlier.errors import Mismatch
from inlier.images import ImageSource, as_source, check_images
from inlier.observation import Look, Observation, Readings
from inlier.origin import Origin
from inlier.readers import Reader
from inlier.readings_file import Unfinished
from inlier.spool import MEMORY_LIMIT, Spool
from inlier.taps import Listener, Tap
from inlier.types import Images, Logits, Progress

__all__ = ["Probe", "united"]


class Probe(nn.Module):
    """`probe(images)` observes images through a backbone and readers.

    Args:
        backbone: not copied, and left as it was after every pass.
        readers: what to keep; a reader given twice is read once, two different ones of one name are refused. Given by
            names, readings have these instead of the readers' own.
    """

    def __init__(self, backbone: Backbone, readers: Sequence[Reader] | Mapping[str, Reader] = ()) -> None:
        super().__init__()
        unique = dict(readers) if isinstance(readers, Mapping) else united(readers)
        self.backbone = backbone
        self.readers = nn.ModuleDict(unique)
        self._image_sizes = {reader.image_size for reader in unique.values() if reader.image_size is not None}
        self._spans: dict[str, slice] = {}  # where what each reader keeps of its taps lies in the listener's list
        keeps: list[tuple[Tap, Callable[[Tensor], Tensor]]] = []
        for name, reader in unique.items():
            self._spans[name] = slice(len(keeps), len(keeps) + len(reader.taps))
            keeps += [(tap, reader.keeper(position)) for position, tap in enumerate(reader.taps)]
        self._listener = Listener(backbone, keeps)

    def forward(self, images: Images) -> Observation:
        """Observe images in [0, 1]; the forward pass runs when something of it is first asked for."""
        return Live(self, images, _Memory())

    def pass_through(self, images: Images) -> tuple[Logits, dict[str, Tensor]]:
        """One forward pass: logits and what each reader kept.

        Raises:
            Mismatch: a key was drawn for images of another size, or nothing came past a tap.
        """
        size = (images.shape[-2], images.shape[-1])
        for wanted in self._image_sizes - {size}:  # tapped shapes alone may coincide: strides round
            raise Mismatch(
                f"The key was drawn for images of {wanted[0]} x {wanted[1]} (h x w), and images of {size[0]} x "
                f"{size[1]} came. Resize the images, or draw a key for their size."
            )
        with self._listener.listening() as kept:
            output = self.backbone(images)
        readings = {}
        for name, span in self._spans.items():
            reader = self.readers[name]
            assert isinstance(reader, Reader)
            pieces = [piece for piece in kept[span] if piece is not None]
            if len(pieces) < len(reader.taps):
                missing = [str(tap) for tap, piece in zip(reader.taps, kept[span], strict=True) if piece is None]
                raise Mismatch(f"No activation came past {', '.join(missing)}: the forward pass does not run there")
            readings[name] = reader.combine(pieces)
        return output, readings

    def read(
        self,
        images: Images | ImageSource,
        *,
        also: Mapping[str, Callable[[Observation], Tensor]] | None = None,
        batch_size: int = 8,
        progress: Progress | None = None,
        phase: str = "reading",
        origin: Origin | None = None,
        store: str | Path | None = None,
        memory_limit: int = MEMORY_LIMIT,
    ) -> Readings:
        """The readings of a data set, one forward pass an image, without gradients.

        Classes of images are kept as labels where the source knows them; label maps of pixels are not.

        Args:
            images: of a tensor or a source.
            also: names further tensors (n, ...) to work out of each observation while its images are at hand, and to
                keep.
            batch_size: images a forward pass.
            progress, phase: told of every batch.
            origin: what is read from; kept with the readings, which can then be saved.
            store: a file to write the readings to and to map them from. What a kill leaves behind is gone on with when
                the same is read again; images are told apart by their names. By default readings beyond
                `memory_limit` bytes are mapped from temporary files, which vanish with them.
            memory_limit: bytes of readings to hold in memory, if they are not stored.

        Raises:
            ValueError: there are no images, or such as no camera delivers.
            Mismatch: a store without an origin; readings of one image are of another shape than those of the first.
        """
        source = as_source(images)
        if store is not None and origin is None:
            raise Mismatch("A file of readings says what they were read from: give an origin, or use Monitor.read")
        spool = Spool(memory_limit)
        unfinished = None
        if store is not None and origin is not None:
            unfinished = Unfinished(Path(store), f"{origin.model_dump_json()} {sorted(also or {})}")
        names: list[str] = []
        groups: list[str] = []
        classes: list[Tensor] = []
        for batch in source.batches(batch_size):
            check_images(batch.images)
            if unfinished is None:
                spool.add(self._values(batch.images, also or {}))
            elif not unfinished.holds(batch.names):
                unfinished.add(self._values(batch.images, also or {}), batch.names)
            names += batch.names
            groups += batch.groups
            if batch.labels is not None and batch.labels.ndim == 1:
                classes.append(batch.labels)
            if progress is not None:
                progress(phase, len(names), len(source))
        if not names:
            raise ValueError("There are no images to read")
        labels = torch.cat(classes) if sum(map(len, classes)) == len(names) else None
        if unfinished is not None and origin is not None:
            unfinished.finish(names, groups, labels, origin)
            return Readings.load(unfinished.path, verify=False, memory_limit=memory_limit)
        return Readings(spool.tensors(), tuple(names), tuple(groups), labels, origin, memory_limit)

    @torch.no_grad()
    def _values(self, images: Images, also: Mapping[str, Callable[[Observation], Tensor]]) -> dict[str, Tensor]:
        observation = self(images.to(self.backbone.mean.device))
        return {**observation.readings, **{name: of(observation) for name, of in also.items()}}

    def _readers(self) -> list[tuple[str, Reader]]:
        return [(name, reader) for name, reader in self.readers.items() if isinstance(reader, Reader)]


def united(readers: Iterable[Reader]) -> dict[str, Reader]:
    """Readers by name, each once.

    Raises:
        ValueError: two different readers of one name.
    """
    unique: dict[str, Reader] = {}
    for reader in readers:
        if unique.setdefault(reader.name, reader) is not reader:
            raise ValueError(f"Two different readers are named '{reader.name}'; give one of them another name")
    return unique


class _Memory:
    """What an observation and its further looks share."""

    def __init__(self) -> None:
        self.passes = 0


class Live(Observation):
    """An observation whose network is at hand."""

    def __init__(
        self,
        probe: Probe,
        images: Images,
        memory: _Memory,
        look: Look | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self._probe = probe
        self._images = images
        self._memory = memory
        self._look = look or Look()
        self._generator = generator
        self._seen: tuple[Logits, dict[str, Tensor]] | None = None
        self._looks: dict[Look, Live] = {}

    @property
    def images(self) -> Images:
        return self._images

    @property
    def output(self) -> Logits:
        return self._see()[0]

    @property
    def readings(self) -> Mapping[str, Tensor]:
        return self._see()[1]

    @property
    def passes(self) -> int:
        return self._memory.passes

    def look(self, look: Look, generator: torch.Generator | None = None) -> Observation:
        if generator is None and look in self._looks:
            return self._looks[look]
        seen = Live(self._probe, look.images(self._images, generator), self._memory, look, generator)
        if generator is None:
            self._looks[look] = seen
        return seen

    def subset(self, indices: Tensor) -> Observation:
        if self._generator is not None:
            raise Mismatch("A random look cannot be divided: look at the subset, with the generator")
        part = Live(self._probe, self._images[indices], self._memory, self._look)
        if self._seen is not None:
            output, readings = self._seen
            part._seen = output[indices], {name: value[indices] for name, value in readings.items()}
        return part

    def gradient(self, of: Callable[[Observation], Tensor], *, create_graph: bool = False) -> Images:
        with torch.enable_grad():
            observed = self
            if not self._images.requires_grad or (self._seen is not None and not self._seen[0].requires_grad):
                images = self._images.detach().requires_grad_()
                observed = Live(self._probe, images, self._memory, self._look, self._generator)
            # What was seen with gradients stays usable: its graph is kept as long as this observation.
            keep = create_graph or observed is self
            (gradient,) = torch.autograd.grad(
                of(observed).sum(), observed.images, retain_graph=keep, create_graph=create_graph
            )
        if self._seen is None and observed._seen is not None:  # what was seen on the way is not looked at again
            output, readings = observed._seen
            self._seen = output.detach(), {name: value.detach() for name, value in readings.items()}
        return gradient

    def _see(self) -> tuple[Logits, dict[str, Tensor]]:
        if self._seen is None:
            self._memory.passes += 1
            with self._look.network(self._probe.backbone, self._generator):
                self._seen = self._probe.pass_through(self._images)
        return self._seen
