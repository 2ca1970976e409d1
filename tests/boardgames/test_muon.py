"""Muon: updates are orthogonal up to the quintic's tolerance, in the directions of the momentum."""

import pytest
import torch

from boardgames.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (3, 24, 64), (2, 64, 24)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_singular_values_end_near_1_and_singular_vectors_stay(shape, scale):
    matrices = scale * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    done = orthogonalise(matrices)
    assert done.shape == matrices.shape
    values = torch.linalg.svdvals(done)
    assert values.min() > 0.6 and values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    rotated = left.mT @ done @ right.mT
    diagonal = rotated.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(rotated, torch.diag_embed(diagonal), rtol=0, atol=1e-4)
    assert (diagonal > 0.6).all()


def test_batches_are_orthogonalised_one_by_one():
    matrices = torch.randn(4, 8, 20, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(orthogonalise(matrices), torch.stack([orthogonalise(m) for m in matrices]))


def test_zero_gradients_move_nothing():
    weight = torch.randn(6, 6, requires_grad=True)
    before = weight.detach().clone()
    weight.grad = torch.zeros_like(weight)
    Muon([weight], lr=0.1).step()
    assert torch.equal(weight.detach(), before)


def test_a_step_is_an_orthogonal_matrix_downhill_of_size_lr():
    weight = torch.zeros(8, 32, requires_grad=True)
    weight.grad = torch.randn(8, 32, generator=torch.Generator().manual_seed(2))
    gradient = weight.grad.clone()
    Muon([weight], lr=0.1).step()
    values = torch.linalg.svdvals(-weight.detach() / 0.1)
    assert values.min() > 0.6 * 2 and values.max() < 1.3 * 2, "the step grows with the root of columns / rows"
    assert (gradient * weight.detach()).sum() < 0


def test_fused_projections_are_treated_as_separate_matrices():
    generator = torch.Generator().manual_seed(3)
    gradients = [torch.randn(8, 8, generator=generator) for _ in range(3)]
    fused = torch.zeros(8, 24, requires_grad=True)
    single = [torch.zeros(8, 8, requires_grad=True) for _ in range(3)]
    one, many = Muon([fused], lr=0.1, pieces=3), Muon(single, lr=0.1)
    for scale in (1.0, -2.0, 3.0):
        fused.grad = torch.cat(gradients, 1) * scale
        for weight, gradient in zip(single, gradients, strict=True):
            weight.grad = gradient * scale
        one.step()
        many.step()
    torch.testing.assert_close(fused.detach(), torch.cat([w.detach() for w in single], 1))


def test_a_closure_is_refused():
    with pytest.raises(ValueError, match="no closure"):
        Muon([torch.zeros(2, 2, requires_grad=True)], lr=0.1).step(lambda: 0.0)
