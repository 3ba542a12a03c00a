import torch

from semid.tokenizers.neural.networks import Around, Mlp


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_mlp_is_linear_layers_with_relu_between() -> None:
    mlp = Mlp((3, 5, 4, 2), generator())
    mlp.shift.copy_(torch.tensor([1.0, 2.0, 3.0]))
    inputs = torch.randn(7, 3, generator=generator())
    hidden = inputs - mlp.shift
    weights = [(layer.weight, layer.bias) for layer in mlp.layers]
    for weight, bias in weights[:-1]:
        hidden = (hidden @ weight.T + bias).clamp_min(0)
    torch.testing.assert_close(mlp(inputs), hidden @ weights[-1][0].T + weights[-1][1])
    assert mlp(inputs).detach().std() > 0.1


def test_weights_follow_the_generator_and_leave_the_global_one_alone() -> None:
    before = torch.random.get_rng_state()
    first, second = Mlp((4, 4), generator()), Mlp((4, 4), generator())
    torch.testing.assert_close(first.last.weight, second.last.weight)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_around_starts_as_its_map_alone() -> None:
    inputs = torch.randn(6, 3, generator=generator())
    assert torch.equal(Around(Mlp((3, 8, 3), generator(), zero=True))(inputs), inputs)
    matrix = torch.randn(3, 2, generator=generator())
    torch.testing.assert_close(Around(Mlp((3, 8, 2), generator(), zero=True), matrix)(inputs), inputs @ matrix)
