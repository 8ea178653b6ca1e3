"""What a compiled step needs of memory, against sizes that are known, and what is said where there is too little."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments.errors import RunError
from experiments.modes import train as training
from experiments.modes.train import train
from experiments.run import step_program
from experiments.run.step_program import Memory, StepProgram, memory_of, needs, remedies

CONFIG = ConfigDict(
    {"train": {"batch_size": 64, "accumulate": 2}, "net": {}, "facts": {"shape": (32, 32, 3)}}
)
FLOATS = 2**20  # 4 MiB of them


def update(state, batch):
    """A step that needs a temporary array of the size of its batch, for the sort."""
    return state + 1, jnp.sort(batch)[::2].sum()


def compiled(**settings):
    step = jax.jit(update, **settings)
    return step.lower(jnp.ones(FLOATS), jnp.ones(FLOATS)).compile()


def test_the_memory_is_that_of_arguments_and_temporaries():
    donated = memory_of(compiled(donate_argnums=0))
    assert donated is not None
    assert donated.arguments == 2 * 4 * FLOATS
    assert 4 * FLOATS <= donated.temporaries < 8.1 * FLOATS
    kept = memory_of(compiled())
    assert kept is not None
    assert kept.total - donated.total == pytest.approx(4 * FLOATS, rel=1e-3), "a result of its own"


def test_a_backend_without_an_account_says_nothing(capsys):
    class Program:
        def memory_analysis(self):
            return None

    assert memory_of(Program()) is None


def test_the_sentence_has_the_sizes_and_the_share():
    memory = Memory(arguments=2**29, temporaries=2**31)
    text = needs(memory, None)
    assert text.endswith(
        "2.5 GiB of memory on each device: 512 MiB for state and batch, 2 GiB while it computes"
    )
    assert needs(memory, 5 * 2**30).endswith("; 50% of the 5 GiB there are")


def test_a_step_is_compiled_once_and_said_before_it_is_made(capsys):
    traced, printed = [], []

    def step(state, batch):
        traced.append(state.shape)
        return state + batch.sum(), state.sum()

    program = StepProgram(jax.jit(step, donate_argnums=0), CONFIG, begun=False)
    state = jnp.zeros(3)
    for _ in range(3):
        state, _ = program(state, jnp.ones(2))
        printed.append(capsys.readouterr().out)
    assert traced == [(3,)] and printed[0].startswith("the step needs") and not any(printed[1:])
    np.testing.assert_array_equal(state, 6 * np.ones(3))


def test_training_says_what_a_step_needs_before_the_first_one(
    tiny_config, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(step_program, "device_memory", lambda: 2**40)
    config = tiny_config()
    config.train.update({"steps": 3, "held_out": ""})
    train(config, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    compiling = lines.index("compiling the training step ...")
    assert lines[compiling + 1].startswith("the step needs ")
    assert lines[compiling + 1].endswith("% of the 1.02e+03 GiB there are")
    assert lines[compiling + 2].startswith("compiled, and the first step made")


def needs_64_tebibytes(*arguments):
    """A training step that no device has the memory for."""

    def step(state, batch):
        rows = jnp.broadcast_to(state.step + jnp.arange(2**22.0), (2**22, 2**22))
        return state, jnp.sort(rows + jnp.arange(2**22.0)[:, None], axis=1).sum()

    return jax.jit(step)


def test_too_little_memory_ends_in_one_message_with_the_remedies(
    tiny_config, tmp_path, monkeypatch
):
    config = tiny_config()
    config.train.update({"steps": 3, "held_out": ""})
    train(config, tmp_path / "begun")
    monkeypatch.setattr(training, "make_train_step", needs_64_tebibytes)
    with pytest.raises(RunError) as caught:
        train(config, tmp_path / "new")
    text = str(caught.value)
    assert "the memory of a device does not suffice" in text and "6.55e+04 GiB" in text
    assert "with 16 and --config.train.accumulate=2" in text and "remat" not in text
    config.train.steps = 5
    with pytest.raises(RunError, match="a run keeps its batch size") as caught:
        train(config, tmp_path / "begun")
    assert "--config.devices" in str(caught.value)


def test_other_errors_of_a_device_pass_as_they_are():
    program = StepProgram(jax.jit(update), CONFIG, begun=False)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        with program.explaining_memory():
            raise jax.errors.JaxRuntimeError("INTERNAL: something else")


def test_a_step_too_large_to_compile_has_the_remedies_without_the_size():
    program = StepProgram(jax.jit(update), CONFIG, begun=False)
    with pytest.raises(RunError, match="training step; lower"):
        with program.explaining_memory():
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error")


def test_remedies_are_those_that_are_left():
    text = remedies(CONFIG, begun=False)
    assert "with 32 and --config.train.accumulate=4" in text and "net.remat=True" in text
    again = CONFIG.copy_and_resolve_references()
    again.net.remat = True
    assert "remat" not in remedies(again, begun=False)
