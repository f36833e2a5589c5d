"""Where readings are from: which network, which images' size, which readers, which key.

Readings outlive the network they were read from. Their origin says what they fit: detectors can be fitted to them, and
monitors made of them, only where the backbone, the readers and the sampling key are the same. The key is not in it,
only what tells it from another one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, Self

import pydantic
from torch import nn

from inlier.anatomy import Anatomy, KeyRing
from inlier.backbones.base import Backbone, Classification, Segmentation
from inlier.errors import Mismatch
from inlier.readers import Reader
from inlier.sampling import SamplingKey
from inlier.spool import raw
from inlier.taps import Place, Shape, Tap
from inlier.types import Images

__all__ = ["AbsentBackbone", "Origin", "key_digest", "reader_digest"]


class Origin(pydantic.BaseModel):
    """What must be the same wherever readings are used."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    backbone: str
    """The backbone's fingerprint."""
    classes: tuple[str, ...]
    dense: bool
    void: str
    size: tuple[int, int]
    """(h, w) of the images; of the first, where there are several."""
    channels: int
    shapes: dict[str, Shape]
    """Of the taps of every leaf module of the backbone, for images of that size."""
    places: tuple[Place, ...] = ()
    """Both sides of all its modules, by which detectors select taps."""
    readers: dict[str, str]
    """By name, what tells a reader from another one of the same name."""
    key: str | None
    """What tells the sampling key from another one; None where there is none."""

    @classmethod
    def of(cls, backbone: Backbone, anatomy: Anatomy, readers: Iterable[Reader]) -> Self:
        """The origin of what these readers read of this backbone."""
        task, key = backbone.task, anatomy.keys.key
        return cls(
            backbone=backbone.fingerprint(),
            classes=task.classes,
            dense=task.is_dense,
            void="" if task.void is None else task.classes[task.void],
            size=anatomy.size,
            channels=anatomy.channels,
            shapes={str(tap): shape for tap, shape in anatomy.shapes.items()},
            places=anatomy.places,
            readers={reader.name: reader_digest(reader) for reader in readers},
            key=None if key is None else key_digest(key),
        )

    def check(self, other: Origin) -> None:
        """Refuse readings from elsewhere: `other` is what is at hand, and all its readers must be in here.

        Raises:
            Mismatch: another backbone, other taps, another key, or a reader that is missing or reads otherwise.
        """
        if self.backbone != other.backbone:
            raise Mismatch(
                f"The readings are of another backbone or preprocessing (fingerprint {self.backbone[:12]}, this one "
                f"{other.backbone[:12]}). Give the backbone they were read from, or read the images again."
            )
        if (self.shapes, self.channels) != (other.shapes, other.channels):
            raise Mismatch("The backbone's taps are not those the readings were made with; read the images again")
        for name, digest in other.readers.items():
            if name not in self.readers:
                raise Mismatch(
                    f"The readings have no '{name}', only {sorted(self.readers)}. "
                    "Read the images again, with all detectors that are to be fitted."
                )
            if self.readers[name] != digest:
                if other.key is not None and self.key != other.key:
                    raise Mismatch(
                        f"'{name}' was read with another sampling key. Give the key the readings were made with, or "
                        "read the images again with this one."
                    )
                raise Mismatch(f"'{name}' was read from other taps or with other settings; read the images again")


class AbsentBackbone(Backbone):
    """Stands for a network that is not here: a monitor can be fitted, calibrated and tried on its readings alone.

    Whatever would run the network raises Mismatch.

    Example:
        >>> backbone = AbsentBackbone(Origin(backbone="0f", classes=("cat", "dog"), dense=False, void="", size=(8, 8),
        ...                                  channels=3, shapes={}, readers={}, key=None))
        >>> backbone.fingerprint()
        '0f'
    """

    def __init__(self, origin: Origin) -> None:
        task = (Segmentation if origin.dense else Classification)(origin.classes, void=origin.void)
        super().__init__(nn.Module(), task)
        self.origin = origin

    def anatomy(self, keys: KeyRing | None = None) -> Anatomy:
        """What a detector's factory may know, as it was when the readings were made."""
        shapes = {Tap.parse(text): shape for text, shape in self.origin.shapes.items()}
        return Anatomy(self.origin.size, self.origin.channels, shapes, keys or KeyRing(), places=self.origin.places)

    def prepare(self, images: Images) -> NoReturn:
        self.refuse()

    def core(self, prepared: Any) -> NoReturn:
        self.refuse()

    def fingerprint(self) -> str:
        """That of the network which is not here."""
        return self.origin.backbone

    def refuse(self) -> NoReturn:
        raise Mismatch("The network is not here, only readings of it: load the backbone to look at images")


def reader_digest(reader: Reader) -> str:
    """A SHA-256 of what a reader keeps: its kind, taps and settings, and where it looks."""
    settings = {name: value for name, value in vars(reader).items() if name[:1] != "_" and name != "training"}
    plain = {name: value for name, value in settings.items() if is_plain(value)}
    told = [type(reader).__name__, [str(tap) for tap in reader.taps], plain]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name, buffer in sorted(reader.named_buffers()):
        digest.update(f"{name} {tuple(buffer.shape)} {buffer.dtype}".encode())
        digest.update(raw(buffer))
    digest.update(raw(reader.origins()))
    return digest.hexdigest()


def is_plain(value: Any) -> bool:
    """Whether JSON holds it."""
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and is_plain(item) for name, item in value.items())
    if isinstance(value, list | tuple):
        return all(is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def key_digest(key: SamplingKey) -> str:
    """What tells one key from another: a SHA-256 of its points and its secret."""
    digest = hashlib.sha256(raw(key.points))
    digest.update(key.secret)
    return digest.hexdigest()
