"""While the tests run, a tensor that is not what an annotation says is an error; see `typecheck.py`."""

import pytest
import torch
from jaxtyping import TypeCheckError

from inlier.detectors.profile import thinned
from inlier.readers import root_mean_square


@pytest.mark.parametrize(
    "call",
    [
        lambda: root_mean_square(torch.zeros(2, 3)),
        lambda: thinned(torch.zeros(1, 2, dtype=torch.long)),  # an alias of a shape
    ],
    ids=["shape", "alias"],
)
def test_a_tensor_of_another_shape_or_type_is_refused(call):
    with pytest.raises(TypeCheckError):
        call()
