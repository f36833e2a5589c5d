"""Our flow and FrEIA's sequence of AllInOneBlocks are the same map when they have the same weights."""

import warnings

import pytest
import torch
from torch import nn

from inlier.densities.flow import Flow

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
