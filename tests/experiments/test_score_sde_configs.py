"""The published settings of the score-SDE papers build, and have the published sizes."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import sde_lib
from experiments.configs.score_sde import DATA, get_config
from experiments.convert.export import _filled
from experiments.convert.settings import from_score_sde
from experiments.errors import RunError
from experiments.run.build import build, make
from experiments.run.check import check_run, check_settings
from experiments.run.walks import make_walk

# score_sde's 39 files, by folder.
PUBLISHED = {
    "ve/cifar10_ncsnpp": "ve,ncsnpp,discrete",
    "ve/cifar10_ncsnpp_continuous": "ve,ncsnpp",
    "ve/cifar10_ncsnpp_deep_continuous": "ve,ncsnpp,deep",
    "ve/cifar10_ddpm": "ve,ddpm",
    "ve/celeba_ncsnpp": "ve,ncsnpp,celeba",
    **{
        f"ve/{name}_ncsnpp_continuous": f"ve,ncsnpp,{name}"
        for name in DATA
        if name not in ("cifar10", "celeba")
    },
    **{
        f"ve/ncsn/{name}{own and '_'}{own}": f"ve,ncsn,{name},{own}"
        for name in ("cifar10", "celeba")
        for own in ("", "124", "1245", "5")
    },
    **{f"ve/ncsnv2/{name}": f"ve,ncsnv2,{name}" for name in ("cifar10", "celeba", "bedroom")},
    **{f"vp/cifar10_{name}": f"vp,{name},discrete" for name in ("ddpmpp", "ncsnpp")},
    **{
        f"{sde}/cifar10_{name}_continuous": f"{sde},{name}"
        for sde in ("vp", "subvp")
        for name in ("ddpmpp", "ncsnpp")
    },
    **{
        f"{sde}/cifar10_{name}_deep_continuous": f"{sde},{name},deep"
        for sde in ("vp", "subvp")
        for name in ("ddpmpp", "ncsnpp")
    },
    "vp/ddpm/cifar10": "vp,ddpm,discrete",
    "vp/ddpm/cifar10_continuous": "vp,ddpm",
    "vp/ddpm/cifar10_unconditional": "vp,ddpm,discrete,unconditional",
    **{f"vp/ddpm/{name}": f"vp,ddpm,{name}" for name in ("bedroom", "church", "celebahq_256")},
    "subvp/cifar10_ddpm_continuous": "subvp,ddpm",
}
ON_A_TABLE = {
    "ve/cifar10_ncsnpp",
    "ve/cifar10_ddpm",
    "ve/celeba_ncsnpp",
    "vp/cifar10_ddpmpp",
    "vp/cifar10_ncsnpp",
}


def test_every_published_setting_has_a_variant_whose_process_and_walk_exist():
    assert len(PUBLISHED) == len({*PUBLISHED.values()}) == 39
    seen = set()
    for name, variant in PUBLISHED.items():
        config = get_config(variant)
        check_settings(config)
        process = make(sde_lib, config.sde, sde_lib.SDE)
        table = (
            name in ON_A_TABLE or "/ncsn" in name or "/ddpm/" in name and "continuous" not in name
        )
        assert (
            isinstance(process, sde_lib.Discrete)
            == table
            == (config.objective.to_dict()["times"]["name"] == "Levels")
        ), name
        walk, ts = make_walk(config.samplers.published, process)
        evaluations = (len(ts) - 1) * sum(
            getattr(part, "n_steps", 1)
            for part in (getattr(walk, "predictor", walk), getattr(walk, "corrector", None))
            if part
        )
        assert evaluations in (999, 1998, 1000, 2000, 4000, 1160, 2500, 3258), (name, evaluations)
        if table:
            np.testing.assert_allclose(
                process.label(np.float32(ts[:-1])), np.arange(process.n)[::-1][: len(ts) - 1]
            )
        seen.add(repr(config.to_dict()))
    # where only the pictures differ: faces at 256 and at 1024 pixels, and DDPM on three sets of
    # them
    assert len(seen) == 39 - 4


@pytest.mark.parametrize(
    "variant, parameters, sigma_max",
    [
        ("ve,ncsnpp", 62_758_915, 100),
        ("ve,ncsnpp,discrete", 62_693_251, 100),
        ("ve,ncsnpp,church", 65_574_549, 760),
        ("ve,ncsnpp,ffhq", 105_785_896, 2696),
        ("vp,ddpm,bedroom", 111_569_923, None),
        ("vp,ddpm,discrete,unconditional", 32_329_347, None),
        ("ve,ncsnv2", 29_694_083, 100),
        ("ve,ncsnv2,bedroom", 83_445_379, 380),
        ("ve,ncsn", 30_117_635, 2),
    ],
)
def test_a_published_setting_builds(variant, parameters, sigma_max):
    run = build(get_config(variant), abstract=True)
    check_run(run)
    assert sum(p.size for p in jax.tree.leaves(run.split.params)) == parameters
    assert sigma_max is None or getattr(run.sde, "sde", run.sde).sigma_max == sigma_max


@pytest.mark.parametrize("name", ["ncsnpp_ve_cifar", "ddpm"])
@pytest.mark.parametrize("discrete", [False, True])
def test_a_setting_says_what_the_original_file_converts_to(name, discrete):
    """Of the networks that score_sde names by the same knobs: what the conversion makes of its
    file, at the published size.
    """
    file = Path(__file__).parents[1] / "fixtures" / "networks" / f"{name}.config.json"
    theirs = json.loads(file.read_text())
    theirs["model"] |= {
        "nf": 128,
        "ch_mult": (1, 2, 2, 2),
        "num_res_blocks": 2 if name == "ddpm" else 4,
        "attn_resolutions": (16,),
    }
    theirs["data"]["image_size"] = 32
    if discrete:
        theirs["training"]["continuous"], theirs["model"]["embedding_type"] = False, "positional"
        theirs["sampling"]["predictor"] = (
            "ancestral_sampling" if name == "ddpm" else "reverse_diffusion"
        )
    ours = get_config(
        {"ddpm": "vp,ddpm", "ncsnpp_ve_cifar": "ve,ncsnpp"}[name] + ",discrete" * discrete
    )
    want = from_score_sde(theirs)

    def filled(c):
        settings = _filled(c.net.to_dict()) | {"conditioning.fourier_scale": 16}
        del settings["resampling.kernel"]
        return settings

    assert filled(ours) == filled(want)
    assert make(sde_lib, ours.sde, sde_lib.SDE) == make(sde_lib, want.sde, sde_lib.SDE)
    assert (
        ours.denoiser.to_dict() == want.denoiser.to_dict()
        and ours.objective.to_dict() == want.objective.to_dict()
    )
    assert (ours.ema, ours.optim.to_dict(), ours.train.steps) == (
        want.ema,
        want.optim.to_dict(),
        want.train.steps,
    )
    walks = [
        make_walk(c.samplers.published, make(sde_lib, c.sde, sde_lib.SDE)) for c in (ours, want)
    ]
    assert walks[0][0] == walks[1][0]
    np.testing.assert_array_equal(walks[0][1], walks[1][1])


@pytest.mark.parametrize(
    "variant, message",
    [
        ("ve,ncsnppp", "unknown variant 'ncsnppp'"),
        ("subvp,ddpm,ffhq", "no ddpm with subvp"),
        ("vp,ncsnv2", "no ncsnv2 with vp"),
        ("ve,ncsn,bedroom", "no ncsn with ve was published for bedroom"),
        ("subvp,ddpmpp,discrete", "subvp has no table"),
    ],
)
def test_what_was_not_published_is_refused(variant, message):
    with pytest.raises(RunError, match=message):
        get_config(variant)
