"""The flow is a bijection with an exact density, and fitting it lowers a held-out loss."""

import math

import pytest
import torch

from inlier.densities.bijections.actnorm import ActNorm
from inlier.densities.bijections.block import Block
from inlier.densities.bijections.coupling import AffineCoupling
from inlier.densities.bijections.householder import Householder
from inlier.densities.bijections.permutation import Permutation
from inlier.densities.bijections.triangular import Triangular
from inlier.densities.flow import Flow
from inlier.densities.flow_gradient import FlowGradient


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    """Rows of one correlated distribution with many scales and offsets."""
    g = torch.Generator().manual_seed(99)
    mix = torch.eye(d) + torch.randn(d, d, generator=g) / math.sqrt(d)
    offset = 10 * torch.randn(d, generator=g)
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return x @ mix * torch.logspace(-1, 1, d) + offset


def triangular(d: int) -> Triangular:
    bijection = Triangular(d)
    bijection.factors.data = torch.randn(d, d, generator=torch.Generator().manual_seed(2)) / 3
    return bijection


def bijections(d: int = 7) -> dict[str, torch.nn.Module]:
    g = torch.Generator().manual_seed(1)
    return {
        "actnorm": ActNorm(d).initialise(rows(50, d)),
        "coupling": AffineCoupling(d, 5, 2.0, g),
        "volume-preserving coupling": AffineCoupling(d, 5, 2.0, g, keeps_volume=True),
        "shift": ActNorm(d, scaled=False).initialise(rows(50, d)),
        "permutation": Permutation(d, g),
        "triangular": triangular(d),
        "householder": Householder(d, 3, g),
        "block": Block(d, 5, 2.0, g),
        "flow": Flow(d, 3, 5).initialise(rows(50, d)),
        "fused": Flow(d, 3, 5).double().initialise(rows(50, d).double()).fused(),
    }


@pytest.mark.parametrize("name", bijections())
def test_log_determinant_is_that_of_the_jacobian(name):
    bijection, x = bijections()[name].double(), rows(4, 7).double()
    _, log_det = bijection(x)
    jacobians = [torch.autograd.functional.jacobian(lambda row: bijection(row[None])[0][0], row) for row in x]
    torch.testing.assert_close(log_det, torch.stack([j.slogdet().logabsdet for j in jacobians]), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", [name for name in bijections() if name != "fused"])
def test_inverse_undoes_forward(name):
    bijection, x = bijections()[name].double(), rows(20, 7).double()
    torch.testing.assert_close(bijection.inverse(bijection(x)[0]), x)
    torch.testing.assert_close(bijection(bijection.inverse(x))[0], x)


def test_actnorm_gives_mean_0_and_deviation_1_and_leaves_constants_finite():
    x = rows(40, 6)
    x = 5 + x / x.std(0) * torch.tensor([1.0, 2, 1, 4, 1, 0.5])
    x[:, 2] = 3.0
    y, _ = ActNorm(6).initialise(x)(x)
    std, mean = torch.std_mean(y, 0, correction=0)
    torch.testing.assert_close(mean, torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(std, torch.tensor([1.0, 1, 0, 1, 1, 1]), atol=1e-4, rtol=0)


def test_constant_dimensions_do_not_grow_from_block_to_block():
    x = rows(60, 20)
    x[:, :8] = 1.0
    moved = x.clone()
    moved[:, :8] += 1.0
    z, log_det = Flow(20, seed=3).initialise(x)(moved)
    assert z.abs().max() < 1e3
    assert log_det.isfinite().all()


def test_parameters_are_as_many_as_in_table_2_of_daain():
    assert sum(p.numel() for p in Flow(1784, blocks=16, width=10).parameters()) == 513_952
    assert sum(p.numel() for p in Flow(1784, blocks=8, width=10).parameters()) == 256_976


def test_density_integrates_to_one():
    flow = Flow(2, blocks=3, width=4).initialise(torch.randn(100, 2, generator=torch.Generator().manual_seed(0)))
    grid = torch.linspace(-9, 9, 601)
    points = torch.cartesian_prod(grid, grid)
    with torch.no_grad():
        mass = flow.log_prob(points).exp().sum() * (grid[1] - grid[0]) ** 2
    assert mass.item() == pytest.approx(1, abs=1e-3)


def test_log_prob_is_the_prior_plus_the_log_determinant():
    flow, x = Flow(6, 2).initialise(rows(30, 6)), rows(5, 6, seed=1)
    z, log_det = flow(x)
    prior = torch.distributions.Normal(0, 1).log_prob(z).sum(1)
    torch.testing.assert_close(flow.log_prob(x), prior + log_det)


def test_gradient_reaches_every_parameter_and_the_input():
    flow, x = Flow(8, 4).initialise(rows(50, 8)), rows(50, 8).requires_grad_()
    flow.loss(x).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in flow.parameters())
    assert (x.grad != 0).any(0).all()


@pytest.mark.parametrize("d", [7, 8])
@pytest.mark.parametrize("n", [1, 5, 16])
def test_gradient_by_hand_is_autograd_s(d, n):
    flow, x = Flow(d, 4, 5).initialise(rows(50, d)).double(), rows(n, d, seed=1).double()
    flow.loss(x).backward()
    expected = {name: parameter.grad.clone() for name, parameter in flow.named_parameters()}
    gradient = FlowGradient(flow.blocks, 16)
    gradient(rows(16, d, seed=2).double())  # nothing of an earlier batch is left
    gradient(x)
    for name, parameter in flow.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-12, rtol=1e-9)


def test_loss_by_hand_is_the_flow_s_for_any_number_of_rows():
    flow, x = Flow(7, 3).initialise(rows(50, 7)).double(), rows(41, 7, seed=1).double()
    assert FlowGradient(flow.blocks, 16).loss(x) == pytest.approx(flow.loss(x).item(), rel=1e-12)


def test_samples_of_a_fitted_flow_have_the_data_s_mean_and_deviation():
    x = rows(400, 6)
    flow = Flow(6, 4).fit(x, epochs=20)
    drawn = flow.sample(4000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(0) / x.std(0), x.mean(0) / x.std(0), atol=0.15, rtol=0)
    torch.testing.assert_close(drawn.std(0) / x.std(0), torch.ones(6), atol=0.15, rtol=0)
    assert torch.equal(drawn, flow.sample(4000, torch.Generator().manual_seed(0)))


def test_fit_lowers_the_loss_on_rows_it_has_not_seen():
    x, new = rows(2000, 8), rows(1000, 8, seed=1)
    initial = Flow(8, 4).initialise(x)
    fitted = Flow(8, 4).fit(x, epochs=40, learning_rate=5e-3)
    with torch.no_grad():
        assert fitted.loss(new) < initial.loss(new) - 0.02


def test_fit_keeps_the_weights_with_the_lowest_validation_loss():
    x = rows(200, 6)
    held_out = x[torch.randperm(200, generator=torch.Generator().manual_seed(5))][:40]
    losses, flow = [], Flow(6, 3)

    def watch(*_: object) -> None:
        with torch.no_grad():
            losses.append(flow.loss(held_out).item())

    flow.fit(x, seed=5, epochs=200, learning_rate=5e-3, progress=watch)
    assert len(losses) < 200, "it should have stopped early"
    with torch.no_grad():
        assert flow.loss(held_out).item() == pytest.approx(min(losses), abs=1e-6)
    assert 0 < losses.index(min(losses)) < len(losses) - 1


def test_equal_seeds_give_equal_flows_and_leave_the_global_state_alone():
    x = rows(40, 6)
    state = torch.random.get_rng_state()
    one, two, other = (Flow(6, 3, seed=s).fit(x, seed=s, epochs=3) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one(x)[0], two(x)[0])
    assert not torch.equal(one(x)[0], other(x)[0])


def test_a_second_fit_does_not_go_on_from_the_first():
    x, flow = rows(40, 6), Flow(6, 3)
    flow.fit(rows(90, 6, seed=3), seed=2, epochs=5)
    torch.testing.assert_close(flow.fit(x, epochs=3)(x), Flow(6, 3).fit(x, epochs=3)(x), rtol=0, atol=0)


def test_state_dict_keeps_the_numbers_and_the_count():
    x = rows(40, 6)
    flow = Flow(6, 3, seed=1).fit(x, epochs=2)
    copy = Flow(6, 3, seed=2)
    copy.load_state_dict(flow.state_dict(), strict=True)
    assert torch.equal(copy(x)[0], flow(x)[0])
    assert torch.equal(copy.inverse(x), flow.inverse(x))
    assert copy.count == 40


def test_score_of_a_batch_is_the_scores_one_by_one():
    flow, x = Flow(30).fit(rows(50, 30), epochs=2), rows(9, 30, seed=1)
    torch.testing.assert_close(flow.log_prob(x), torch.cat([flow.log_prob(row[None]) for row in x]))


def test_inverse_and_fused_form_agree_at_full_size_after_fit():
    x, new = rows(40, 1784), rows(3, 1784, seed=1)
    flow = Flow(1784).fit(x, epochs=2)
    with torch.no_grad():
        z, log_det = flow(new)
        torch.testing.assert_close(flow.inverse(z), new, atol=1e-4, rtol=1e-5)
        fused_z, fused_log_det = flow.fused()(new)
    torch.testing.assert_close(fused_z, z, atol=1e-5 * z.abs().max().item(), rtol=0)  # float32 after 16 blocks
    torch.testing.assert_close(fused_log_det, log_det, atol=1e-5, rtol=1e-5)


def test_fused_form_has_the_same_gradient():
    flow, x = Flow(9, 4).fit(rows(50, 9), epochs=3), rows(5, 9)
    gradients = []
    for form in (flow, flow.fused()):
        y = x.clone().requires_grad_()
        z, log_det = form(y)
        (z.square().sum() + log_det.sum()).backward()
        gradients.append(y.grad)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-4)


def test_fused_form_can_be_exported():
    x = rows(50, 9)
    fused = Flow(9, 3).initialise(x).fused()
    exported = torch.export.export(fused, (x,)).module()
    torch.testing.assert_close(exported(x), fused(x))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.randn(4, 6), "at least 5 rows"),
        (torch.randn(9, 5), r"\(n, 6\)"),
        (torch.full((9, 6), torch.nan), "9 of 9 rows are not finite"),
    ],
)
def test_fit_says_what_is_wrong_with_its_rows(x, message):
    with pytest.raises(ValueError, match=message):
        Flow(6, 2).fit(x)


def test_five_rows_are_enough():
    assert Flow(6, 2).fit(rows(5, 6), epochs=3).loss(rows(5, 6)).isfinite()


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="at least 1 block"):
        Flow(6, blocks=0)
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        Flow(1)
    with pytest.raises(ValueError, match="at least 1 of them, not 0"):
        Flow(6, mixing="householder", reflections=0)


def test_gin_s_scales_multiply_to_one_in_every_row_and_differ():
    x = rows(20, 9)
    coupling = AffineCoupling(9, 5, 2.0, torch.Generator().manual_seed(0), keeps_volume=True)
    y, log_det = coupling(x)
    _, shift = coupling._affine(x[:, :5])
    scales = (y[:, 5:] - shift) / x[:, 5:]
    torch.testing.assert_close(scales.prod(1), torch.ones(20), atol=1e-4, rtol=1e-4)
    assert (scales - 1).abs().max() > 0.1
    torch.testing.assert_close(log_det, torch.zeros(20), atol=1e-6, rtol=0)


def test_reflections_keep_lengths_and_factors_are_their_product():
    householder, x = Householder(9, 4, torch.Generator().manual_seed(0)), rows(20, 9)
    y, _ = householder(x)
    torch.testing.assert_close(y.norm(dim=1), x.norm(dim=1))
    into, out = householder.factors()
    torch.testing.assert_close(x - x @ into.T @ out, y, atol=1e-5, rtol=1e-5)


def test_as_many_reflections_as_dimensions_make_any_rotation():
    target = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1)))[0]
    # Each reflection brings one more column of what is left to where it belongs.
    householder, left = Householder(5, 5, torch.Generator().manual_seed(0)), target.clone()
    for number in range(5):
        vector = left[:, number] - torch.eye(5)[number]
        vector = vector if vector.norm() > 1e-5 else torch.eye(5)[4]
        householder.vectors.data[number] = vector
        left = left - 2 * torch.outer(vector, vector @ left) / vector.dot(vector)
    made, _ = householder(torch.eye(5))
    torch.testing.assert_close((made.T @ torch.diag(left.diagonal())), target, atol=1e-5, rtol=0)


def test_a_fresh_linear_map_is_the_identity_and_matrix_is_the_map():
    x, bijection = rows(20, 7), triangular(7)
    assert torch.equal(Triangular(7)(x)[0], x)
    torch.testing.assert_close(x @ bijection.matrix().T, bijection(x)[0], atol=1e-4, rtol=1e-4)


def test_forms_have_the_parameters_that_are_said_of_them():
    base = sum(p.numel() for p in Flow(50, 4).parameters())
    assert sum(p.numel() for p in Flow(50, 4, mixing="householder").parameters()) == base + 4 * 8 * 50
    assert sum(p.numel() for p in Flow(50, 4, mixing="lu").parameters()) == base + 4 * 50 * 50
    assert sum(p.numel() for p in Flow(50, 4, coupling="gin").parameters()) == base - 3 * 50  # one ActNorm has scales


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixing": "househodler"}, "permutation, lu, householder or conv1x1. Did you mean 'householder'"),
        ({"coupling": "giin"}, "coupling must be affine or gin. Did you mean 'gin'"),
        ({"mixing": "conv1x1"}, "needs the lattice of a sampling key"),
    ],
)
def test_an_unknown_or_impossible_form_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Flow(6, 2, **settings)


def test_rows_are_read_in_parts_where_there_are_many(monkeypatch):
    x = rows(300, 6)
    whole = Flow(6, 2).fit(x, epochs=3)
    taken = []
    read = torch.Tensor.__getitem__
    monkeypatch.setattr("inlier.densities.flow.CHUNK", 6 * 20)
    monkeypatch.setattr(
        torch.Tensor, "__getitem__", lambda self, index: taken.append((self, index)) or read(self, index)
    )
    in_parts = Flow(6, 2).fit(x, epochs=3, batch_size=16)
    monkeypatch.undo()
    sizes = [len(index) for tensor, index in taken if tensor.shape == x.shape and isinstance(index, torch.Tensor)]
    assert 0 < max(sizes) <= 20
    with torch.no_grad():
        assert in_parts.loss(x) == pytest.approx(whole.loss(x).item(), abs=0.2)
