import numpy as np
import torch

from semid.tokenizers.neural.codebooks import ResidualCodebooks, nearest_centroids


def codebooks_of(*books: list[list[float]], commitment: float = 0.25) -> ResidualCodebooks:
    arrays = [np.array(book, np.float32) for book in books]
    found = ResidualCodebooks(
        [len(book) for book in arrays], arrays[0].shape[1], commitment=commitment, gradient="straight-through"
    )
    found.set(arrays)
    return found


def test_codes_total_and_loss_worked_by_hand() -> None:
    codebooks = codebooks_of([[0, 0], [4, 0]], [[0, 1], [1, 0], [0, 0]])
    latents = torch.tensor([[5.0, 0.5], [0.0, 1.5]], requires_grad=True)
    quantised = codebooks(latents)
    # Residuals: (1, .5) → (1, 0) is nearest; (0, 1.5) → (0, 1).
    assert quantised.codes.tolist() == [[1, 1], [0, 0]]
    torch.testing.assert_close(quantised.total, torch.tensor([[5.0, 0.0], [0.0, 1.0]]))
    # Squared lengths left: level 1: 1.25 and 2.25, level 2: .25 and .25; mean over 2 rows and 2 columns: 1.
    torch.testing.assert_close(quantised.loss, torch.tensor(1.25 * (1.25 + 2.25 + 0.25 + 0.25) / 4))


def test_gradients_reach_latents_and_centroids_as_the_formula_says() -> None:
    codebooks = codebooks_of([[0, 0], [4, 0]], [[0, 1], [1, 0], [0, 0]], commitment=0.5)
    latents = torch.tensor([[5.0, 0.5]], requires_grad=True)
    codebooks(latents).loss.backward()
    # d/dz of β Σ_l mean(r_l²) = β (r_1 + r_2), where r_1 = (1, .5) and r_2 = (0, .5) after their centroids.
    torch.testing.assert_close(latents.grad, 0.5 * torch.tensor([[1.0, 1.0]]))
    first, second = (book.grad for book in codebooks.books)
    torch.testing.assert_close(first, torch.tensor([[0.0, 0.0], [-1.0, -0.5]]))
    torch.testing.assert_close(second, torch.tensor([[0.0, 0.0], [0.0, -0.5], [0.0, 0.0]]))


def test_unused_centroids_restart_on_residuals_and_forget_their_moments() -> None:
    codebooks = codebooks_of([[0, 0], [100, 100], [4, 4], [90, 90]], [[0, 0], [50, 50]])
    optimiser = torch.optim.Adam(codebooks.parameters(), lr=0.0)
    generator = torch.Generator().manual_seed(0)
    latents = torch.tensor([[0.5, 0.0], [4.0, 5.0], [5.0, 4.0]])
    codebooks(latents).loss.backward()
    optimiser.step()
    for book in codebooks.books:
        optimiser.state[book]["exp_avg"] += 1
    assert codebooks.restart(latents, optimiser, generator) == 3
    first, second = (torch.from_numpy(book) for book in codebooks.arrays())
    torch.testing.assert_close(first[[0, 2]], torch.tensor([[0.0, 0.0], [4.0, 4.0]]))
    assert all(any(torch.equal(row, latent) for latent in latents) for row in first[[1, 3]])
    residuals = latents - first[nearest_centroids(latents, first)]
    assert any(torch.equal(second[1], residual) for residual in residuals)
    moments = [optimiser.state[book]["exp_avg"] for book in codebooks.books]
    assert not moments[0][[1, 3]].any()
    assert moments[0][[0, 2]].all()
    assert not moments[1][1].any()


def test_restart_counts_from_the_last_call() -> None:
    codebooks = codebooks_of([[0, 0], [9, 9]])
    optimiser, generator = torch.optim.Adam(codebooks.parameters()), torch.Generator().manual_seed(0)
    codebooks(torch.tensor([[0.0, 0.0], [9.0, 9.0]]))
    assert codebooks.restart(torch.ones(1, 2), optimiser, generator) == 0
    codebooks(torch.tensor([[0.0, 1.0]]))
    assert codebooks.restart(torch.tensor([[7.0, 8.0]]), optimiser, generator) == 1
    np.testing.assert_array_equal(codebooks.arrays()[0], [[0, 0], [7, 8]])


def test_arrays_are_copies() -> None:
    codebooks = codebooks_of([[1, 2]])
    codebooks.arrays()[0][:] = 0
    np.testing.assert_array_equal(codebooks.arrays()[0], [[1, 2]])
