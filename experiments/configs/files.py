"""A folder of images, or arrays in an .npy or .npz file, of your own.

    python -m experiments.main --config=experiments/configs/files.py --config.data.path=my_images --config.data.image_size=32 \\
        --workdir=runs/mine --mode=train

image_size cuts and resamples the images of a folder to squares; leave it out where they have one
size, and for arrays. Images that cannot be read are all named; --config.data.skip_unreadable=True
leaves them out. Variants: vp, ve, subvp. Images in sub-folders are labelled by them, arrays by y in
the .npz or by --config.data.labels=y.npy: add ",cond" to condition on the label, or on whatever
else stands beside each example, as cond in the .npz or by --config.data.cond=cond.npy: a vector, a
set of vectors, or an image of the same size. Samples take conditions from a file
(--config.sampling.condition=observed.npy). For an array of
vectors (N, D) add ",vectors": an MLP instead of the U-Net. Floats are used as they are; where
images lie in [0, 1], --config.data.value_range='(0,1)' maps them to [-1, 1]. See `data.Files` for
all settings.
"""

from ml_collections.config_dict import placeholder

from experiments.configs.common import base_config, choose_sde


def get_config(variant: str = "vp"):
    """Return the configuration of a variant; the docstring of this file lists them."""
    config = base_config()
    words = choose_sde(config, variant, ("cond", "vectors"))
    config.data = {"name": "Files", "path": placeholder(str), "image_size": placeholder(int)}
    config.net = {
        "name": "UNet",
        "nf": 64,
        "ch_mult": (1, 2, 2),
        "num_res_blocks": 2,
        "attn_resolutions": (16,),
        "dropout": 0.1,
    }
    config.train.update(
        {
            "steps": 100_000,
            "batch_size": 64,
            "flip": True,
            "sample_every": 2500,
            "conditional": "cond" in words,
        }
    )
    config.eval.update({"split": "validation", "number": 500})
    if "vectors" in words:
        config.net = {"name": "MLP", "width": 256, "depth": 4}
        config.train.flip = False
        # The norms of a few numbers are too erratic for Langevin.
        config.samplers.pc.corrector = {"name": "AnnealedLangevin", "snr": 0.16}
    return config
