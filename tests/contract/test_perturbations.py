"""Every registered perturbation keeps what perturbations promise."""

import pytest

from inlier.perturbations.table import PERTURBATIONS
from inlier.testing.perturbations import check_perturbation


@pytest.mark.parametrize("name", list(PERTURBATIONS))
def test_a_registered_perturbation_keeps_its_promises(name):
    check_perturbation(name)
