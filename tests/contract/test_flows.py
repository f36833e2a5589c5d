"""What every form of flow promises: coupling times mixing, on vectors and on the lattice of a key."""

import copy
import re

import pytest
import torch

from inlier.densities.bijections.lattice import Lattice
from inlier.densities.flow import Flow
from inlier.sampling import uniform

KEY = uniform((40, 16, 24), 27, seed=3)
D = len(KEY)
FORMS = {
    f"{coupling}-{mixing}": {"coupling": coupling, "mixing": mixing}
    for coupling in ("affine", "gin")
    for mixing in ("permutation", "lu", "householder", "conv1x1")
}


def flow_of(form, *, blocks=3, seed=0):
    settings = dict(FORMS[form])
    if settings["mixing"] == "conv1x1":
        settings |= {"lattice": Lattice.of(KEY), "width": 12}
    return Flow(D, blocks, seed=seed, **settings)


def rows(n, seed=0):
    """Rows in which points of the key are the more alike the nearer they are; with many scales and offsets."""
    points = KEY.points.double()
    mix = torch.linalg.cholesky((-torch.cdist(points, points) / 20).exp()).float()
    offset = 10 * torch.randn(D, generator=torch.Generator().manual_seed(99))
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(seed))
    return x @ mix.T * torch.logspace(-1, 1, D) + offset


@pytest.fixture(scope="module", params=FORMS)
def form(request):
    return request.param


@pytest.fixture(scope="module")
def fitted(form):
    """Every parameter is away from its start: the identity hides mistakes."""
    return flow_of(form).fit(rows(120), epochs=6, learning_rate=5e-3)


def test_z_is_as_wide_as_x_and_finite_with_one_log_determinant_a_row(fitted):
    z, log_det = fitted(rows(5, seed=1))
    assert z.shape == (5, D)
    assert log_det.shape == (5,)
    assert z.isfinite().all()
    assert log_det.isfinite().all()


@pytest.mark.parametrize("after", ["initialise", "fit"])
def test_gradient_reaches_every_parameter_and_the_input(form, fitted, after):
    flow = copy.deepcopy(fitted) if after == "fit" else flow_of(form).initialise(rows(120))
    x = rows(60, seed=1).requires_grad_()
    flow.loss(x).backward()
    assert [name for name, p in flow.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert (x.grad != 0).any(0).all()


def test_inverse_undoes_forward(fitted):
    x = rows(20, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(fitted.inverse(fitted(x)[0]) / x.std(0), x / x.std(0), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(fitted(fitted.inverse(x / 100))[0], x / 100, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("which", ["plain", "fused"])
def test_log_determinant_is_that_of_the_jacobian(fitted, which):
    flow, x = copy.deepcopy(fitted).double(), rows(3, seed=1).double()
    flow = flow.fused() if which == "fused" else flow
    _, log_det = flow(x)
    jacobians = [torch.autograd.functional.jacobian(lambda row: flow(row[None])[0][0], row) for row in x]
    torch.testing.assert_close(log_det, torch.stack([j.slogdet().logabsdet for j in jacobians]), atol=1e-9, rtol=1e-9)


def test_state_dict_keeps_the_numbers(form, fitted):
    x, loaded = rows(9, seed=1), flow_of(form)
    loaded.load_state_dict(fitted.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(loaded(x)[0], fitted(x)[0])
        assert torch.equal(loaded(x)[1], fitted(x)[1])
        assert torch.equal(loaded.fused()(x)[0], fitted.fused()(x)[0])
    assert loaded.count == 120


def test_seeds_fix_the_fit_and_leave_the_global_state_alone(form):
    x, state = rows(60), torch.random.get_rng_state()
    one, two, other = (flow_of(form, seed=s).fit(x, seed=s, epochs=2) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one(x)[0], two(x)[0])
    assert not torch.equal(one(x)[0], other(x)[0])


def test_a_second_fit_does_not_go_on_from_the_first(form, fitted):
    x, used = rows(60), copy.deepcopy(fitted)
    assert torch.equal(used.fit(x, seed=4, epochs=2)(x)[0], flow_of(form).fit(x, seed=4, epochs=2)(x)[0])


def test_fused_form_is_the_same_map(fitted):
    x = rows(9, seed=1)
    with torch.no_grad():
        (z, log_det), fused = fitted(x), fitted.fused()
        torch.testing.assert_close(fused(x)[0], z, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(fused(x)[1], log_det, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(fused.latent(x), z, atol=1e-4, rtol=1e-5)


def test_fused_form_has_the_same_gradient(fitted):
    gradients = []
    for flow in (copy.deepcopy(fitted).double(), copy.deepcopy(fitted).double().fused()):
        x = rows(5, seed=1).double().requires_grad_()
        z, log_det = flow(x)
        (z.square().sum() + log_det.sum()).backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients, atol=1e-9, rtol=1e-9)


def test_fused_form_outlives_a_later_fit(fitted):
    x, flow = rows(9, seed=1), copy.deepcopy(fitted)
    fused = flow.fused()
    before = fused(x)[0]
    flow.fit(rows(60, seed=5), epochs=2)
    assert torch.equal(fused(x)[0], before)


def test_fused_form_belongs_to_no_state_and_can_be_exported(fitted):
    fused, x = fitted.fused(), rows(4, seed=1)
    assert not fused.state_dict()
    assert not list(fused.parameters())
    with torch.no_grad():
        exported = torch.export.export(fused, (x,))
        torch.testing.assert_close(exported.module()(x), fused(x))
    called = " ".join(str(node.target) for node in exported.graph.nodes if node.op == "call_function")
    assert re.search(r"linalg|tril|triu|solve|inverse|logdet", called) is None


def test_score_of_a_batch_is_the_scores_one_by_one(fitted):
    x = rows(6, seed=1)
    with torch.no_grad():
        one_by_one = torch.cat([fitted.log_prob(row[None]) for row in x])
        torch.testing.assert_close(fitted.log_prob(x), one_by_one, rtol=1e-4, atol=1e-4)
        assert fitted.fused()(x[:0])[0].shape == (0, D)


def test_fit_lowers_the_loss_on_rows_it_has_not_seen(form):
    x, new = rows(1000), rows(500, seed=1)
    initial = flow_of(form).initialise(x)
    flow = flow_of(form).fit(x, epochs=12, learning_rate=5e-3)
    with torch.no_grad():
        assert flow.loss(new) < initial.loss(new) - 0.02


def test_samples_are_finite_and_fixed_by_their_generator(fitted):
    drawn = fitted.sample(50, torch.Generator().manual_seed(0))
    assert drawn.shape == (50, D)
    assert drawn.isfinite().all()
    assert torch.equal(drawn, fitted.sample(50, torch.Generator().manual_seed(0)))


def test_gin_gives_all_rows_the_same_log_determinant(form, fitted):
    _, log_det = fitted(rows(40, seed=1))
    constant = (log_det - log_det[0]).abs().max().item() < 1e-3
    assert constant == form.startswith("gin")


def test_only_the_affine_form_on_permutations_has_its_gradient_by_hand(form):
    assert flow_of(form).by_hand == (form == "affine-permutation")
