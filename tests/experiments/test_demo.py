"""`make demo` without its twelve minutes: what it is told to do, in which order, and the picture
that it draws.
"""

from types import SimpleNamespace

import numpy as np
from matplotlib.figure import Figure

from experiments import demo
from experiments.run.build import make_dataset


def test_the_demo_trains_on_all_digits_but_those_of_the_test(monkeypatch):
    config = demo.demo_config()
    dataset = make_dataset(config)
    training, test = (dataset.source(split) for split in (config.train.split, config.eval.split))
    assert (len(training), len(test)) == (1500, 297)
    assert config.eval.train_split == config.train.split and not config.train.held_out
    seen = {training[i]["x"].tobytes() for i in range(len(training))}
    assert not [i for i in range(len(test)) if test[i]["x"].tobytes() in seen]
    assert config.eval.number == 1500 and config.eval.samplers == ("pc", "ddim", "ode")


def test_the_demo_trains_evaluates_and_shows(monkeypatch, tmp_path, capsys):
    done = []

    def note(name, result):
        def do(*args):
            done.append((name, *args))
            return result

        return do

    monkeypatch.setattr(demo, "WORKDIR", tmp_path)
    monkeypatch.setattr(
        demo, "demo_config", lambda: SimpleNamespace(train=SimpleNamespace(steps=7))
    )
    monkeypatch.setattr(demo, "set_up_jax", lambda: None)
    for name, result in (("load", "run"), ("evaluate", "report"), ("show", "digits.png")):
        monkeypatch.setattr(demo, name, note(name, result))
    monkeypatch.setattr(demo, "train", note("train", None))
    demo.main()
    assert [entry[0] for entry in done] == ["train", "load", "evaluate", "show"]
    assert done[0][2] == tmp_path and done[2][1:] == ("run", tmp_path)
    assert done[3][1:] == ("report", tmp_path)
    printed = capsys.readouterr().out
    assert "(7 steps)" in printed and "see digits.png" in printed


def test_the_picture_shows_real_digits_beside_those_of_each_sampler(monkeypatch, tmp_path):
    """White is the highest of the 17 grey levels; samples are shown as the data set has them."""
    panels, figures = [], []

    class Kept(Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            figures.append(self)

    monkeypatch.setattr(demo, "Figure", Kept)
    monkeypatch.setattr(demo.pictures, "grid", lambda x: panels.append(x) or x[0])
    folder = tmp_path / "samples" / "pc"
    folder.mkdir(parents=True)
    white = np.full((60, 8, 8, 1), 16, np.uint8)
    white[49:] = 0  # not shown
    np.savez(folder / "batch_0000000.npz", x=white)
    np.savez(folder / "batch_0000060.npz", x=16 - white)
    row = {"nfe": 61, "one_nn_train": {"value": 0.527}, "seconds": 44.0}
    bits = {"bits_per_dim": 1.938, "std_error": 0.016}
    path = demo.show({"samplers": {"pc": row}, "likelihood": bits}, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
    real, fake = panels
    source = make_dataset(demo.demo_config()).source("fit")
    expected = np.stack([source[i]["x"] for i in range(49)]) * (255 / 16)
    np.testing.assert_array_equal(real, np.repeat(expected.astype(np.uint8), 3, axis=-1))
    assert fake.shape == (49, 8, 8, 3) and (fake == 255).all()
    titles = [axis.get_title() for axis in figures[0].axes]
    assert titles == ["real digits", "pc, NFE 61\n1-NN 0.53, 44 s for 1500"]
