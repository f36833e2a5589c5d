"""Things that take several options to say, such as a backbone: each is a dataclass whose fields are the options.

A command names the dataclass as a parameter's type and is decorated with `unpacked`; the command line then shows the
fields as options of their own, and the command gets the dataclass made of them.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_type_hints

import typer

if TYPE_CHECKING:
    from inlier.attacks.constraints import Parametrisation
    from inlier.backbones.base import Backbone
    from inlier.datasets.base import Choice, Dataset
    from inlier.datasets.labels import Labels
    from inlier.observation import Readings

__all__ = ["BackboneArguments", "ImageArguments", "epsilons_from", "height_and_width", "network", "parametrisation_of",
           "typed", "unpacked"]  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True)
class BackboneArguments:
    """Which network, and how images go into it and come out of it."""

    backbone: Annotated[
        str,
        typer.Option(
            metavar="NAME[:WEIGHTS] | MODULE:FACTORY | FOLDER",
            help="The network: a name that `inlier backbones` lists, a function of yours that makes it, or a folder "
            "saved by transformers.",
        ),
    ]
    weights: Annotated[
        str | None, typer.Option(metavar="FILE.safetensors", help="Weights for the network that your function makes.")
    ] = None
    mean: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="Subtracted from each channel of an image in [0, 1].")
    ] = None
    std: Annotated[str | None, typer.Option(metavar="R,G,B", help="Each channel is divided by it.")] = None
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="What the network resizes images to; by default it does not.")
    ] = None
    bgr: Annotated[
        bool | None, typer.Option("--bgr/--rgb", help="The order of channels that the network was trained on.")
    ] = None
    classes: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Names of the network's outputs, in their order.")
    ] = None
    output: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Which of several outputs are the logits: a key, attribute or number."),
    ] = None

    def load(self) -> Backbone:
        """The backbone."""
        from inlier.backbones.load import load_backbone

        return load_backbone(
            self.backbone,
            weights=self.weights,
            mean=_numbers("--mean", self.mean),
            std=_numbers("--std", self.std),
            size=height_and_width("--size", self.size),
            bgr=self.bgr,
            classes=None if self.classes is None else [name.strip() for name in self.classes.split(",")],
            output=self.output,
        )


@dataclass(frozen=True)
class ImageArguments:
    """Which images, how large, and what belongs together."""

    images: Annotated[
        list[str],
        typer.Option(
            metavar="[LAYOUT:]PATH",
            help="A folder of images, nested or not, or a data set in a layout that `inlier datasets` lists; may be "
            "given again. fit, calibrate and score take NAME.readings too.",
        ),
    ]
    resize: Annotated[str | None, typer.Option(metavar="HxW", help="Resize every image to this as it is read.")] = None
    split: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Take only the images in this list, one a line; or a part of an .npz file."),
    ] = None
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="What of an image's name tells its group (drive, site); by default the layout does, or the name up to "
            "the frame number.",
        ),
    ] = None
    groups: Annotated[
        Path | None, typer.Option(metavar="CSV", help="A table with the columns image and group, instead.")
    ] = None

    def open(self, *, labels: Labels | None = None, labelled: bool = False) -> Dataset:
        """The images; with these labels, or with those of the layout if they are wanted."""
        from inlier.datasets.folder import ImageFolder
        from inlier.datasets.load import open_images
        from inlier.datasets.several import Several

        single = len(self.images) == 1
        if self.split is not None and not single:
            raise ValueError(f"--split is of one data set, and --images was given {len(self.images)} times")
        choice: Choice = {"size": height_and_width("--resize", self.resize), "split": self.split}
        if single:
            choice |= {"group_by": self.group_by, "groups": self.groups}
        parts = [
            open_images(images, labelled=labelled, **choice)
            if labels is None
            else ImageFolder(images, labels=labels, **choice)
            for images in self.images
        ]
        return parts[0] if single else Several(parts, group_by=self.group_by, groups=self.groups)

    def saved(self) -> Readings | None:
        """The readings, if these are no images but what `inlier read` made of them."""
        from inlier.observation import Readings
        from inlier.readings_file import READINGS

        if not any(images.endswith(READINGS) for images in self.images):
            return None
        if (self.resize, self.split, self.group_by, self.groups) != (None, None, None, None):
            raise ValueError("Readings are what they are: --resize, --split, --group-by and --groups are for images")
        if len(self.images) > 1:
            raise ValueError("Readings go alone: make one NAME.readings of all images, and give --images once")
        return Readings.load(self.images[0])


def typed(arguments: BackboneArguments | ImageArguments) -> list[str]:
    """The options that were given, as they are typed."""
    words = []
    for field in dataclasses.fields(arguments):
        value = getattr(arguments, field.name)
        if isinstance(value, bool):
            words.append("--bgr" if value else "--rgb")
        elif value is not None:
            option = f"--{field.name.replace('_', '-')}"
            words += [word for one in (value if isinstance(value, list) else [value]) for word in (option, str(one))]
    return words


def network(backbone: BackboneArguments | None, readings: Readings | None) -> Backbone:
    """The backbone, or for readings alone what stands for the one that they were read with."""
    from inlier.origin import AbsentBackbone

    if backbone is not None:
        return backbone.load()
    if readings is None or readings.origin is None:
        raise ValueError("--backbone is needed: only readings (NAME.readings) do without the network")
    return AbsentBackbone(readings.origin)


def unpacked(command: Callable[..., T]) -> Callable[..., T]:
    """The command with the fields of its dataclass parameters as options.

    A parameter that may be None is None when its first option is not given.
    """
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    packs: dict[str, type] = {}
    for parameter in inspect.signature(command).parameters.values():
        hint = hints[parameter.name]
        options = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        pack = next((option for option in options if dataclasses.is_dataclass(option)), None)
        if pack is None:
            parameters.append(parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        assert isinstance(pack, type)
        packs[parameter.name] = pack
        fields = get_type_hints(pack, include_extras=True)
        for position, field in enumerate(dataclasses.fields(pack)):
            default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
            annotation = fields[field.name]
            if position == 0 and len(options) > 1:
                inner, option = get_args(annotation)
                annotation, default = Annotated[inner | None, option], None
            parameters.append(
                inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            )

    @functools.wraps(command)
    def call(**given: Any) -> T:
        made = {name: pack(*values) if (values := _taken(pack, given))[0] else None for name, pack in packs.items()}
        return command(**made, **given)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _taken(pack: type, given: dict[str, Any]) -> list[Any]:
    return [given.pop(field.name) for field in dataclasses.fields(pack)]


def _numbers(option: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} is one number a channel, such as 0.485,0.456,0.406, not {text!r}") from None


def height_and_width(option: str, text: str | None) -> tuple[int, int] | None:
    """`HxW` as numbers; errors name the option."""
    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise ValueError(f"{option} is height x width in pixels, such as 360x480, not {text!r}")
    return int(height), int(width)


def parametrisation_of(
    low_resolution: str | None, patch: str | None, image_size: tuple[int, int]
) -> Parametrisation | None:
    """What an attack moves in images of a size: a smaller copy, `HxW`, or a patch, `HxW` or `HxW+ROW+COLUMN`.

    Raises:
        ValueError: both, not written so, or larger than the image.
    """
    from inlier.attacks.constraints import LowResolution, MaskedPatch

    if low_resolution is not None and patch is not None:
        raise ValueError("Give --low-resolution or --patch, not both")
    small = height_and_width("--low-resolution", low_resolution)
    if small is not None:
        if small[0] > image_size[0] or small[1] > image_size[1]:
            raise ValueError(f"--low-resolution is at most the images' {image_size[0]}x{image_size[1]}, not {small}")
        return LowResolution(small)
    if patch is None:
        return None
    text, *at = patch.split("+")
    size = height_and_width("--patch", text)
    assert size is not None
    if at and not (len(at) == 2 and all(number.isdigit() for number in at)):
        raise ValueError(f"--patch is height x width, with row and column if you like: 64x64+100+200, not {patch!r}")
    return MaskedPatch.rectangle(size, image_size, (int(at[0]), int(at[1])) if at else None)


def epsilons_from(text: str, most: float = 1.0) -> list[float]:
    """Numbers or fractions with commas between them, none above `most`.

    >>> epsilons_from("1/255, 0.02")
    [0.00392156862745098, 0.02]
    """
    found = []
    for part in text.split(","):
        above, slash, below = part.partition("/")
        try:
            value = float(above) / float(below) if slash else float(above)
        except (ValueError, ZeroDivisionError):
            value = 0.0
        if not 0 < value <= most:
            raise ValueError(f"--eps has numbers above 0 and up to {most:g}, such as 1/255,2/255, not '{part.strip()}'")
        found.append(value)
    return found
