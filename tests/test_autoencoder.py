"""Masks of one pattern have latents near each other, and everything about an autoencoder happens twice the same."""

import json

import numpy as np
import pytest
import torch

from precompute import autoencoder
from precompute.autoencoder import Autoencoder, encode, num_parameters, square_size, train, training_sample
from precompute.layout import layout

CPU = torch.device("cpu")
GRID = (6, 7)
PATCHES = 42


def planted_masks(images, noise, seed=0):
    """Packed masks of five patterns on the grid, so many images of each, and the pattern of each mask.

    Itself, the patch to the right, the one below, two above, and a block that is elsewhere in each image. Exactly 1 %
    of a mask are ones; a share `noise` of them is anywhere.
    """
    rng = np.random.default_rng(seed)
    y, x = np.divmod(np.arange(PATCHES), GRID[1])
    down, right = y - y[:, None], x - x[:, None]  # (query, key)
    ones = int(np.ceil(0.01 * PATCHES**2))
    masks, patterns = [], []
    for _ in range(images):
        centre = rng.integers(GRID[0]), rng.integers(GRID[1])
        block = (abs(y - centre[0]) < 2) & (abs(x - centre[1]) < 2)
        steps = [(down == dy) & (right == dx) for dy, dx in ((0, 0), (0, 1), (1, 0), (-2, 0))]
        for pattern, where in enumerate([*steps, np.broadcast_to(block, down.shape)]):
            mask = np.zeros(PATCHES**2, dtype=bool)
            mask[rng.choice(np.flatnonzero(where), round(ones * (1 - noise)), replace=False)] = True
            mask[rng.choice(np.flatnonzero(~mask), ones - mask.sum(), replace=False)] = True
            masks.append(mask)
            patterns.append(pattern)
    return np.packbits(masks, axis=1), np.array(patterns)


def random_masks(count, patches, seed=0):
    mask = np.random.default_rng(seed).random((count, patches**2)) < 0.2
    mask[:, 0] = True
    return np.packbits(mask, axis=1)


def trained(packed, patches, seed=0, held_out=None, progress=lambda done, total: None, check=lambda: None):
    held_out = np.arange(len(packed)) % 8 == 0 if held_out is None else held_out
    return train(packed, held_out, patches, seed, device=CPU, progress=progress, check=check)


def neighbours_alike(points, patterns, k=10):
    """Share of the k nearest neighbours that have the same pattern."""
    points = points.astype(np.float64)
    distance = np.linalg.norm(points[:, None] - points, axis=-1)
    np.fill_diagonal(distance, np.inf)
    nearest = distance.argsort(axis=1)[:, :k]
    return (patterns[nearest] == patterns[:, None]).mean()


@pytest.fixture
def short(monkeypatch):
    """Training of two epochs."""
    monkeypatch.setattr(autoencoder, "STEPS", 1)
    monkeypatch.setattr(autoencoder, "FEWEST_EPOCHS", 2)


@pytest.fixture(scope="module")
def planted():
    """Masks, their patterns, and an autoencoder trained on them as on a study's."""
    packed, patterns = planted_masks(images=40, noise=0.3)
    return packed, patterns, trained(packed, PATCHES)


def test_the_first_convolution_leaves_at_most_fifty_rows():
    assert [square_size(patches) for patches in (4, 42, 64, 100, 101, 196, 1369)] == [2, 2, 2, 2, 3, 4, 28]
    assert all(-(-patches // square_size(patches)) <= 50 for patches in range(4, 1400))


def test_planted_patterns_are_told_apart_better_than_by_their_pixels(planted):
    packed, patterns, made = planted
    latents = neighbours_alike(encode(made.parameters, packed, PATCHES, CPU), patterns)
    pixels = neighbours_alike(np.unpackbits(packed, axis=1, count=PATCHES**2), patterns)
    assert latents > 0.95, "0.2 is chance"
    assert latents > pixels + 0.05


def test_on_the_map_planted_patterns_lie_apart_and_more_so_than_on_a_map_of_the_pixels(planted):
    packed, patterns, made = planted
    latents = encode(made.parameters, packed, PATCHES, CPU)
    pixels = np.unpackbits(packed, axis=1, count=PATCHES**2)
    on_maps = [neighbours_alike(layout(vectors, seed=0)[0], patterns) for vectors in (latents, pixels)]
    assert on_maps[0] > 0.95, "0.2 is chance"
    assert on_maps[0] > on_maps[1] + 0.02


def test_patterns_of_masks_never_seen_are_told_apart_too(planted):
    packed, patterns = planted_masks(images=20, noise=0.3, seed=1)
    assert neighbours_alike(encode(planted[2].parameters, packed, PATCHES, CPU), patterns) > 0.9


def test_the_loss_falls_and_the_epoch_with_the_least_held_out_loss_is_kept(planted):
    packed, _, made = planted
    assert made.loss["train"][-1] < 0.8 * made.loss["train"][0]
    kept = made.settings["kept_epoch"]
    assert made.loss["held_out"][kept] == min(made.loss["held_out"]) < 0.9 * made.loss["held_out"][0]
    # The same number, of the kept parameters alone.
    net = Autoencoder(PATCHES)
    torch.nn.utils.vector_to_parameters(torch.tensor(made.parameters), net.parameters())
    masks = torch.tensor(np.unpackbits(packed[::8], axis=1, count=PATCHES**2)).view(-1, PATCHES, PATCHES).float()
    odds = net.decode(net.encode(masks)).double()
    naive = -torch.where(masks > 0, odds.sigmoid().log(), (-odds).sigmoid().log()).sum() / len(masks)
    assert made.loss["held_out"][kept] == pytest.approx(naive.item(), rel=1e-4)


def test_of_the_ones_a_fifth_is_shown_five_times_as_bright_and_nothing_else():
    masks = torch.zeros(4, 100, 100)
    masks[:, ::2] = 1
    torch.manual_seed(0)
    shown = autoencoder._dropped(masks)
    assert shown.unique().tolist() == pytest.approx([0, 5])
    assert not shown[masks == 0].any()
    assert (shown > 0).sum().item() == pytest.approx(0.2 * masks.sum().item(), rel=0.05)
    assert autoencoder._dropped(torch.zeros(1, 3, 3)).tolist() == torch.zeros(1, 3, 3).tolist()


def test_training_stops_when_the_held_out_loss_falls_no_more(planted):
    settings = planted[2].settings
    assert settings["epochs"] == len(planted[2].loss["train"]) == len(planted[2].loss["held_out"])
    assert settings["epochs"] == settings["kept_epoch"] + 1 + settings["patience"] < settings["most_epochs"]


def test_settings_are_plain_json(planted):
    settings = planted[2].settings
    assert json.loads(json.dumps(settings)) == settings
    assert (settings["latent"], settings["samples"], settings["held_out"]) == (32, 175, 25)
    assert settings["parameters"] == len(planted[2].parameters) == num_parameters(PATCHES)


def test_one_seed_gives_one_autoencoder_and_another_another(short):
    packed = random_masks(40, 12)
    first, again, other = (trained(packed, 12, seed) for seed in (3, 3, 4))
    assert first.parameters.dtype == np.float32
    assert first.parameters.tobytes() == again.parameters.tobytes() and first.loss == again.loss
    assert first.parameters.tobytes() != other.parameters.tobytes()


def test_training_leaves_the_random_state_and_the_threads_alone(short):
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    trained(random_masks(40, 12), 12)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_training_says_how_far_it_is_and_can_be_stopped_between_batches(short):
    def stop():
        if len(calls) == 3:
            raise InterruptedError

    calls = []
    trained(random_masks(80, 12), 12, progress=lambda *call: calls.append(call))
    assert calls == [(1, 6), (2, 6), (3, 6), (4, 6), (5, 6), (6, 6)]
    calls.clear()
    state = torch.get_rng_state()
    with pytest.raises(InterruptedError):
        trained(random_masks(80, 12), 12, progress=lambda *call: calls.append(call), check=stop)
    assert len(calls) == 3 and torch.equal(torch.get_rng_state(), state)


def test_masks_without_a_one_are_not_trained_on_and_have_no_latent(short):
    packed = random_masks(40, 12)
    held_out = np.arange(40) % 8 == 0
    made = trained(packed, 12, held_out=held_out)
    empty = np.insert(packed, [5, 16], 0, axis=0)
    again = trained(empty, 12, held_out=np.insert(held_out, [5, 16], [False, True]))
    assert again.parameters.tobytes() == made.parameters.tobytes()
    unknown = np.isnan(encode(made.parameters, empty, 12, CPU))
    assert unknown.all(axis=1).nonzero()[0].tolist() == [5, 17] and unknown.sum() == 2 * 32
    with pytest.raises(ValueError, match="none of 35 masks to train on has a one"):
        trained(np.zeros_like(packed), 12)


def test_without_a_held_out_mask_the_loss_of_training_is_watched(short):
    made = trained(random_masks(1, 12), 12, held_out=np.array([False]))
    assert made.loss["held_out"] == [] and made.settings["kept_epoch"] == int(np.argmin(made.loss["train"]))


@pytest.mark.parametrize("patches", [1, 4, 5, 6, 7, 42, 101])
def test_any_number_of_patches_is_encoded_and_decoded(patches):
    net = Autoencoder(patches)
    masks = (torch.rand(2, patches, patches) > 0.9).float()
    latents = net.encode(masks)
    assert latents.shape == (2, 32)
    assert net.decode(latents).shape == masks.shape
    assert num_parameters(patches) == sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("patches", [5, 12])
def test_latents_are_the_networks_of_each_mask_alone(patches):
    packed = random_masks(9, patches)
    torch.manual_seed(0)
    net = Autoencoder(patches)
    parameters = torch.nn.utils.parameters_to_vector(net.parameters()).detach().numpy()
    latents = encode(parameters, packed, patches, CPU)
    for row, latent in zip(packed, latents, strict=True):
        bits = [int(bit) for byte in row for bit in f"{byte:08b}"][: patches**2]
        alone = net.encode(torch.tensor(bits).view(1, patches, patches).float())
        np.testing.assert_allclose(latent, alone[0].detach(), atol=1e-5)


@pytest.mark.parametrize("patches", [7, 64])
def test_latents_have_the_same_bytes_however_the_masks_are_cut(patches, monkeypatch):
    monkeypatch.setattr(autoencoder, "LARGEST_BATCH", 16)
    packed = random_masks(50, patches)
    parameters = torch.nn.utils.parameters_to_vector(Autoencoder(patches).parameters()).detach().numpy()
    whole = encode(parameters, packed, patches, CPU)
    for rows in (1, 7, 16, 33):
        cut = [encode(parameters, packed[start : start + rows], patches, CPU) for start in range(0, 50, rows)]
        assert np.concatenate(cut).tobytes() == whole.tobytes()


def test_parameters_of_other_masks_are_refused():
    wanted = num_parameters(42)
    with pytest.raises(ValueError, match=rf"parameters are \(7,\); the autoencoder of 42 patches has {wanted}"):
        encode(np.zeros(7, dtype=np.float32), random_masks(1, 42), 42, CPU)


@pytest.mark.parametrize(("images", "share", "held"), [(250, 69, 9), (20, 20, 3), (2, 2, 1), (1, 1, 0)])
def test_the_sample_has_as_many_images_of_every_head(images, share, held):
    index, held_out = training_sample(images, layers=12, heads=3, seed=0)
    flat = np.ravel_multi_index(index.T, (images, 12, 3))
    assert (np.diff(flat) > 0).all(), "in the study's order, none twice"
    of_head = flat % 36
    assert np.bincount(of_head).tolist() == [share] * 36
    assert np.bincount(of_head[held_out], minlength=36).tolist() == [held] * 36


def test_the_sample_is_the_seeds_and_has_sixteen_images_of_a_head_at_least():
    first, again, other = (training_sample(100, 24, 16, seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert len(first) == 16 * 24 * 16
