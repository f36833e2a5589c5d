"""Shrinkage, distances and log-densities are those of scikit-learn's LedoitWolf."""

import pytest
import torch

from inlier.densities.gaussian import Gaussian

covariance = pytest.importorskip("sklearn.covariance", reason="scikit-learn is not installed: it is in the extra 'dev'")


def rows(n: int, d: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(n)
    return (torch.randn(n, d, generator=g) @ torch.randn(d, d, generator=g) / d**0.5 + 5).double()


@pytest.mark.parametrize(("n", "d"), [(500, 12), (30, 12), (12, 12), (40, 200), (120, 200), (3, 7)])
@pytest.mark.parametrize("batches", ["whole", "streamed"])
def test_gaussian_is_ledoit_wolf_s(n, d, batches):
    x = rows(n, d)
    theirs = covariance.LedoitWolf().fit(x.numpy())
    ours = Gaussian(d, standardise=False).double().fit(x if batches == "whole" else x.split(9))
    new = 3 * rows(n + 20, d)[-20:]
    assert ours.shrinkage.item() == pytest.approx(theirs.shrinkage_, abs=1e-6)
    distance = torch.from_numpy(theirs.mahalanobis(new.numpy()))
    torch.testing.assert_close(ours.mahalanobis(new), distance, rtol=1e-6, atol=1e-6)
    normal = torch.distributions.MultivariateNormal(ours.mean, torch.from_numpy(theirs.covariance_))
    torch.testing.assert_close(ours.log_prob(new), normal.log_prob(new), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("n", "d"), [(500, 12), (40, 200)])
def test_standardised_gaussian_is_ledoit_wolf_s_of_standardised_rows(n, d):
    x = rows(n, d) * torch.logspace(-2, 2, d).double()
    std, mean = torch.std_mean(x, 0, correction=0)
    theirs = covariance.LedoitWolf().fit(((x - mean) / std).numpy())
    distance = torch.from_numpy(theirs.mahalanobis(((x - mean) / std).numpy()))
    ours = Gaussian(d, constant=0.0).double().fit(x)
    torch.testing.assert_close(ours.mahalanobis(x), distance, rtol=1e-6, atol=1e-6)


def test_covariance_is_ledoit_wolf_s():
    x = rows(100, 12)
    whitening = Gaussian(12, standardise=False).double().fit(x).whitening
    theirs = torch.from_numpy(covariance.LedoitWolf().fit(x.numpy()).covariance_)
    torch.testing.assert_close(torch.linalg.inv(whitening.T @ whitening), theirs, rtol=1e-6, atol=1e-6)
