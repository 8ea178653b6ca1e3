"""Files as other projects write them, made without their code."""

import io
import pickle
import struct
import zipfile

import numpy as np

from experiments.convert.torch_file import LEGACY_MAGIC


class Tensor:
    """An array that is to be pickled as a tensor."""

    def __init__(self, array):
        self.array = np.ascontiguousarray(array)


def pickled(value):
    """Return the pickle that torch.save makes of plain containers of arrays, and the numbers of its
    storages.
    """
    numbers = []

    class Pickler(pickle._Pickler):  # the one in Python, whose opcodes can be written by hand
        def save(self, obj, save_persistent_id=True):
            if not isinstance(obj, Tensor):
                return super().save(obj, save_persistent_id)
            a = obj.array
            self.write(b"ctorch._utils\n_rebuild_tensor_v2\n(")
            self.write(b"(")
            self.save("storage")
            self.write(b"ctorch\nFloatStorage\n")
            for part in (str(len(numbers)), "cpu", a.size):
                self.save(part)
            self.write(b"tQ")
            strides = tuple(s // a.itemsize for s in a.strides)
            for part in (0, a.shape, strides, False, {}):
                self.save(part)
            self.write(b"tR")
            numbers.append(a.tobytes())

    def wrapped(value):  # in the order given, which jax.tree.map does not keep
        if isinstance(value, dict) and type(value) is dict:
            return {k: wrapped(v) for k, v in value.items()}
        if type(value) is list:
            return [wrapped(v) for v in value]
        return Tensor(value) if isinstance(value, np.ndarray) and value.dtype == "f4" else value

    file = io.BytesIO()
    Pickler(file, 2).dump(wrapped(value))
    return file.getvalue(), numbers


def write_pth(path, state):
    """Write `state` as torch.save does: a pickle that calls torch's functions, and the numbers
    beside it.
    """
    data, numbers = pickled(state)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", "little")
        for i, raw in enumerate(numbers):
            archive.writestr(f"archive/data/{i}", raw)
        archive.writestr("archive/version", "3\n")


def write_old_pth(path, state):
    """Write `state` as torch.save did before it wrote zip archives."""
    data, numbers = pickled(state)
    parts = [pickle.dumps(part, 2) for part in (LEGACY_MAGIC, 1001, {"little_endian": True})]
    keys = pickle.dumps([str(i) for i in range(len(numbers))], 2)
    storages = [struct.pack("<q", len(raw) // 4) + raw for raw in numbers]
    path.write_bytes(b"".join([*parts, data, keys, *storages]))


def published_names(config):
    """Return the shapes of score_sde_pytorch's NCSN++ by the names in its state dict, in order.

    Transcribed from what the published code puts into its list of modules, one after the other, and
    told of no network of ours.
    """
    model, channels, nf = config["model"], config["data"]["num_channels"], config["model"]["nf"]
    biggan, levels = model["resblock_type"] == "biggan", len(model["ch_mult"])
    modules = []

    def conv(cin, cout, size=3):
        return {"weight": (cout, cin, size, size), "bias": (cout,)}

    def norm(features):
        return {"weight": (features,), "bias": (features,)}

    def nin(cin, cout):
        return {"W": (cin, cout), "b": (cout,)}

    def dense(cin, cout):
        return {"weight": (cout, cin), "bias": (cout,)}

    def block(cin, cout, resampled=False):
        parts = {
            "GroupNorm_0": norm(cin),
            "Conv_0": conv(cin, cout),
            "Dense_0": dense(4 * nf, cout),
        }
        parts |= {"GroupNorm_1": norm(cout), "Conv_1": conv(cout, cout)}
        if biggan and (cin != cout or resampled):
            parts["Conv_2"] = conv(cin, cout, 1)
        elif cin != cout:
            parts["NIN_0"] = nin(cin, cout)
        modules.append(parts)

    def attention(features):
        modules.append(
            {"GroupNorm_0": norm(features)}
            | {f"NIN_{i}": nin(features, features) for i in range(4)}
        )

    def resampled(cin, cout):
        name = "Conv2d_0" if model["fir"] else "Conv_0"
        modules.append({name: conv(cin, cout)})

    fourier = model["embedding_type"] == "fourier"
    if fourier:
        modules.append({"": {"W": (nf,)}})
    if model["conditional"]:
        modules.append({"": dense(2 * nf if fourier else nf, 4 * nf)})
        modules.append({"": dense(4 * nf, 4 * nf)})
    modules.append({"": conv(channels, nf)})
    width, image, skips = nf, channels, [nf]
    for level, factor in enumerate(model["ch_mult"]):
        size = config["data"]["image_size"] >> level
        for _ in range(model["num_res_blocks"]):
            block(width, nf * factor)
            width = nf * factor
            if size in model["attn_resolutions"]:
                attention(width)
            skips.append(width)
        if level < levels - 1:
            block(width, width, True) if biggan else resampled(width, width)
            if model["progressive_input"] == "input_skip":
                modules.append({"Conv_0": conv(image, width, 1)})
                width *= 2 if model["progressive_combine"] == "cat" else 1
            elif model["progressive_input"] == "residual":
                resampled(image, width)
                image = width
            skips.append(width)
    block(width, width)
    attention(width)
    block(width, width)
    pyramid = 0
    for level in reversed(range(levels)):
        for _ in range(model["num_res_blocks"] + 1):
            block(width + skips.pop(), nf * model["ch_mult"][level])
            width = nf * model["ch_mult"][level]
        if config["data"]["image_size"] >> level in model["attn_resolutions"]:
            attention(width)
        if model["progressive"] == "output_skip":
            modules.extend([{"": norm(width)}, {"": conv(width, channels)}])
        elif model["progressive"] == "residual" and level == levels - 1:
            modules.extend([{"": norm(width)}, {"": conv(width, width)}])
            pyramid = width
        elif model["progressive"] == "residual":
            resampled(pyramid, width)
            pyramid = width
        if level:
            block(width, width, True) if biggan else resampled(width, width)
    if model["progressive"] != "output_skip":
        modules.extend([{"": norm(width)}, {"": conv(width, channels)}])
    return {
        ".".join(filter(None, ("all_modules", str(i), part, name))): shape
        for i, module in enumerate(modules)
        for part, arrays in module.items()
        for name, shape in arrays.items()
    }
