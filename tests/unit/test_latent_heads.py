"""The heads are the formulas of DAAIN, section 3.3."""

import pytest
import torch

from inlier.detectors.latent_heads import HBOS, Euclidean, HarmonicMean, LatentMahalanobis
from inlier.errors import NotFitted

HEADS = {
    "euclidean": Euclidean,
    "harmonic": HarmonicMean,
    "mahalanobis": lambda: LatentMahalanobis(12),
    "hbos": lambda: HBOS(12, bins=20),
}


def latents(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 12, generator=torch.Generator().manual_seed(seed))


def test_euclidean_and_harmonic_mean_equal_their_formulas():
    z = torch.tensor([[1.0, 2.0, 4.0]])
    assert Euclidean()(z).item() == pytest.approx(21 / 3)
    assert HarmonicMean()(z).item() == pytest.approx(3 / (1 + 1 / 4 + 1 / 16))


def test_mahalanobis_uses_the_mean_vector():
    z = latents(4000) * torch.linspace(0.5, 2, 12) + torch.arange(12.0)
    head = LatentMahalanobis(12).fit(z)
    assert head(z.mean(0, keepdim=True)).item() == pytest.approx(0, abs=1e-3)
    assert head(z).mean().item() == pytest.approx(12, rel=0.05)


def test_hbos_does_not_tie_what_is_worse_than_the_worst_clean_row():
    z = latents(300)
    head, worse = HBOS(12).fit(z), latents(1, seed=1)
    scores = []
    for i in range(12):
        worse[:, i] = 50.0
        scores.append(head(worse).item())
    beyond = [score for score in scores if score > head(z).max()]
    assert len(beyond) > 3
    assert beyond == sorted(set(beyond))


@pytest.mark.parametrize("name", ["euclidean", "mahalanobis", "hbos"])
def test_farther_latents_score_higher(name):
    head = HEADS[name]().fit(latents(200))
    assert head(latents(50, seed=1) + 4).min() > head(latents(50, seed=2)).max()


@pytest.mark.parametrize("name", HEADS)
def test_gradient_is_finite_and_reaches_every_dimension(name):
    z = latents(5, seed=1).requires_grad_()
    head = HEADS[name]().fit(latents(200))
    head(torch.cat([z, torch.zeros(1, 12)])).sum().backward()
    assert z.grad.isfinite().all()
    assert (z.grad != 0).any(0).all()


@pytest.mark.parametrize("name", HEADS)
def test_score_of_a_batch_is_the_scores_one_by_one(name):
    head, z = HEADS[name]().fit(latents(200)), latents(9, seed=1)
    assert head(z).shape == (9,)
    torch.testing.assert_close(head(z), torch.cat([head(row[None]) for row in z]))


@pytest.mark.parametrize("name", HEADS)
def test_state_dict_keeps_scores(name):
    head, copy, z = HEADS[name]().fit(latents(200)), HEADS[name](), latents(9, seed=1)
    copy.load_state_dict(head.state_dict(), strict=True)
    assert torch.equal(copy(z), head(z))


@pytest.mark.parametrize("name", ["mahalanobis", "hbos"])
def test_use_before_fit_says_so(name):
    with pytest.raises(NotFitted, match="fit"):
        HEADS[name]()(latents(1))


@pytest.mark.parametrize("name", HEADS)
def test_heads_can_be_exported(name):
    head, z = HEADS[name]().fit(latents(200)).eval(), latents(3, seed=1)
    exported = torch.export.export(head, (z,)).module()
    torch.testing.assert_close(exported(z), head(z))
