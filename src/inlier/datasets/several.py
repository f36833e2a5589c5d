"""Several data sets as one: a drive a folder, say, or what was set aside for training and for validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Int64
from torch import Tensor

from inlier.datasets.base import Dataset
from inlier.datasets.groups import one_group
from inlier.datasets.names import few
from inlier.datasets.pixels import Picture

__all__ = ["Several"]


class Several(Dataset):
    """Data sets one after the other. Groups of one name are one group; labels count if all have the same classes.

    Where nothing in a part tells what belongs together, the part is a group, by the name of its folder.

    Args:
        parts: the data sets, all with the same `size` and `channels`.
        group_by, groups: see `Dataset`; by default the groups are those of the parts.

    Raises:
        ValueError: there is no part; two differ in size or channels, or have an image of one name; or see `Dataset`.
    """

    def __init__(
        self, parts: Sequence[Dataset], *, group_by: str | None = None, groups: str | Path | None = None
    ) -> None:
        if not parts:
            raise ValueError("Several data sets are at least one, and none came")
        forms = {(part.size, part.channels) for part in parts}
        if len(forms) > 1:
            told = ", ".join(f"{channels} channels at size {size}" for size, channels in sorted(forms, key=str))
            raise ValueError(f"Data sets read as one have one size and one number of channels, not {told}")
        ((size, channels),) = forms
        self._found = [(part, place) for part in parts for place in part.places]
        known: dict[str, str] = {}
        for part in parts:
            if twice := [name for name in part.names if name in known]:
                raise ValueError(
                    f"'{known[twice[0]]}' and '{part.where}' have images of the same name, {few(twice)}: give the "
                    "folder that both are in, for names there have the folder in them"
                )
            known |= dict.fromkeys(part.names, part.where)
        own = {
            name: Path(part.where).name if group == one_group(name) else group
            for part in parts
            for name, group in zip(part.names, part.group_names, strict=True)
        }
        classes = {part.classes for part in parts}
        super().__init__(
            tuple(known),
            "', '".join(part.where for part in parts),
            grouping=own.__getitem__,
            group_by=group_by,
            groups=groups,
            size=size,
            channels=channels,
            classes=classes.pop() if len(classes) == 1 else (),
        )

    def picture(self, place: int) -> Picture:
        """What the part has there."""
        part, within = self._found[place]
        return part.picture(within)

    def label(self, place: int) -> Int64[Tensor, "*hw"]:
        """What the part says of it."""
        part, within = self._found[place]
        return part.label(within)
