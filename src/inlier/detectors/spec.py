"""A detector by name: `daain`, or with settings, `daain(head="euclidean", blocks=8)`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from inlier.anatomy import Anatomy
from inlier.config import call_text, read_call
from inlier.detectors.base import Detector
from inlier.detectors.table import DETECTORS
from inlier.registry import nearest

__all__ = ["DetectorSpec"]


@dataclass(frozen=True)
class DetectorSpec:
    """A name of the table of detectors and settings for its factory."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = inspect.signature(DETECTORS[self.name]).parameters
        for setting in self.settings:
            if setting not in known or setting == "anatomy":
                options = [name for name in known if name != "anatomy"]
                told = nearest(setting, options) if options else "It has none."
                raise ValueError(f"Detector '{self.name}' has no setting '{setting}'. {told}")

    def __str__(self) -> str:
        """The one text for detectors of equal settings, however these were given."""
        return call_text(DETECTORS[self.name], self.name, self.settings)

    @classmethod
    def parse(cls, text: str) -> DetectorSpec:
        """Read `name` or `name(setting=value, ...)`, values being Python literals.

        Raises:
            ValueError: neither form, or an unknown setting.
            LookupError: no such detector.
        """
        return cls(*read_call(text, "A detector"))

    def build(self, anatomy: Anatomy) -> Detector:
        """The unfitted detector for a backbone."""
        return DETECTORS[self.name](anatomy, **self.settings)
