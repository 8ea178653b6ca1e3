"""Train the small classifier whose features images are compared in.

    python -m experiments.train_features --data=Digits --out=digits_features.npz
    python -m experiments.train_features --data=Files --config.data.path=my_images \\
        --held_out=validation --out=my_features.npz

Digits take 40 seconds of CPU time, and give an accuracy of 0.973 on the test digits, which come
from other writers. `measures.images.feature_file.load_network` reads the file.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from . import data
from .command.data_set import add_data, parse_with_data
from .errors import RunError
from .measures.images.feature_file import data_facts, load_network, save_network
from .measures.images.feature_network import (
    FeatureNetwork,
    FeatureSettings,
    extract_features,
    new_network,
    parameter_count,
)
from .run.build import make_dataset
from .run.devices import make_mesh, set_up_jax
from .run.messages import progress, say
from .run.placement import replicate, share
from .run.signals import end_at_once

SMOOTHING = 0.1  # of the labels: features of classes that no longer grow apart without end
SHIFT = 0.1  # of an image's side, the farthest that training moves an image


class Training(NamedTuple):
    """How a network is trained."""

    steps: int = 400
    batch_size: int = 64
    lr: float = 2e-3
    weight_decay: float = 1e-3
    seed: int = 0


def train_features(
    dataset: data.DataSet, split: str, training: Training
) -> tuple[FeatureNetwork, FeatureSettings]:
    """Return a classifier of the images of a split, and its settings.

    Images are moved by up to a tenth of their side, at random.

    Raises:
        ValueError: the data have no labels, or are no images of 8 x 8 pixels or more.
        RunError: the loss is not finite.
    """
    shape: Any = dataset.shape  # what is no image is refused below
    settings = FeatureSettings(shape=shape, num_classes=dataset.num_classes)
    network = new_network(settings, training.seed)
    rate = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=training.lr,
        warmup_steps=training.steps // 20,
        decay_steps=training.steps,
    )
    optimizer = optax.adamw(rate, weight_decay=training.weight_decay)
    graph, weights = nnx.split(network)

    @jax.jit(donate_argnums=(0, 1))
    def update(weights, state, key, batch):
        def loss_fn(weights):
            logits = nnx.merge(graph, weights)(moved(key, batch["x"]))
            target = optax.smooth_labels(
                jax.nn.one_hot(batch["label"], settings.num_classes), SMOOTHING
            )
            return optax.softmax_cross_entropy(logits, target).mean()

        loss, gradient = jax.value_and_grad(loss_fn)(weights)
        change, state = optimizer.update(gradient, state, weights)
        return optax.apply_updates(weights, change), state, loss

    mesh = make_mesh(training.batch_size)
    weights = replicate(mesh, weights)
    state = replicate(mesh, optimizer.init(weights))
    key = jax.random.key(training.seed)
    stream = data.batches(dataset, split, training.batch_size, seed=training.seed, train=True)
    with progress(training.steps, "train") as bar:
        for step in range(training.steps):
            batch = share(mesh, next(stream))
            weights, state, loss = update(weights, state, jax.random.fold_in(key, step), batch)
            bar.update()
            if step % 100 == 99 or step == training.steps - 1:
                _check_finite(step, float(loss))
    return nnx.merge(graph, weights), settings


def moved(key: jax.Array, x: jax.Array) -> jax.Array:
    """Return images (batch, height, width, channels), each moved at random by whole pixels.

    What is moved in from outside repeats the edge.
    """
    far = max(1, int(SHIFT * min(x.shape[1:3])))
    padded = jnp.pad(x, ((0, 0), (far, far), (far, far), (0, 0)), mode="edge")
    offsets = jax.random.randint(key, (len(x), 2), 0, 2 * far + 1)

    def crop(image, offset):
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), x.shape[1:])

    return jax.vmap(crop)(padded, offsets)


def accuracy(network: FeatureNetwork, dataset: data.DataSet, split: str) -> float:
    """Return the share of the images of a split that a network classifies correctly."""
    correct = 0
    count = 0
    for block in data.blocks(dataset, split):
        images = dataset.codec.expected(block.x)
        classes = np.asarray(extract_features(network, images).probabilities).argmax(1)
        correct += int(np.sum(classes == block.label))
        count += len(block.label)
    return correct / count


def _check_finite(step: int, loss: float) -> None:
    """Raise a RunError if the loss is not finite."""
    if not np.isfinite(loss):
        raise RunError(f"the loss is {loss} at step {step + 1}; lower --lr")


def main() -> None:
    """Train as the command line says, write the network, and say how good it is."""
    parser = argparse.ArgumentParser(
        "python -m experiments.train_features",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add_data(parser, "with classes, such as Digits")
    parser.add_argument("--out", required=True, type=Path, help=".npz file to write")
    parser.add_argument("--split", default="train", help="split to train on")
    parser.add_argument("--held_out", default="test", help="split to measure the accuracy on")
    for name, value in Training._field_defaults.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    set_up_jax()
    try:
        run(*parse_with_data(parser))
    except (RunError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def run(arguments: argparse.Namespace, config: ConfigDict) -> None:
    """Train on the data that a configuration names, write, and measure the network as written."""
    if arguments.out.suffix != ".npz":
        raise RunError(f"--out is {str(arguments.out)!r}; name a file that ends in .npz")
    training = Training(**{name: getattr(arguments, name) for name in Training._fields})
    dataset = make_dataset(config)
    dataset.source(arguments.held_out)  # a wrong name is said before the training
    start = time.perf_counter()
    network, settings = train_features(dataset, arguments.split, training)
    seconds = time.perf_counter() - start
    held_out = accuracy(network, dataset, arguments.held_out)
    facts = {
        **data_facts(config.data),
        "split": arguments.split,
        "held_out": arguments.held_out,
        "accuracy": held_out,
        "training": training._asdict(),
    }
    save_network(arguments.out, network, settings, facts)
    saved = load_network(arguments.out)
    rounded = accuracy(saved.network, dataset, arguments.held_out)
    say(
        f"{parameter_count(network):,} parameters, {seconds:.0f} s; accuracy on "
        f"{arguments.held_out}: {held_out:.4f}, {rounded:.4f} with the weights as written; "
        f"{saved.name} is in {arguments.out}"
    )


if __name__ == "__main__":
    end_at_once()
    main()
