"""`--mode=likelihood`: every image once, stored, and not computed again."""

import json

import numpy as np
import pytest

from experiments import data
from experiments.build import load, make_dataset
from experiments.likelihood import likelihood, moments_of


@pytest.fixture
def loaded(trained):
    found = load(trained)
    found.run.config.unlock()
    found.run.config.eval.update({"batch_size": 24, "bound_draws": 4})  # 64 examples: the last batch is cut
    return found


def test_a_split_is_measured_once_stored_and_gone_on_with(loaded, trained, capsys):
    first = likelihood(loaded, trained)
    folder = trained / "likelihood" / "test"
    values = dict(np.load(folder / "values.npz"))
    assert json.loads((folder / "summary.json").read_text()) == first
    assert first["images"] == 64 and all(len(v) == 64 for v in values.values())
    np.testing.assert_allclose(first["bits_per_dim"], values["bits_per_dim"].mean())
    np.testing.assert_allclose(first["bound_std_error"], values["bound"].std(ddof=1) / 8)
    assert f"test set, 64 examples: {first['bits_per_dim']:.3f} ±" in capsys.readouterr().out

    marked = dict(np.load(folder / "batch_0000000.npz"))
    np.savez(folder / "batch_0000000.npz", **marked | {"bits_per_dim": marked["bits_per_dim"] + 1})
    (folder / "batch_0000048.npz").unlink()
    likelihood(loaded, trained)
    again = np.load(folder / "values.npz")["bits_per_dim"]
    np.testing.assert_array_equal(again[:24], values["bits_per_dim"][:24] + 1)  # kept
    np.testing.assert_array_equal(again[24:], values["bits_per_dim"][24:])  # the removed ones bitwise as before

    loaded.run.config.eval.rtol = 3e-2  # another question: nothing of the old answers is used
    third = likelihood(loaded, trained)
    assert "are now in" in capsys.readouterr().out
    assert abs(third["bits_per_dim"] - first["bits_per_dim"]) < 0.2 and (folder.with_name("test.1") / "values.npz").exists()


def test_the_bound_is_above_the_code_length_of_the_same_model_or_near_it(loaded, trained):
    found = likelihood(loaded, trained)
    assert found["bound"] > found["bits_per_dim"] - 0.3  # another model's, but of the same network
    assert abs(found["prior_mismatch"]) < 0.05 and 0 < found["bound_draw_std_error"] < found["bound"]


def test_moments_are_those_of_dequantised_data():
    class Grey(data.DataSet):
        shape, levels, num_classes, splits = (2,), 4, 0, ("train",)

        def source(self, split):
            x = np.array([[0, 1], [3, 1], [3, 2]], np.uint8)
            return data.base.Source(3, lambda i: (x[i], 0))

    mean, variance = moments_of(Grey(), "train")
    y = (np.array([[0, 1], [3, 1], [3, 2]])[:, None] + (np.arange(1000)[None, :, None] + 0.5) / 1000) / 2 - 1  # all of each level's width
    np.testing.assert_allclose(mean, y.reshape(-1, 2).mean(0), atol=1e-6)
    np.testing.assert_allclose(variance, y.reshape(-1, 2).var(0), rtol=1e-5)


def test_a_saved_run_is_newer_settings_away_from_being_opened(trained):
    saved = json.loads((trained / "config.json").read_text())
    del saved["eval"]["trace"], saved["objective"]["uncertainty"]
    (trained / "config.json").write_text(json.dumps(saved))
    assert load(trained).config.eval.trace == "rademacher"
    assert make_dataset(load(trained).config).density == "mixture"
