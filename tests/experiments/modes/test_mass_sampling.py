"""Many samples: the same images however they are drawn, stopped, continued and gathered."""

import errno
import shutil
import time
import tracemalloc
import zipfile

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.errors import RunError
from experiments.modes import sample as module
from experiments.modes.sample import (
    SampleBatch,
    _compile_seconds,
    _Cost,
    draw_many,
    drawing,
    sample,
)
from experiments.run import sample_parts
from experiments.run.blocks import BlockProgram, groups_for
from experiments.run.loading import Loaded
from experiments.run.messages import progress, skip
from experiments.run.opening import FREE
from experiments.run.sample_parts import PartJob, finished_part
from experiments.storage.gathered import check_format, save_pngs, save_stream
from experiments.storage.parts import Part, Parts, path_of, save_part
from samplers import Samples
from tests.experiments.settings import with_settings

SHAPE = (8, 8, 1)
IMAGES = 2000
KILLS = 5


def changed(loaded, **settings):
    """Return a run with other settings of sampling, or other devices."""
    config = loaded.config.copy_and_resolve_references().unlock()
    for name, value in settings.items():
        (config if name == "devices" else config.sampling)[name] = value
    return with_settings(loaded, config, FREE)


@pytest.fixture(scope="module")
def images(image_run):
    """A run whose network has random weights, so that rounding shows in what it draws."""
    loaded = image_run(SHAPE, 256, sampling={"sampler": "ddim", "block": 4})
    leaves, tree = jax.tree.flatten(loaded.run.split.params)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    noisy = [
        leaf + 0.1 * jax.random.normal(key, leaf.shape, leaf.dtype)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    denoiser = loaded.run.denoiser(jax.tree.unflatten(tree, noisy))
    return Loaded(loaded.sde, denoiser, loaded.config, loaded.run, 0)


@pytest.fixture
def cheap(images, monkeypatch):
    """The same run, whose image i is all of grey level i % 256, drawn without a network."""
    calls = []

    def cheap_drawing(run, denoise, setting, devices):
        def draws(index, report):
            calls.append(list(index))
            raw = np.tile((index % 256)[:, None, None, None], run.facts.shape)
            return SampleBatch(x=run.facts.codec.expected(raw).astype(np.float32), nfe=5)

        return draws

    monkeypatch.setattr(module, "drawing", cheap_drawing)
    return images, calls


def test_an_image_is_bitwise_the_same_in_any_batch_on_any_devices_and_alone(images, tmp_path):
    setting = images.config.samplers.ddim
    expected = drawing(images.run, images.denoiser, setting, 1)(np.arange(20)).x
    assert len(np.unique(expected)) > 600  # there is something to round
    for devices in (2, 3):
        draws = drawing(images.run, images.denoiser, setting, devices)
        np.testing.assert_array_equal(draws(np.arange(20)).x, expected)
        alone = draws(np.array([17, 6])).x
        np.testing.assert_array_equal(alone, expected[[17, 6]])
    levels = images.run.facts.codec.decode(expected)
    for size, devices in ((1, 1), (7, 3), (64, 2)):
        other = changed(images, batch_size=size, devices=devices)
        x = draw_many(other, "ddim", 20, tmp_path / f"{size}").x
        np.testing.assert_array_equal(x, levels, strict=True)


def test_a_group_of_devices_that_shares_the_weights_draws_the_same_but_for_rounding(images):
    run = changed(images, devices=0).run
    run.config.placement.unlock().fsdp = 2
    assert groups_for(run, 99) == 2
    setting = images.config.samplers.ddim
    expected = drawing(images.run, images.denoiser, setting, 1)(np.arange(12)).x
    program = BlockProgram(run, images.denoiser, setting, 2)
    np.testing.assert_allclose(program(np.arange(12))[0], expected, atol=1e-4)
    kept = [leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(program._arrays[0])]
    whole = [leaf.size for leaf in jax.tree.leaves(program._arrays[0])]
    assert max(whole) == 2 * max(kept)  # the others are too small to be split


def test_a_part_is_kept_after_every_call_and_a_larger_number_goes_on(cheap, tmp_path):
    loaded, calls = cheap
    loaded = changed(loaded, batch_size=15, devices=2)  # 16: four blocks of 4
    job = draw_many(loaded, "ddim", 10, tmp_path / "job")
    assert calls == [list(range(8)), [8, 9]]
    np.testing.assert_array_equal(job.x[:, 0, 0, 0], np.arange(10))
    assert job.x.dtype == np.uint8
    calls.clear()
    job = draw_many(loaded, "ddim", 37, tmp_path / "job")
    assert calls[0] == [10, 11, 12, 13, 14, 15] and sum(calls, []) == list(range(10, 37))
    np.testing.assert_array_equal(job.x[:, 0, 0, 0], np.arange(37))
    calls.clear()
    job = draw_many(loaded, "ddim", 20, tmp_path / "job")
    assert not calls and len(job.x) == 20
    assert not (tmp_path / "job.1").exists()
    names = sorted(path.name for path in (tmp_path / "job").glob("batch_*"))
    assert names == ["batch_0000000.npz", "batch_0000016.npz", "batch_0000032.npz"]
    other = draw_many(changed(loaded, batch_size=20), "ddim", 37, tmp_path / "job")
    np.testing.assert_array_equal(other.x, draw_many(loaded, "ddim", 37, tmp_path / "again").x)
    assert (tmp_path / "job.1").exists()


def test_a_job_that_stops_anywhere_goes_on_at_that_image(cheap, tmp_path, monkeypatch):
    loaded, calls = cheap
    loaded = changed(loaded, batch_size=16, devices=3)
    cheap_drawing = module.drawing

    def stopping_drawing(*arguments):
        draws = cheap_drawing(*arguments)

        def stops(index, report):
            if index[0] == 28:
                raise KeyboardInterrupt
            return draws(index, report)

        return stops

    with monkeypatch.context() as patch:
        patch.setattr(module, "drawing", stopping_drawing)
        with pytest.raises(KeyboardInterrupt):
            draw_many(loaded, "ddim", 40, tmp_path / "job")
    assert [call[0] for call in calls] == [0, 12, 16]  # three blocks, what is left of 16, three
    calls.clear()
    draw_many(loaded, "ddim", 40, tmp_path / "job")
    assert calls[0] == [28, 29, 30, 31] and sum(calls, []) == list(range(28, 40))


def test_each_block_is_computed_once_on_as_many_devices_as_there_are_blocks(images):
    assert [groups_for(changed(images, devices=3).run, n) for n in (1, 4, 5, 99)] == [1, 1, 2, 3]
    program = BlockProgram(images.run, images.denoiser, images.config.samplers.ddim, 2)
    computed = []

    def record(arrays, numbers, cond):
        (device,) = numbers.devices()
        computed.append((device.id, numbers.tolist()))
        x = np.tile(np.asarray(numbers)[:, None, None, None], SHAPE)
        return Samples(x=x, nfe=jax.numpy.asarray(7), path=None)

    program._program = record
    x, nfe = program(np.array([9, 2, 13, 3]))
    assert computed == [(0, [0, 1, 2, 3]), (1, [8, 9, 10, 11]), (0, [12, 13, 14, 15])]
    assert nfe == 7 and x[:, 0, 0, 0].tolist() == [9, 2, 13, 3]


def test_parts_add_up():
    x = np.arange(6).reshape(3, 2)
    whole = Part(x[:1], nfe=7, seconds=1.0).with_more(Part(x[1:], nfe=5, seconds=2.0))
    assert (whole.x == x).all() and whole.nfe == 7 and whole.seconds == 3


def test_what_was_drawn_before_says_nothing_about_the_rate():
    bar = progress(100, "sample")
    skip(bar, 40)
    bar.update(10)
    assert bar.n == 50 and bar.format_dict["initial"] == 40
    bar.close()


def test_the_bar_of_a_part_that_goes_on_begins_where_it_stopped(cheap, tmp_path):
    run = changed(cheap[0], batch_size=16, devices=1).run
    path = path_of(tmp_path, 0)
    save_part(path, Part(x=np.zeros((6, *SHAPE), np.uint8), nfe=5, seconds=1.0))
    draws = module.drawing(run, None, None, 1)
    job = PartJob(
        run=run, sampler="a", drawing=draws, devices=1, path=path, first=0, size=16, number=10
    )
    bar = progress(10, "sample")
    assert len(finished_part(job, bar).x) == 10
    assert bar.n == 10 and bar.format_dict["initial"] == 6
    bar.close()


def test_compiling_is_what_the_first_part_took_beyond_the_others():
    costs = [_Cost(10, 5, 3.0), _Cost(10, 5, 1.0), _Cost(5, 5, 0.5)]
    assert _compile_seconds(costs) == pytest.approx(2.0)
    assert _compile_seconds(costs[:1]) == 0 and _compile_seconds(costs[1:]) == 0


def test_points_go_on_too(tiny_run, tmp_path):
    loaded = Loaded(
        tiny_run.sde, tiny_run.denoiser(tiny_run.split.params), tiny_run.config, tiny_run, 0
    )
    few = draw_many(changed(loaded, batch_size=8), "ddim", 3, tmp_path / "job").x
    many = draw_many(changed(loaded, batch_size=8), "ddim", 20, tmp_path / "job").x
    alone = draw_many(changed(loaded, batch_size=8), "ddim", 20, tmp_path / "alone").x
    np.testing.assert_array_equal(many[:3], few)
    np.testing.assert_allclose(many, alone, rtol=1e-4, atol=1e-4)
    assert many.dtype == np.float32 and not (tmp_path / "job.1").exists()


def test_png_files_are_a_flat_folder_of_exactly_the_images(cheap, tmp_path):
    loaded = changed(cheap[0], batch_size=16, devices=1, number=40, format="png")
    sample(loaded, tmp_path)
    folder = tmp_path / "samples" / "ddim"
    assert sorted(p.name for p in (folder / "png").iterdir()) == [f"{i:07d}.png" for i in range(40)]
    for i in (0, 17, 39):
        with Image.open(folder / "png" / f"{i:07d}.png") as image:
            assert image.mode == "L" and image.size == (8, 8)
            assert (np.asarray(image) == i).all()
    assert not (folder / "samples.npz").exists() and not (folder / "conditions.npz").exists()
    assert (folder / "grid.png").exists() and (folder / "summary.json").exists()
    (folder / "png" / "mine.png").write_text("a file of the user")
    sample(changed(loaded, number=10), tmp_path)
    names = [f"{i:07d}.png" for i in range(10)]
    assert sorted(p.name for p in (folder / "png").iterdir()) == [*names, "mine.png"]


def test_png_spreads_few_levels_and_keeps_colours(tmp_path):
    x = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3) % 17
    save_part(path_of(tmp_path, 0), Part(x=x, nfe=1, seconds=1.0))
    assert list(save_pngs(tmp_path / "png", Parts(tmp_path, 2, 2), 17)) == [2]
    with Image.open(tmp_path / "png" / "0000001.png") as image:
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), np.rint(x[1] * (255 / 16)))


def test_labels_lie_beside_what_is_gathered(image_run, cheap, tmp_path):
    loaded = image_run(SHAPE, 256, num_classes=10, train={"conditional": True})
    loaded = changed(loaded, sampler="ddim", batch_size=16, devices=1, number=40)
    for form, name in (("npz", "samples"), ("png", "conditions"), ("parts", "conditions")):
        sample(changed(loaded, format=form), tmp_path / form)
        with np.load(tmp_path / form / "samples" / "ddim" / f"{name}.npz") as saved:
            np.testing.assert_array_equal(saved["label"], np.arange(40) % 10)
            if form == "npz":
                np.testing.assert_array_equal(saved["x"][:, 0, 0, 0], np.arange(40))
    assert not (tmp_path / "parts" / "samples" / "ddim" / "png").exists()


@pytest.mark.parametrize(
    ("shape", "levels"), [((2,), None), ((8, 8, 2), 256), ((8, 8, 1), None), ((8, 8, 1), 1024)]
)
def test_what_png_cannot_hold_is_refused(image_run, shape, levels):
    facts = image_run().run.facts._replace(shape=shape, levels=levels)
    with pytest.raises(RunError, match="format is 'png', which holds images of 1, 3 or 4 channels"):
        check_format("png", facts)
    check_format("npz", facts)
    with pytest.raises(ValueError, match="format is 'jpg', expected npz, png, parts"):
        check_format("jpg", facts)


def test_a_stream_is_what_numpy_reads_and_the_same_file_each_time(tmp_path):
    x = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    for name in ("a.npz", "b.npz"):
        save_stream(tmp_path / name, 10, {"x": np.split(x, 5), "label": iter([np.arange(10)])})
    with np.load(tmp_path / "a.npz") as saved:
        np.testing.assert_array_equal(saved["x"], x, strict=True)
        np.testing.assert_array_equal(saved["label"], np.arange(10), strict=True)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:  # no file has the time of its writing
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("form", ["npz", "png", "parts"])
def test_memory_does_not_grow_with_the_number(cheap, tmp_path, form):
    loaded = changed(cheap[0], batch_size=32, devices=1, block=32, format=form)
    facts = loaded.run.facts._replace(shape=(32, 32, 3))
    loaded = loaded._replace(run=loaded.run._replace(facts=facts))
    peaks = {}
    for number in (128, 128, 2048):  # the first warms up; 2048 images are 6 MB
        tracemalloc.start()
        sample(changed(loaded, number=number), tmp_path / f"{number} {len(peaks)}")
        peaks[number] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[2048] < peaks[128] + 500_000


def test_a_part_that_is_gone_is_named(tmp_path):
    save_part(path_of(tmp_path, 0), Part(x=np.zeros((4, 2), np.float32), nfe=1, seconds=1.0))
    with pytest.raises(RunError, match=r"batch_0000004\.npz is damaged; the same command draws"):
        list(Parts(tmp_path, 8, 4))
    with pytest.raises(RunError, match=r"batch_0000000\.npz is damaged"):
        Parts(tmp_path, 5, 5).whole()


@pytest.fixture(scope="module")
def digits(command, tmp_path_factory):
    """The flags of a run of real digits, of two steps of training."""
    workdir = tmp_path_factory.mktemp("digits") / "run"
    result = command(
        "--config=experiments/configs/digits.py",
        f"--workdir={workdir}",
        "--config.net.nf=8",
        "--config.net.ch_mult=1,",
        "--config.net.num_res_blocks=1",
        "--config.net.attn_resolutions=()",
        "--config.train.steps=2",
        "--config.train.batch_size=8",
    )
    assert result.code == 0, result.err
    return workdir


def flags(workdir, number=IMAGES):
    return [
        f"--workdir={workdir}",
        "--mode=sample",
        f"--config.sampling.number={number}",
        "--config.sampling.sampler=ddim",
        "--config.samplers.ddim.steps=3",
        "--config.sampling.format=png",
        "--config.sampling.batch_size=100",
        "--config.sampling.block=10",
    ]


def stored(workdir):
    """Return how many samples are kept."""
    count = 0
    for path in sorted((workdir / "samples" / "ddim").glob("batch_*.npz")):
        with np.load(path) as saved:
            count += len(saved["x"])
    return count


def files(workdir):
    """Return the names and the contents of all images."""
    return {p.name: p.read_bytes() for p in (workdir / "samples" / "ddim" / "png").iterdir()}


def copied(workdir, place):
    return shutil.copytree(workdir, place, ignore=shutil.ignore_patterns("samples"))


def test_a_job_killed_five_times_ends_with_the_files_of_one_never_stopped(start, digits, tmp_path):
    whole = copied(digits, tmp_path / "whole")
    result = start(*flags(whole)).finish()
    assert result.code == 0, result.err
    killed = copied(digits, tmp_path / "killed")
    before = 0
    for at in np.sort(np.random.default_rng().choice(IMAGES - 100, KILLS, replace=False)):
        job = start(*flags(killed))
        while job.process.is_alive() and stored(killed) < max(at, before + 1):
            time.sleep(0.01)
        job.process.kill()
        assert job.finish().code == -9
        before = stored(killed)
        assert at <= before < IMAGES
    result = start(*flags(killed)).finish()
    assert result.code == 0, result.err
    assert "damaged" not in result.err and "earlier results" not in result.out
    assert len(files(whole)) == IMAGES and files(killed) == files(whole)


def test_a_full_disk_is_said_and_loses_nothing(cheap, tmp_path, monkeypatch):
    loaded = changed(cheap[0], batch_size=16, devices=1, number=40)
    folder = tmp_path / "samples" / "ddim"
    written = []

    def full(path, part):
        written.append(path)
        if len(written) == 6:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save_part(path, part)

    with monkeypatch.context() as patch:
        patch.setattr(sample_parts, "save_part", full)
        message = "No space left .*batch_0000016.npz.*; those before number 20 are kept: make room"
        with pytest.raises(RunError, match=message):
            sample(loaded, tmp_path)
    assert stored(tmp_path) == 20
    with monkeypatch.context() as patch:
        patch.setattr(module, "save_stream", lambda path, *rest: full_disk(path))
        message = "No space left .*samples.npz.*; all 40 are kept in .*batch_.*: make room"
        with pytest.raises(RunError, match=message):
            sample(loaded, tmp_path)
    assert stored(tmp_path) == 40 and not (folder / "samples.npz").exists()
    cheap[1].clear()
    sample(loaded, tmp_path)
    assert not cheap[1] and (folder / "samples.npz").exists()


def full_disk(path):
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


def test_a_stream_that_breaks_off_leaves_no_file(tmp_path):
    """Not the end of an archive, which would have no end of its own."""

    def blocks():
        yield np.zeros((2, 3))
        full_disk(tmp_path / "a.npz")

    with pytest.raises(OSError, match="No space left"):
        save_stream(tmp_path / "a.npz", 4, {"x": blocks()})
    assert not list(tmp_path.iterdir())
