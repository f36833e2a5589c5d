"""Defects: what is wrong with a published implementation, done on purpose, so that its numbers can be explained.

Nothing here is meant to be used for anything else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inlier.backbones.base import Backbone
from inlier.errors import Mismatch

__all__ = ["DEFECTS", "PerImageBatchNorm", "per_image_batch_norm"]


class PerImageBatchNorm(nn.BatchNorm2d):
    """A batch norm left in training mode and shown one image at a time: the image's own mean and variance, per channel.

    Args:
        norm: whose weight, bias and eps it takes. Its running statistics are dropped, as nothing looks at them, so that
            the network's fingerprint is another one.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, eps=norm.eps, affine=norm.affine, track_running_stats=False)
        self.weight, self.bias = norm.weight, norm.bias
        self.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        """The same for a batch of images as for each of them alone."""
        return F.instance_norm(input, weight=self.weight, bias=self.bias, use_input_stats=True, eps=self.eps)


def per_image_batch_norm(backbone: Backbone) -> Backbone:
    """A copy of the network without eval mode, as the reference implementation of DAAIN runs it, image by image.

    Raises:
        Mismatch: the network has no batch norm, and so not this defect.
    """
    defective = copy.deepcopy(backbone)
    found = [name for name, module in defective.network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    if not found:
        raise Mismatch("The network has no BatchNorm2d, so that the defect 'batch_norm' would change nothing")
    with torch.no_grad():
        for name in found:
            parent, _, own = name.rpartition(".")
            norm = defective.network.get_submodule(name)
            assert isinstance(norm, nn.BatchNorm2d)
            setattr(defective.network.get_submodule(parent), own, PerImageBatchNorm(norm))
    return defective


DEFECTS: Mapping[str, Callable[[Backbone], Backbone]] = {"batch_norm": per_image_batch_norm}
"""By name: batch norms that use the statistics of the image at hand."""
