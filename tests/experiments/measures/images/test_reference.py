"""Reference moments in a file are those that were measured, or a message."""

import numpy as np
import pytest

from experiments.errors import RunError
from experiments.measures.images import load_reference, measure_moments, save_reference

PREPARED = {"shape": [8, 8, 1], "range": [-1, 1], "resize": None}


@pytest.fixture
def saved(tmp_path):
    moments = measure_moments(np.random.default_rng(0).standard_normal((30, 4)))
    save_reference(tmp_path / "reference.npz", moments, "network 12ab", PREPARED)
    return tmp_path / "reference.npz", moments


def rewrite(path, **changes):
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(path, **{name: a for name, a in (arrays | changes).items() if a is not None})


def test_moments_come_back_as_they_were(saved):
    path, moments = saved
    loaded = load_reference(path, "network 12ab", dict(reversed(PREPARED.items())))
    assert loaded.moments.count == 30
    np.testing.assert_array_equal(loaded.moments.mean, moments.mean)
    np.testing.assert_allclose(loaded.moments.covariance, moments.covariance, rtol=1e-15)
    assert loaded.features is None


def test_features_may_be_kept_beside_the_moments(saved):
    path, moments = saved
    features = np.random.default_rng(1).standard_normal((7, 4)).astype(np.float32)
    save_reference(path, moments, "network 12ab", PREPARED, features)
    loaded = load_reference(path, "network 12ab", PREPARED)
    np.testing.assert_array_equal(loaded.features, features)
    rewrite(path, features=features[:, :3])
    with pytest.raises(RunError, match=r"its features are float32 of shape \(7, 3\)"):
        load_reference(path, "network 12ab", PREPARED)
    rewrite(path, features=np.where(features > 0, features, np.nan))
    with pytest.raises(RunError, match="some features are not finite"):
        load_reference(path, "network 12ab", PREPARED)


def test_another_network_or_preprocessing_is_refused(saved):
    path, _ = saved
    with pytest.raises(RunError, match="has features of 'network 12ab', expected .* 'network 99'"):
        load_reference(path, "network 99", PREPARED)
    with pytest.raises(RunError, match=r"prepared by .*\[-1, 1\].*expected .*\[0, 1\]"):
        load_reference(path, "network 12ab", PREPARED | {"range": [0, 1]})


DAMAGES = {
    "lacks a part": {"covariance": None},
    "a strange one": {"other": np.zeros(3)},
    "not finite": {"mean": np.full(4, np.nan)},
    "not symmetric": {"covariance": np.triu(np.ones((4, 4)))},
    "of shape": {"covariance": np.eye(3)},
    "no float64": {"mean": np.zeros(4, np.float32)},
    "of 1 images": {"count": np.int64(1)},
    "hash of the preprocessing": {"preprocessing": np.array("{}")},
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a_damaged_file_is_refused(message, saved):
    path, _ = saved
    rewrite(path, **DAMAGES[message])
    with pytest.raises(RunError, match=f"damaged.*{message}.*save_reference"):
        load_reference(path, "network 12ab", PREPARED)


def test_a_flipped_bit_is_refused_or_without_effect(saved):
    """Bits of the archive that nobody reads, such as dates, change nothing."""
    path, moments = saved
    content = path.read_bytes()
    refused = 0
    for place in np.linspace(0, len(content) - 1, 80).astype(int):
        damaged = bytearray(content)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        try:
            loaded = load_reference(path, "network 12ab", PREPARED)
        except RunError:
            refused += 1
        else:
            np.testing.assert_array_equal(loaded.moments.mean, moments.mean)
            np.testing.assert_allclose(loaded.moments.covariance, moments.covariance, rtol=1e-15)
    assert refused > 40
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match="torn"):
        load_reference(path, "network 12ab", PREPARED)


def test_a_missing_file_and_settings_that_are_no_json(saved, tmp_path):
    _, moments = saved
    with pytest.raises(RunError, match="there is no"):
        load_reference(tmp_path / "none.npz", "network 12ab", PREPARED)
    with pytest.raises(ValueError, match="plain JSON"):
        save_reference(tmp_path / "other.npz", moments, "network", {"shape": np.zeros(3)})
    with pytest.raises(ValueError, match="two or more points"):
        save_reference(tmp_path / "other.npz", measure_moments(np.eye(3)[:1]), "network", {})
    assert not (tmp_path / "other.npz").exists()
