"""While the tests run, a tensor that is not what an annotation says is an error; see `typecheck.py`."""

import pytest
import torch
from jaxtyping import TypeCheckError

from inlier.detectors.profile import thinned
from inlier.readers import root_mean_square
from inlier.sampling import SamplingKey


@pytest.mark.parametrize(
    "call",
    [
        lambda: root_mean_square(torch.zeros(2, 3)),
        lambda: thinned(torch.zeros(1, 2, dtype=torch.long)),  # an alias of a shape
        lambda: SamplingKey(torch.zeros(2, 2, dtype=torch.long), (1, 2, 2), "by hand"),  # a field of a data class
    ],
    ids=["shape", "alias", "field"],
)
def test_a_tensor_of_another_shape_or_type_is_refused(call):
    with pytest.raises(TypeCheckError):
        call()
