"""IDX files to test with, written from the description of the format."""

import gzip
import hashlib
import struct

import numpy as np

NUMBERS = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def idx_bytes(x):
    """Return the bytes of an IDX file."""
    kind = x.dtype.str[1:]
    header = struct.pack(">BBBB", 0, 0, NUMBERS[kind], x.ndim)
    lengths = b"".join(struct.pack(">I", n) for n in x.shape)
    return header + lengths + x.astype(f">{kind}").tobytes()


def clothes(count, seed):
    """Return images (count, 28, 28) of noise and labels (count,), of which 9 is one."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (count, 28, 28), np.uint8)
    return x, ((np.arange(count) + seed + 9) % 10).astype(np.uint8)


def write_clothes(folder, counts, zipped=True, prefix="", suffix=""):
    """Write the four files of a small Fashion-MNIST into a folder; return its parts."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {}
    for seed, (part, names) in enumerate(NAMES.items()):
        parts[part] = clothes(counts[part], seed)
        for name, array in zip(names, parts[part], strict=True):
            content = idx_bytes(array)
            end = ".gz" if zipped else ""
            content = gzip.compress(content) if zipped else content
            (folder / f"{prefix}{name}{suffix}{end}").write_bytes(content)
    return parts


def make_small(monkeypatch, module, parts, fit):
    """Let the module of Fashion-MNIST expect these parts, of which the first `fit` rows train."""
    digests = {
        part: hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()
        for part, (x, y) in parts.items()
    }
    monkeypatch.setattr(module, "SHA256", digests)
    rows = {
        "train": ("train", slice(0, fit)),
        "validation": ("train", slice(fit, len(parts["train"][0]))),
        "test": ("test", slice(0, len(parts["test"][0]))),
    }
    monkeypatch.setattr(module, "SPLITS", rows)
