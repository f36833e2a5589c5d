"""Our flow and FrEIA's blocks are the same map when they have the same weights: affine, GIN, reflections, 1x1."""

import warnings

import pytest
import torch
from torch import nn

from inlier.densities.bijections.coupling import AffineCoupling
from inlier.densities.bijections.lattice import Lattice
from inlier.densities.flow import Flow
from inlier.sampling import uniform

DIM, BLOCKS, WIDTH = 41, 6, 10


def freia_copy(flow: Flow) -> nn.Module:
    """FrEIA's flow with the weights of `flow`, but for its first ActNorm, which FrEIA's order has no place for.

    FrEIA's block is coupling, affine, permutation, so each of our later ActNorms is carried back through the
    permutation before it; FrEIA's last affine is the identity.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("FrEIA", reason="FrEIA is not installed: it is in the extra 'dev'")
        from FrEIA.framework import SequenceINN
        from FrEIA.modules import AllInOneBlock

    def subnet(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, outputs))

    copy = SequenceINN(flow.dim)
    one, zero = torch.ones(flow.dim), torch.zeros(flow.dim)
    affines = [(block.actnorm.log_scale.exp(), block.actnorm.offset) for block in flow.blocks[1:]] + [(one, zero)]
    for block, (scale, offset) in zip(flow.blocks, affines, strict=True):
        copy.append(AllInOneBlock, subnet_constructor=subnet, affine_clamping=block.coupling.clamp)
        theirs, back = copy.module_list[-1], block.permutation.inverse_index
        theirs.subnet[0].load_state_dict(block.coupling.enter.state_dict())
        theirs.subnet[2].load_state_dict(block.coupling.leave.state_dict())
        with torch.no_grad():
            theirs.global_scale.copy_(2 * torch.expm1(5 * scale[back].double()).log())  # undoes 0.1 softplus, beta 0.5
            theirs.global_offset.copy_(offset[back])
            theirs.w_perm.copy_(torch.eye(flow.dim)[block.permutation.index])
            theirs.w_perm_inv.copy_(theirs.w_perm.T)
    return copy


@pytest.fixture(scope="module")
def fitted() -> tuple[Flow, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(80, DIM, generator=g) * torch.linspace(0.5, 2, DIM) + torch.randn(DIM, generator=g)
    return Flow(DIM, BLOCKS, WIDTH).fit(x, epochs=5, learning_rate=2e-3), x


@pytest.mark.parametrize("form", ["plain", "fused"])
def test_latent_and_log_determinant_are_freia_s(fitted, form):
    flow, x = fitted
    first = flow.blocks[0].actnorm
    with torch.no_grad():
        z, log_det = flow(x) if form == "plain" else flow.fused()(x)
        normalised, scaled = first(x)
        their_z, their_log_det = freia_copy(flow)(normalised)
    torch.testing.assert_close(z, their_z, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(log_det, their_log_det + scaled, atol=1e-5, rtol=1e-5)


def test_inverse_is_freia_s(fitted):
    flow, x = fitted
    with torch.no_grad():
        their_x, _ = freia_copy(flow)(x, rev=True)
        torch.testing.assert_close(flow.inverse(x), flow.blocks[0].actnorm.inverse(their_x), atol=1e-5, rtol=1e-5)


def test_parameters_are_as_many_as_freia_s(fitted):
    flow, _ = fitted
    theirs = sum(p.numel() for p in freia_copy(flow).parameters() if p.requires_grad)
    assert theirs == sum(p.numel() for p in flow.parameters())


def subnet_of(width: int):
    def subnet(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))

    return subnet


def modules():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("FrEIA.modules", reason="FrEIA is not installed: it is in the extra 'dev'")


def test_volume_preserving_coupling_is_half_of_freia_s_gin_block():
    """FrEIA's block couples both ways; with a first half that does nothing it is ours."""
    g = torch.Generator().manual_seed(0)
    ours = AffineCoupling(10, 7, 2.0, g, keeps_volume=True)
    theirs = modules().GINCouplingBlock([(10,)], subnet_constructor=subnet_of(7), clamp=2.0, clamp_activation="TANH")
    x = 3 * torch.randn(20, 10, generator=g)
    with torch.no_grad():
        theirs.subnet1[0].load_state_dict(ours.enter.state_dict())
        theirs.subnet1[2].weight.copy_(0.1 * ours.leave.weight)
        theirs.subnet1[2].bias.copy_(0.1 * ours.leave.bias)
        for parameter in theirs.subnet2.parameters():
            parameter.zero_()
        (expected,), _ = theirs([x])
        torch.testing.assert_close(ours(x)[0], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.inverse(expected), x, atol=1e-5, rtol=1e-5)


def test_a_gin_flow_is_freia_s_with_the_scales_of_the_first_actnorm(fitted):
    _, x = fitted
    flow = Flow(DIM, BLOCKS, WIDTH, coupling="gin").fit(x, epochs=5, learning_rate=2e-3)
    blocks = list(flow.blocks)
    with torch.no_grad():
        rows, scaled = blocks[0].actnorm(x)
        for block, following in zip(blocks, [*blocks[1:], None], strict=True):
            theirs = modules().AllInOneBlock([(DIM,)], subnet_constructor=subnet_of(WIDTH), gin_block=True)
            copy_coupling(block, theirs)
            if following is not None:
                theirs.global_offset.copy_(following.actnorm.offset[block.permutation.inverse_index])
            (rows,), change = theirs([rows])
            torch.testing.assert_close(change, torch.zeros(len(x)), atol=1e-4, rtol=0)
        torch.testing.assert_close(flow(x)[0], rows, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(flow(x)[1], scaled, atol=1e-4, rtol=1e-5)


def test_learnt_reflections_are_freia_s():
    flow = Flow(DIM, 1, WIDTH, mixing="householder", reflections=5)
    (block,) = flow.blocks
    theirs = modules().AllInOneBlock([(DIM,)], subnet_constructor=subnet_of(WIDTH), learned_householder_permutation=5)
    x = torch.randn(20, DIM, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        copy_coupling(block, theirs, permute=False)
        theirs.w_0.copy_(torch.eye(DIM)[block.permutation.index])
        theirs.vk_householder.copy_(block.mixing.vectors)
        (expected,), _ = theirs([x])
        torch.testing.assert_close(flow(x)[0], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(flow.fused()(x)[0], expected, atol=1e-5, rtol=1e-5)


def test_blocks_on_a_lattice_are_freia_s_on_images():
    """FrEIA's block on (c, h, w) with a network of 1x1 convolutions; its 1x1 convolution is a fixed permutation."""
    lattice = Lattice.of(uniform((60, 20, 20), 50, seed=0))
    channels, rows, columns = lattice.shape
    flow = Flow(50, 1, width=8, mixing="conv1x1", lattice=lattice)
    (on_lattice,) = flow.blocks
    (block,) = on_lattice.blocks

    def subnet(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, 8, 1), nn.ReLU(), nn.Conv2d(8, outputs, 1))

    theirs = modules().AllInOneBlock([(channels, rows, columns)], subnet_constructor=subnet)
    x = torch.randn(6, 50, generator=torch.Generator().manual_seed(1))

    def laid_out(vectors):
        return vectors[:, lattice.index].view(-1, rows, columns, channels).permute(0, 3, 1, 2)

    with torch.no_grad():
        copy_coupling(block, theirs, shape=(1, 1))
        (expected,), log_det = theirs([laid_out(x)])
        z, our_log_det = flow(x)
        torch.testing.assert_close(laid_out(z), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(our_log_det, log_det, atol=1e-4, rtol=1e-4)


def copy_coupling(block, theirs, *, permute: bool = True, shape: tuple[int, ...] = ()) -> None:
    """Give FrEIA's block the weights of our coupling and permutation; its own scales become one."""
    for number, layer in ((0, block.coupling.enter), (2, block.coupling.leave)):
        theirs.subnet[number].weight.copy_(layer.weight.view(*layer.weight.shape, *shape))
        theirs.subnet[number].bias.copy_(layer.bias)
    theirs.global_scale.fill_(2 * torch.tensor(5.0).double().expm1().log())  # 0.1 softplus of it, beta 0.5, is one
    if permute:
        matrix = torch.eye(len(block.permutation.index))[block.permutation.index]
        theirs.w_perm.copy_(matrix.view(*matrix.shape, *shape))
