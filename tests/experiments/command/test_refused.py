"""Wrong command lines: exit code 1, one message with the setting and its value, and no new run
directory. All in this process.
"""

import pytest

from experiments import main
from experiments.command.parse import parse
from experiments.command.resolve import resolve
from experiments.errors import RunError
from experiments.modes import MODES

HUGE = "20261126093000123456"
# (what is given, what the message has to contain beside it)
WRONG = [
    ("seed=" + HUGE, ["config.seed"]),
    ("seed=-1", ["config.seed >= 0"]),
    ("seed=abc", ["whole number"]),
    ("seed=1.5", ["whole number"]),
    ("sampling.seed=" + HUGE, ["config.sampling.seed"]),
    ("data.size=abc", ["size"]),
    ("data.size=" + HUGE, ["size"]),
    ("data.sise=3", ["Toy has no setting sise"]),
    ("data.name=Toi", ["no DataSet"]),
    ("data.density=spiral", ["unknown density"]),
    ("data=3", ["would undo --config.data.size=640"]),
    ("data.size.x=3", ["not a section"]),
    ("train..steps=3", ["empty name"]),
    ("train.=3", ["empty name"]),
    ("train.stepz=3", ["did you mean steps?"]),
    ("trian.steps=3", ["did you mean train?"]),
    ("train.steps=0", ["config.train.steps >= 1"]),
    ("train.steps=" + HUGE, ["config.train.steps <="]),
    ("train.flip=maybe", ["neither true nor false"]),
    ("train.flip=true", ["flip"]),
    ("train.label_dropout=nan", ["config.train.label_dropout"]),
    ("train.label_dropout=0.3", ["no effect while config.train.conditional is False"]),
    ("objective.adapt_bins=4", ["no effect while config.objective.adapt_every is 0"]),
    ("train.split=nope", ["train.split", "unknown split"]),
    ("train.held_out=nope", ["train.held_out", "unknown split"]),
    ("train.batch_size=100000", ["batch_size"]),
    ("eval.split=nope", ["config.eval.split", "unknown split"]),
    ("eval.train_split=nope", ["config.eval.train_split", "unknown split"]),
    ("eval.rtol=-1", ["config.eval.rtol"]),
    ("eval.trace=abc", ["unknown trace"]),
    ("eval.samplers=(nope,)", ["unknown sampler"]),
    ("facts.nope=1", ["config.facts has no setting"]),
    ("facts.sd=-1", ["config.facts.sd"]),
    ("facts.shape=(0,)", ["config.facts.shape"]),
    ("sde.beta_max=abc", ["VP needs a number as beta_max"]),
    ("sde.beta_max=inf", ["finite number as beta_max"]),
    ("sde.beta_max=nan", ["beta_max"]),
    ("sde.beta_max=(1,2)", ["VP needs a number as beta_max"]),
    ("sde.name=VPP", ["has no SDE"]),
    ("sde.name=3", ["has no SDE"]),
    ("sde=VE", ["is a section"]),
    ("net.width=abc", ["number"]),
    ("net.width=" + HUGE, ["width"]),
    ("net.width=0", ["width"]),
    ("net.depth=-1", ["depth"]),
    ("net.depth=1.5", ["MLP needs a whole number as depth"]),
    ("net.dropout=2", ["dropout"]),
    ("net.dropout=nan", ["dropout"]),
    ("net.embedding=abc", ["unknown embedding"]),
    ("net.name=mlp", ["no Module"]),
    ("net.name=no_such_package.module:Net", ["cannot import"]),
    ("denoiser.sigma_data=-1", ["config.denoiser.sigma_data"]),
    ("denoiser.sigma_data=nan", ["config.denoiser.sigma_data"]),
    ("denoiser.sigma_data=inf", ["config.denoiser.sigma_data"]),
    ("denoiser.prediction=abc", ["unknown prediction"]),
    ("objective.adapt_bins=100000000000", ["config.objective.adapt_bins"]),
    ("objective.name=abc", ["unknown objective"]),
    ("objective.times.name=LogNormal2", ["no TimeDistribution"]),
    ("objective.stratified=3", ["neither true nor false"]),
    ("optim.lr=nan", ["lr"]),
    ("optim.lr=-1", ["lr"]),
    ("optim.lr=abc", ["number"]),
    ("optim.name=adamm", ["adamm"]),
    ("ema=1", ["config.ema"]),
    ("ema=nan", ["config.ema"]),
    ("devices=-1", ["config.devices"]),
    ("devices=4096", ["config.devices"]),
    ("fit.rate=-1", ["config.fit.rate"]),
    ("dequantise.lr=-1", ["config.dequantise.lr"]),
    ("sampling.number=0", ["config.sampling.number"]),
    ("sampling.label=3", ["config.sampling.label"]),
    ("sampling.sampler=abc", ["unknown sampler"]),
    ("samplers.ddim.eta=nan", ["config.samplers.ddim.eta"]),
    ("samplers.ddim.eta=abc", ["DDIM needs a number as eta"]),
    ("samplers.ddim.steps=abc", ["steps"]),
    ("samplers.ddim.steps=0", ["step"]),
    ("samplers.ddim.steps=2000000000", ["steps"]),
    ("samplers.ddim.grid=abc", ["unknown grid"]),
    ("samplers.ddim.end=5", ["end"]),
    ("samplers.ddim.end=abc", ["end"]),
    ("samplers.ode.end=5", ["end"]),
    ("samplers.ode.rtol=-1", ["rtol"]),
    ("samplers.ode.rtol=abc", ["rtol"]),
    ("samplers.pc.corrector.snr=abc", ["snr"]),
    ("samplers.pc.corrector=Langevin", ["is a section"]),
    ("samplers.best.nfe=abc", ["nfe"]),
    ("samplers.best.nfe=1", ["nfe"]),
    ("samplers.x.name=Heun", ["config.samplers.x", "grid, steps"]),
    ("samplers.x.steps=5", ["config.samplers.x", "needs a name"]),
    ("samplers.x=Heun", ["config.samplers.x"]),
    ("samplers.a/b.name=Heun", ["a/b"]),
    ("=3", ["empty name"]),
]


@pytest.mark.parametrize(
    "given, parts", WRONG, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_wrong_setting_ends_in_one_message_that_names_it(
    given, parts, tiny_flags, in_process, tmp_path, monkeypatch
):
    monkeypatch.setattr("experiments.modes.train.with_parameters", not_reached)
    workdir = tmp_path / "run"
    result = in_process(*tiny_flags, f"--config.{given}", f"--workdir={workdir}")
    assert result.code == 1 and not result.out, result
    assert result.err.startswith("error: ") and "unexpected" not in result.err, result.err
    assert len(result.err.splitlines()) <= 3 and "Traceback" not in result.err, result.err
    name, _, value = given.rpartition("=")
    keys = name.removesuffix(".name").split(".")
    assert keys[-1] in result.err or f"config.{'.'.join(keys[:-1])}:" in result.err, result.err
    key_is_wrong = "has no setting" in result.err or "cannot name" in result.err
    text = value.strip("(),").split(",")[0]
    assert key_is_wrong or value == "true" or text in result.err, result.err
    assert not [part for part in parts if part not in result.err], result.err
    assert not workdir.exists()


def not_reached(run):
    raise AssertionError("the configuration was accepted")


@pytest.mark.parametrize(
    "flags, parts",
    [
        (["--mod=train"], ["no --mod", "did you mean --mode?"]),
        (["--wrokdir=x"], ["did you mean --workdir?"]),
        (["--confg.train.steps=3"], ["--config.section.name=value"]),
        (["--mode=smaple"], ["no --mode=smaple", "did you mean sample?"]),
        (["--mode="], ["--mode needs a value"]),
        (["--mode"], ["--mode needs a value"]),
        (["--workdir", "--mode=train"], ["--workdir needs a value"]),
        (["--dry_run=perhaps"], ["--dry_run", "perhaps"]),
        (["--noconfig.train.flip=true"], ["takes no value"]),
        (["--profile=0"], ["--profile", "at least 1", "'0'"]),
        (["--profile=many"], ["--profile", "'many'"]),
        (["--profile"], ["--profile needs a value"]),
        (["--mode=sample", "--profile=3"], ["--mode=train", "--mode=sample"]),
        (["stray"], ["unexpected argument 'stray'"]),
        (["--"], ["unexpected argument '--'"]),
        (["--workdir=x\0y"], ["null"]),
        (["--workdir=gs://bucket/run", "--mode=sample"], ["is an address"]),
        (["--workdir=" + "x" * 300, "--mode=sample"], ["300 characters", "too long"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_argument_ends_in_one_message(flags, parts, in_process):
    result = in_process(*flags)
    assert result.code == 1 and not result.out and len(result.err.splitlines()) == 1, result
    assert not [part for part in parts if part not in result.err], result.err


BASE = "from experiments.configs.common import base_config\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("x = 1\ndef get_config(:\n", "line 2: SyntaxError"),
        ("x = 1\ny = z\n", "line 2: NameError: name 'z' is not defined"),
        ("def get_config(variant=''):\n    return 1 / 0\n", "line 2: ZeroDivisionError"),
        ("import no_such_package\n", "line 1: ModuleNotFoundError"),
        ("raise SystemExit(3)\n", "line 1: SystemExit"),
        ("x = 1\n", "has no function get_config"),
        (
            "def get_config():\n    return {}\n",
            "returns a dict, expected an ml_collections.ConfigDict",
        ),
        (BASE + "def get_config():\n    return base_config()\n", "config.data names no object"),
        (
            BASE + "get_config = base_config\nget_config()['seed'] = 'x'\n",
            "line 3: TypeError",
        ),
    ],
)
def test_a_configuration_file_that_fails_is_named_with_the_line(
    text, message, in_process, tmp_path
):
    file = tmp_path / "mine.py"
    file.write_text(text)
    result = in_process(f"--config={file}", "--dry_run")
    assert result.code == 1 and message in result.err and len(result.err.splitlines()) == 1
    assert str(file) in result.err or "config.data" in result.err
    if "get_config():" in text:
        result = in_process(f"--config={file}:variant", "--dry_run")
        assert "has no variants, got 'variant'" in result.err


@pytest.mark.parametrize("given", ["vp,ve", "moons,mixture", "spiral"])
def test_a_variant_of_which_a_word_would_be_dropped_is_refused(given):
    with pytest.raises(RunError, match=given.split(",")[-1]):
        resolve(parse([f"--config=experiments/configs/toy.py:{given}", "--dry_run"]))


def test_an_error_that_nobody_foresaw_is_one_line_and_a_file(in_process, monkeypatch, tmp_path):
    def fail(command):
        raise KeyError("x")

    monkeypatch.setattr(main, "execute", fail)
    monkeypatch.setattr(main.tempfile, "mkdtemp", lambda prefix: str(tmp_path))
    result = in_process("--mode=train")
    assert result.code == 1 and result.err.startswith(
        "error: unexpected KeyError: 'x' (traceback in "
    )
    assert "KeyError" in (tmp_path / "error.txt").read_text()


def test_being_interrupted_is_one_line_and_the_shells_exit_code(in_process, monkeypatch):
    def interrupt(command):
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "execute", interrupt)
    result = in_process("--mode=train")
    assert result.code == 130 and result.err.startswith("interrupted")


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_asks_for_a_run_directory(mode, in_process, tiny_flags, tmp_path):
    flags = tiny_flags if mode == "train" else []
    result = in_process(f"--mode={mode}", *flags)
    assert result.code == 1 and "name a run directory with --workdir=" in result.err
    result = in_process(f"--mode={mode}", f"--workdir={tmp_path}/none")
    assert result.code == 1 and not (tmp_path / "none").exists()
