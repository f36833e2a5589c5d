"""Where no bound is in the way, the logistic head is scikit-learn's balanced logistic regression on z and z^2."""

import numpy as np
import pytest
import torch

from inlier.detectors.latent_heads import Logistic

linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed: in the extra 'dev'")


@pytest.mark.parametrize("penalty", [0.01, 1.0])
@pytest.mark.parametrize("anomalies", [12, 400])
def test_log_odds_are_scikit_learn_s(penalty, anomalies):
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(300, 5, generator=generator) + torch.arange(5)
    odd = 3 * torch.randn(anomalies, 5, generator=generator) + torch.arange(5) + 0.5
    new = 2 * torch.randn(50, 5, generator=generator)
    head = Logistic(5, penalty).fit(clean, odd)
    assert (head.square > 0).all(), "a bound would be in the way"

    def features(z):
        return np.hstack([z.double().numpy(), z.double().square().numpy()])

    mean, std = features(clean).mean(0), features(clean).std(0)
    x = (features(torch.cat([clean, odd])) - mean) / std
    theirs = linear_model.LogisticRegression(
        C=1 / (penalty * len(x)), class_weight="balanced", tol=1e-10, max_iter=10_000
    ).fit(x, np.repeat([0, 1], [len(clean), anomalies]))
    expected = theirs.decision_function((features(new) - mean) / std)
    np.testing.assert_allclose(head(new).numpy(), expected, rtol=1e-4, atol=1e-4)
