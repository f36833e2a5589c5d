"""Vision networks that transformers saved: SegFormer, ViT, ResNet and whatever else classifies or segments images.

A folder with `config.json`, safetensors weights and `preprocessor_config.json` has everything: the network, the names
of its classes, and what is done to an image first. It is read offline, and nothing in it is unpickled or run. The
resizing is done as the folder's image processor does it, but in floating point and differentiably.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from safetensors import SafetensorError
from torch import nn

from inlier.backbones.base import Backbone, Classification, Segmentation
from inlier.backbones.outputs import Output
from inlier.backbones.weights import read_weights
from inlier.errors import Mismatch, Unavailable
from inlier.files import write_tensors

__all__ = ["Preprocessing", "from_config", "from_folder", "from_model"]

SEGMENTATION, CLASSIFICATION = "ForSemanticSegmentation", "ForImageClassification"
AUTO = {SEGMENTATION: "AutoModelForSemanticSegmentation", CLASSIFICATION: "AutoModelForImageClassification"}
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
RESAMPLE: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the filters."""

# Fused attention has no second derivative, and an attack on a gradient-based score needs one.
EAGER = {"attn_implementation": "eager", "trust_remote_code": False}

UNCROPPED = 384
"""ConvNeXt's processor, which ResNets use too, crops nothing from this size on."""


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image in [0, 1] before a network sees it; the arguments of `Backbone`."""

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    bgr: bool = False
    size: tuple[int, int] | int | None = None
    crop: tuple[int, int] | None = None
    resample: Literal["bilinear", "bicubic"] = "bilinear"

    @classmethod
    def of(cls, processor: Mapping[str, Any]) -> Preprocessing:
        """What an image processor's settings (`processor.to_dict()`) say.

        A processor computes (255 f x - mean) / std, with f its rescaling factor; here that is (x - m) / s.

        Raises:
            Mismatch: it does something that `Backbone` cannot repeat.
        """
        if processor.get("do_pad"):
            raise Mismatch("The image processor pads images, which inlier does not repeat; give mean, std and size")
        factor = 255 * processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 255.0
        normalises = processor.get("do_normalize", True)
        mean, std = (processor.get(f"image_{name}") if normalises else None for name in ("mean", "std"))
        offset = 1.0 if processor.get("rescale_offset") or processor.get("offset") else 0.0
        resample = 2 if processor.get("resample") is None else int(processor["resample"])
        if resample not in RESAMPLE:
            raise Mismatch(f"The image processor resizes with Pillow's filter {resample}; known are {RESAMPLE}")
        size, crop = _size(processor)
        return cls(
            mean=tuple((value + offset) / factor for value in mean or (0.0,)),
            std=tuple(value / factor for value in std or (1.0,)),
            bgr=bool(processor.get("do_flip_channel_order")),
            size=size,
            crop=crop,
            resample=RESAMPLE[resample],
        )


def from_folder(
    folder: str | Path,
    *,
    weights: str | Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: tuple[int, int] | None = None,
) -> Backbone:
    """The network that `save_pretrained` put into a folder, with the preprocessing of the processor beside it.

    Args:
        folder: holds `config.json`, safetensors weights, and the image processor's settings.
        weights: a safetensors file to load instead, for a folder that holds a config alone.
        mean, std, size: for a folder without an image processor; where there is one, they replace what it says.

    Raises:
        Unavailable: transformers is not installed.
        Mismatch: the folder holds no such network, its weights are pickled or not all there, its processor does what
            cannot be repeated, or there is none and `mean` and `std` are not given.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise Mismatch(f"Folder '{folder}' has no config.json; expected what save_pretrained of transformers writes")
    if weights is None and not any(folder.glob("*.safetensors")):
        pickled = [path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern)]
        raise Mismatch(
            f"Folder '{folder}' holds no safetensors weights. "
            + (
                f"Pickled ones ({', '.join(pickled)}) are not opened: save the model again with its save_pretrained."
                if pickled
                else "Give a file of them: --weights FILE.safetensors."
            )
        )
    transformers = _transformers()
    with _quietly(transformers):
        try:
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise Mismatch(f"The config.json in '{folder}' cannot be used: {error}") from error
        kind = _kind(config)
        factory = getattr(transformers, AUTO[kind])
        preprocessing = _preprocessing_in(folder, transformers)
        model = _with_weights(folder, weights, factory, config)
    if preprocessing is None and (mean is None or std is None):
        raise Mismatch(f"Folder '{folder}' has no {PROCESSORS[0]}: give the mean and std the network was trained with")
    backbone = from_model(model, preprocessing or Preprocessing(size=_trained_size(config)))
    return backbone.adapted(mean=mean, std=std, size=size)


def from_model(model: nn.Module, preprocessing: Preprocessing | None = None) -> Backbone:
    """An instantiated transformers model as a backbone; it is not copied.

    Args:
        model: one whose class name ends in ForImageClassification or ForSemanticSegmentation.
        preprocessing: by default pixels go in as they are, in [0, 1], at the size the config names, if any.

    Raises:
        Mismatch: the model neither classifies nor segments images.
    """
    config: Any = model.config
    labels: Mapping[int, str] = config.id2label
    classes = tuple(labels[index] for index in sorted(labels))
    task = (Segmentation if _kind(config, type(model).__name__) == SEGMENTATION else Classification)(
        classes, select=Output("logits")
    )
    chosen = preprocessing or Preprocessing(size=_trained_size(config))
    return Backbone(
        model,
        task,
        mean=chosen.mean,
        std=chosen.std,
        bgr=chosen.bgr,
        size=chosen.size,
        crop=chosen.crop,
        resample=chosen.resample,
    )


def from_config(config: Any, preprocessing: Preprocessing | None = None) -> Backbone:
    """A network with random weights from a transformers config, as a backbone.

    Args:
        config: its `architectures` names the class, such as `["SegformerForSemanticSegmentation"]`.
        preprocessing: as in `from_model`.

    Raises:
        Unavailable: transformers is not installed.
        Mismatch: the config names no network that classifies or segments images.
    """
    factory = getattr(_transformers(), AUTO[_kind(config)])
    return from_model(factory.from_config(config, **EAGER), preprocessing)


def _transformers() -> Any:
    try:
        return import_module("transformers")
    except ModuleNotFoundError as error:
        raise Unavailable(f"This backbone needs transformers ({error}): pip install 'inlier[transformers]'") from error


def _kind(config: Any, architecture: str | None = None) -> str:
    names = [architecture] if architecture is not None else list(config.architectures or ())
    for name in names:
        for kind in AUTO:
            if name.endswith(kind):
                return kind
    raise Mismatch(
        f"Expected a network whose name ends in {CLASSIFICATION} or {SEGMENTATION}; the config "
        f"({type(config).__name__}) names {', '.join(names) or 'none in its architectures'}"
    )


def _with_weights(folder: Path, weights: str | Path | None, factory: Any, config: Any) -> nn.Module:
    if weights is not None:
        # From a folder again, since only there does the library map a file's names to those of its modules.
        with TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            write_tensors(Path(temporary) / "model.safetensors", read_weights(weights), {"format": "pt"})
            return _loaded(Path(temporary), weights, factory, config)
    return _loaded(folder, folder, factory, config)


def _loaded(folder: Path, place: str | Path, factory: Any, config: Any) -> nn.Module:
    try:
        model, report = factory.from_pretrained(
            folder, config=config, local_files_only=True, use_safetensors=True, output_loading_info=True, **EAGER
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise Mismatch(f"The weights in '{place}' cannot be loaded: {error}") from error
    for what in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if report.get(what):
            named = ", ".join(map(str, sorted(report[what], key=str)[:3]))
            raise Mismatch(f"The weights in '{place}' are not this network's: {len(report[what])} {what} ({named})")
    loaded: nn.Module = model.float()  # half-precision files would make half-precision activations
    return loaded


def _preprocessing_in(folder: Path, transformers: Any) -> Preprocessing | None:
    if not any((folder / name).is_file() for name in PROCESSORS):
        return None
    try:
        # The library's own class knows the defaults of what the file leaves out.
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise Mismatch(f"The image processor in '{folder}' cannot be used: {error}") from error
    # As JSON, so that sizes are plain dicts in every version.
    return Preprocessing.of(json.loads(processor.to_json_string()))


def _size(processor: Mapping[str, Any]) -> tuple[tuple[int, int] | int | None, tuple[int, int] | None]:
    """The size to resize to and the crop after it."""
    crop = None
    if processor.get("do_center_crop"):
        cut = processor.get("crop_size") or processor.get("size")
        crop = (cut["height"], cut["width"]) if isinstance(cut, Mapping) else (int(cut or 0), int(cut or 0))
    if not processor.get("do_resize", True):
        if crop is not None:
            raise Mismatch("The image processor crops images of any size, which inlier does not repeat; give a size")
        return None, None
    size = processor.get("size")
    given = {side for side, value in size.items() if value} if isinstance(size, Mapping) else set()
    if isinstance(size, Mapping) and given == {"height", "width"}:
        return (size["height"], size["width"]), crop
    if isinstance(size, Mapping) and given == {"shortest_edge"}:
        edge = int(size["shortest_edge"])
        if processor.get("crop_pct") is None:
            return edge, crop
        if str(processor.get("image_processor_type", "")).startswith("ConvNext"):
            return (edge, edge) if edge >= UNCROPPED else int(edge / processor["crop_pct"]), (
                None if edge >= UNCROPPED else (edge, edge)
            )
    raise Mismatch(f"The image processor resizes to {size}, which inlier does not repeat; give a size (h, w)")


def _trained_size(config: Any) -> tuple[int, int] | None:
    """The one size that a network with learnt positions takes, such as a ViT."""
    size = getattr(config, "image_size", None)
    if size is None:
        return None
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return int(height), int(width)


@contextmanager
def _quietly(transformers: Any) -> Iterator[None]:
    """Without progress bars and advice on the terminal, and with both as they were afterwards."""
    logs = transformers.utils.logging
    verbosity, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(verbosity)
        if bars:
            logs.enable_progress_bar()
