"""The heads are the formulas of DAAIN, section 3.3."""

import pytest
import torch

from inlier.detectors.latent_heads import HBOS, ClippedHBOS, Euclidean, HarmonicMean, LatentMahalanobis, Logistic
from inlier.errors import NotFitted

HEADS = {
    "euclidean": Euclidean,
    "harmonic": HarmonicMean,
    "mahalanobis": lambda: LatentMahalanobis(12),
    "hbos": lambda: HBOS(12, bins=20),
    "hbos_clipped": lambda: ClippedHBOS(12, bins=20),
    "logistic": lambda: Logistic(12),
}


def latents(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 12, generator=torch.Generator().manual_seed(seed))


def fitted(name: str) -> torch.nn.Module:
    """A head that learnt from clean rows and, where it can, from anomalies on all sides of them."""
    labelled = [4 * latents(40, seed=7)] if name == "logistic" else []
    return HEADS[name]().fit(latents(200), *labelled)


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


@pytest.mark.parametrize("name", ["euclidean", "mahalanobis", "hbos", "logistic"])
def test_farther_latents_score_higher(name):
    head = fitted(name)
    assert head(latents(50, seed=1) + 4).min() > head(latents(50, seed=2)).max()


@pytest.mark.parametrize("name", HEADS)
def test_gradient_is_finite_and_reaches_every_dimension(name):
    z = latents(5, seed=1).requires_grad_()
    head = fitted(name)
    head(torch.cat([z, torch.zeros(1, 12)])).sum().backward()
    assert z.grad.isfinite().all()
    assert (z.grad != 0).any(0).all()


@pytest.mark.parametrize("name", HEADS)
def test_score_of_a_batch_is_the_scores_one_by_one(name):
    head, z = fitted(name), latents(9, seed=1)
    assert head(z).shape == (9,)
    torch.testing.assert_close(head(z), torch.cat([head(row[None]) for row in z]))


@pytest.mark.parametrize("name", HEADS)
def test_state_dict_keeps_scores(name):
    head, copy, z = fitted(name), HEADS[name](), latents(9, seed=1)
    copy.load_state_dict(head.state_dict(), strict=True)
    assert torch.equal(copy(z), head(z))


@pytest.mark.parametrize("name", ["mahalanobis", "hbos", "logistic"])
def test_use_before_fit_says_so(name):
    with pytest.raises(NotFitted, match="fit"):
        HEADS[name]()(latents(1))


@pytest.mark.parametrize("name", HEADS)
def test_heads_can_be_exported(name):
    head, z = fitted(name).eval(), latents(3, seed=1)
    exported = torch.export.export(head, (z,)).module()
    torch.testing.assert_close(exported(z), head(z))


def test_logistic_head_tells_what_was_labelled_from_clean_and_by_its_sign():
    shift = torch.zeros(12)
    shift[3] = 3.0
    head = Logistic(12).fit(latents(200), latents(20, seed=7) + shift)
    clean, odd = head(latents(300, seed=1)), head(latents(300, seed=2) + shift)
    assert (clean < 0).float().mean() > 0.8
    assert (odd > 0).float().mean() > 0.8
    assert (odd[:, None] > clean).float().mean() > 0.95
    assert head.linear.abs().argmax() == 3


def test_logistic_head_minimises_its_objective():
    """The slope is zero where nothing bounds it, and points outwards where a square's weight is at its bound."""
    clean, odd = latents(200).double(), latents(15, seed=7).double() * torch.linspace(0.3, 2, 12)
    head = Logistic(12, penalty=0.1).double().fit(clean, odd)
    both = [torch.cat([z, z.square()], 1) for z in (clean, odd)]
    std, mean = torch.std_mean(both[0], 0, correction=0)
    weights = (torch.cat([head.linear, head.square]) * std).requires_grad_()
    intercept = (head.intercept + torch.cat([head.linear, head.square]) @ mean).requires_grad_()
    logits = [(z - mean) / std @ weights + intercept for z in both]
    loss = (torch.nn.functional.softplus(logits[0]).mean() + torch.nn.functional.softplus(-logits[1]).mean()) / 2
    slopes = torch.autograd.grad(loss + 0.05 * weights.square().sum(), [weights, intercept])
    bound = head.square == 0
    assert bound.any()
    assert (head.square >= 0).all()
    free = torch.cat([slopes[0][:12], slopes[0][12:][~bound], slopes[1][None]])
    torch.testing.assert_close(free, torch.zeros_like(free), atol=1e-5, rtol=0)
    assert (slopes[0][12:][bound] > 0).all()


def test_logistic_head_works_with_more_dimensions_than_rows_and_on_anomalies_far_beyond():
    def draw(n, seed):
        return torch.randn(n, 400, generator=torch.Generator().manual_seed(seed))

    head = Logistic(400).fit(draw(60, 0), torch.cat([1.4 * draw(9, 1), 1e7 * draw(1, 2)]))
    assert head(1.4 * draw(50, 3)).min() > head(draw(50, 4)).max()
    assert head(3 * draw(50, 5)).min() > head(draw(50, 4)).max()  # farther out than anything labelled but one


def test_logistic_head_counts_both_classes_alike_however_many_rows_they_have():
    odd = latents(20, seed=7) + 1
    once, thrice = Logistic(12).fit(latents(200), odd), Logistic(12).fit(latents(200), odd.repeat(3, 1))
    z = latents(9, seed=1)
    torch.testing.assert_close(once(z), thrice(z), atol=1e-3, rtol=1e-3)


def test_few_anomalies_are_learnt_from_with_a_warning():
    with pytest.warns(UserWarning, match="has 3 labelled anomalies; with fewer than 10"):
        head = Logistic(12).fit(latents(200), latents(3, seed=7) + 4)
    assert head(latents(50, seed=1) + 4).min() > head(latents(50, seed=2)).max()


@pytest.mark.parametrize(
    ("clean", "odd", "message"),
    [
        (latents(20), latents(0), r"finite anomalies \(n, 12\) with n > 0; \(0, 12\) came"),
        (latents(20), torch.zeros(20, 5), r"\(20, 5\) came"),
        (torch.full((20, 12), torch.nan), latents(20), "clean rows.*240 of the numbers not finite"),
    ],
)
def test_logistic_head_says_what_is_wrong_with_its_rows(clean, odd, message, unchecked_shapes):
    with pytest.raises(ValueError, match=message):
        Logistic(12).fit(clean, odd)


def test_logistic_head_refuses_a_penalty_that_bounds_nothing():
    with pytest.raises(ValueError, match="penalty must be above 0, not 0"):
        Logistic(12, penalty=0)


def test_clipped_hbos_is_hbos_on_clean_rows_and_ties_beyond_the_worst_of_them():
    clean, far = latents(200), 10 * latents(3, seed=1)
    plain, clipped = HBOS(12).fit(clean), ClippedHBOS(12).fit(clean)
    low, high = plain(clean).min(), plain(clean).max()
    assert torch.allclose(clipped(clean), (plain(clean) - low) / (high - low))
    assert (plain(far) > high).all()
    assert clipped(far).tolist() == [1, 1, 1]


def test_clipped_hbos_refuses_rows_that_all_score_the_same():
    with pytest.raises(ValueError, match="All 4 clean rows score the same"):
        ClippedHBOS(2).fit(torch.tensor([[1.0, 2.0]]).repeat(4, 1))
