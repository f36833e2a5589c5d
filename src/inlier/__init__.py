"""inlier: know, at run time, when a trained vision model should not be believed.

A monitor is a probe, a detector and a calibration. An attack is an objective, a constraint and a stepper. Both see the
network through the same observation.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inlier.backbones.base import Backbone, Classification, Segmentation
    from inlier.calibration import Calibration
    from inlier.monitor import Monitor
    from inlier.probe import Probe
    from inlier.verdict import Verdict

__all__ = ["Backbone", "Calibration", "Classification", "Monitor", "Probe", "Segmentation", "Verdict"]

_HOMES = {
    "Backbone": "inlier.backbones.base",
    "Classification": "inlier.backbones.base",
    "Segmentation": "inlier.backbones.base",
    "Calibration": "inlier.calibration",
    "Monitor": "inlier.monitor",
    "Probe": "inlier.probe",
    "Verdict": "inlier.verdict",
}


def __getattr__(name: str) -> Any:
    # PyTorch takes over a second to import; the command line's help must not wait for it.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'inlier' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
