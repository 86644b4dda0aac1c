import torch

from validation.prove import digits

CPU = torch.device("cpu")


def test_a_task_is_split_reproducibly_by_its_seed():
    on, again, other = digits.task(3, CPU), digits.task(3, CPU), digits.task(4, CPU)
    assert (len(on.images), len(on.test_images)) == (1200, 597)
    assert torch.equal(on.images, again.images)
    assert not torch.equal(on.images, other.images)


def test_a_selection_of_digits_has_no_others():
    part = digits.task(0, CPU).only(range(5))
    assert set(part.digits.tolist()) == set(part.test_digits.tolist()) == set(range(5))


def test_four_rotations_restore_the_images():
    on = digits.task(0, CPU)
    assert not torch.equal(on.rotated().images, on.images)
    assert torch.equal(on.rotated().rotated().rotated().rotated().images, on.images)


def test_a_network_learns_the_digits():
    torch.manual_seed(0)
    on = digits.task(0, CPU)
    model = digits.network(32, CPU)
    assert digits.accuracy(model, on) < 0.3
    digits.train(model, model.parameters(), on, steps=60, lr=1e-2)
    assert digits.accuracy(model, on) > 0.85


def test_gaussian_weights_have_the_standard_deviation_of_the_uniform_ones():
    torch.manual_seed(0)
    uniform, gaussian = (digits.network(256, CPU, initial)[2].weight for initial in ("uniform", "Gaussian"))
    assert torch.isclose(uniform.std(), gaussian.std(), rtol=0.02)
    assert uniform.abs().max() < 2 * uniform.std() < gaussian.abs().max()
