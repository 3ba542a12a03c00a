import numpy as np
import torch

from semid.tokenizers.neural.gradients import pass_through, rotated, straight_through


def pairs(seed: int, num_rows: int = 6, dim: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    latents, quantised, upstream = torch.randn(3, num_rows, dim, generator=generator, dtype=torch.float64)
    return latents.requires_grad_(), quantised, upstream


def test_straight_through_has_the_value_of_one_and_the_gradient_of_the_other() -> None:
    latents, quantised, upstream = pairs(0)
    passed = straight_through(latents, quantised)
    torch.testing.assert_close(passed, quantised)
    passed.backward(upstream)
    torch.testing.assert_close(latents.grad, upstream)


def test_rotation_carries_the_gradient_by_the_explicit_matrix() -> None:
    """R turns within the plane of the two unit vectors and leaves all else; the gradient is |q|/|z| Rᵀ g."""
    latents, quantised, upstream = pairs(1)
    passed = rotated(latents, quantised)
    torch.testing.assert_close(passed, quantised)
    passed.backward(upstream)
    assert latents.grad is not None
    for row in range(len(quantised)):
        latent, target = latents[row].detach().numpy(), quantised[row].numpy()
        a, b = latent / np.linalg.norm(latent), target / np.linalg.norm(target)
        cosine, across = a @ b, b - (a @ b) * a
        c = across / np.linalg.norm(across)
        sine = np.sqrt(1 - cosine**2)
        plane = np.column_stack([a, c])
        turn = np.array([[cosine, -sine], [sine, cosine]])
        matrix = np.eye(5) + plane @ (turn - np.eye(2)) @ plane.T
        np.testing.assert_allclose(matrix @ a, b, atol=1e-12)
        scale = np.linalg.norm(target) / np.linalg.norm(latent)
        np.testing.assert_allclose(latents.grad[row].numpy(), scale * matrix.T @ upstream[row].numpy(), atol=1e-10)


def test_rotation_without_a_plane_is_straight_through() -> None:
    latents = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 1.0]], requires_grad=True)
    quantised = torch.tensor([[-2.0, -4.0], [1.0, 1.0], [0.0, 0.0]])
    passed = pass_through(latents, quantised, "rotation")
    torch.testing.assert_close(passed, quantised)
    passed.sum().backward()
    assert latents.grad is not None
    assert torch.isfinite(latents.grad).all()
    torch.testing.assert_close(latents.grad[0], torch.ones(2))
    torch.testing.assert_close(latents.grad[2], torch.ones(2))
