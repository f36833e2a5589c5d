"""A folder in which a long job lies: its settings, and the parts that are finished.

Whoever comes back with the same settings goes on there; whoever comes with others is refused, and nothing is lost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from inlier.errors import Mismatch
from inlier.files import PRIVATE, read_tensors, write_bytes, write_tensors

__all__ = ["Workplace"]


class Workplace:
    """The folder of a job.

    Args:
        out: the job's folder.
        settings: everything that its parts depend on, as JSON values.
        job: what it is, with its article, for errors: `an evaluation`.
        file: of the settings, within the folder.

    Raises:
        Mismatch: the folder is of a job with other settings, something else lies in it, or its settings are damaged.
    """

    def __init__(
        self, out: str | Path, settings: Mapping[str, Any], job: str, file: str = "work/settings.json"
    ) -> None:
        self.out = Path(out)
        self.work = (self.out / file).parent
        self.job = job
        self._check(self.out / file, json.loads(json.dumps(settings)))  # as they will be read

    def _check(self, file: Path, told: Mapping[str, Any]) -> None:
        noun = self.job.split()[-1]
        if not file.is_file():
            if self.out.is_dir() and any(self.out.iterdir()):
                raise Mismatch(f"'{self.out}' is not empty and no {noun} was begun in it; give a folder of its own")
            write_bytes(file, json.dumps(told, indent=1).encode())
            return
        try:
            there = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise Mismatch(f"'{file}' is damaged: {error}. Give the {noun} another folder.") from error
        for name in [*told, *there]:
            if told.get(name) != there.get(name):
                raise Mismatch(
                    f"'{self.out}' holds {self.job} with {name} = {json.dumps(there.get(name))[:200]}, and this one "
                    f"has {json.dumps(told.get(name))[:200]}. Give this one another folder, or go on with the settings "
                    "of that."
                )

    def part(
        self,
        name: str,
        make: Callable[[], tuple[Mapping[str, Tensor], Mapping[str, Any]]],
        *,
        wanted: Sequence[str] = (),
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values of a part, from its file if it was finished, else made now and kept.

        Args:
            name: of the part; letters, digits, dots and dashes of it name the file.
            make: called if there is no file, or one without a tensor that is wanted.
            wanted: names of tensors that `make` makes and an earlier run may have left out.
        """
        file = self.work / f"{''.join(c if c.isalnum() or c in '.-' else '_' for c in name)}.safetensors"
        there = read_tensors(file) if file.is_file() else None
        if there is None or not set(wanted) <= set(there[0]):
            made, told = make()
            kept = {key: value.detach().cpu().contiguous() for key, value in made.items()}
            write_tensors(file, kept, {"part": json.dumps(told)}, PRIVATE)
            there = read_tensors(file)
        tensors, metadata = there
        return tensors, dict(json.loads(metadata["part"]))
