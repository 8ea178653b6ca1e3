"""The published settings of the score-SDE papers build, and have the published sizes."""

import flax.nnx as nnx
import jax
import pytest

import models
from experiments.build import build, make
from experiments.check import check_run, check_settings
from experiments.configs.score_sde import get_config
from experiments.errors import RunError


@pytest.mark.parametrize(
    "variant, parameters, sigma_max",
    [
        ("ve,ncsnpp", 62_758_915, 100),
        ("ve,ncsnpp,church", 65_574_549, 760),
        ("ve,ncsnpp,ffhq", 105_785_896, 2696),
        ("vp,ddpm,bedroom", 111_569_923, None),
        ("subvp,ddpm,unconditional", 32_329_347, None),
    ],
)
def test_a_published_setting_builds(variant, parameters, sigma_max):
    config = get_config(variant)
    check_settings(config)
    run = build(config, abstract=True)
    check_run(run)
    assert sum(p.size for p in jax.tree.leaves(run.split.params)) == parameters
    assert sigma_max is None or run.sde.sigma_max == sigma_max
    assert run.config.samplers.published.steps == (2000 if "ve" in variant and "," in variant[len("ve,ncsnpp") :] else 1000)


@pytest.mark.parametrize("variant", ["vp,ncsnpp", "subvp,ddpmpp,deep", "vp,ddpmpp", "ve,ddpmpp", "ve,ncsnpp,celeba,deep", "vp,ddpm,church"])
def test_every_other_setting_names_what_exists(variant):
    config = get_config(variant)
    check_settings(config)
    small = {**config.net.to_dict(), "nf": 32, "ch_mult": (1, 1), "num_res_blocks": 1}
    net = nnx.eval_shape(lambda: make(models, small, nnx.Module, shape=(16, 16, 3), num_classes=0, rngs=nnx.Rngs(0)))
    assert net.scale_by_sigma == ("ve" in variant.split(","))


@pytest.mark.parametrize("variant, message", [("ve,ncsnppp", "unknown variant 'ncsnppp'"), ("subvp,ddpm,ffhq", "no ddpm with subvp")])
def test_what_was_not_published_is_refused(variant, message):
    with pytest.raises(RunError, match=message):
        get_config(variant)
