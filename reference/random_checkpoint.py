"""Writes a randomly initialised checkpoint in the published layout, by default of the true 1B size (4.05 GB):

    python -m reference.random_checkpoint OUT [--config FOLDER] [--tokenizer FOLDER] [--outliers] [--seed N]

Tensors are made and written one after another, in pieces, so a few hundred megabytes of memory are enough.
"""

import argparse
import json
import zlib
from pathlib import Path

import numpy as np
import torch

from . import checkpoint
from .language import LanguageConfig
from .model import UniBiomed
from .sam2 import Sam2Config
from .tokenizer import Tokenizer
from .vision import VisionConfig

PIECE = 1 << 22  # elements made at a time


def stored_type(name):
    """The published file keeps the vision tower in bf16 and everything else in f32."""
    return torch.bfloat16 if name.startswith("vision_model.") else torch.float32


def pieces(name, shape, seed, outliers):
    """Yields the values of one tensor, flat f32 arrays of at most PIECE elements or one row.

    Norm and scale vectors lie around 1, layer scales around 0.1, other vectors are small; matrices have variance 1/fan-in.
    With outliers, about one row in 200 of every matrix is 50 to 100 times larger. The rows are the same for every matrix of that
    height, as outlier channels of trained networks persist from layer to layer.
    """
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    rows = shape[0] if shape else 1
    width = int(np.prod(shape)) // max(1, rows)
    vector = len([n for n in shape if n > 1]) <= 1
    if vector:
        values = 0.02 * rng.standard_normal(int(np.prod(shape)), dtype=np.float32)
        around_one = name.endswith("weight") or name.endswith("layernorm.weight")
        if "embed" not in name and "token" not in name and around_one:
            values += 1
        if name.endswith((".ls1", ".ls2", "g_weight")):
            values += 0.1
        yield values
        return
    scale = 1.0 if name.endswith("gaussian_matrix") else 0.02 if "embed" in name or "token" in name else width**-0.5
    gain = np.ones(rows, np.float32)
    if outliers and "embed" not in name:
        shared = np.random.default_rng([seed, rows])
        some = shared.choice(rows, max(1, rows // 200), replace=False)
        gain[some] = shared.uniform(50, 100, len(some))
    step = max(1, PIECE // width)
    for at in range(0, rows, step):
        block = rng.standard_normal((min(step, rows - at), width), dtype=np.float32) * scale
        yield (block * gain[at : at + len(block), None]).ravel()


def write(path, shapes, seed, outliers):
    """A safetensors file: header length, JSON header, then the tensors in name order."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    names = {torch.bfloat16: "BF16", torch.float32: "F32"}
    for name, shape in shapes.items():
        kind = stored_type(name)
        size = int(np.prod(shape)) * kind.itemsize
        header[name] = {"dtype": names[kind], "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            for values in pieces(name, shape, seed, outliers):
                if stored_type(name) == torch.bfloat16:
                    file.write(torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().tobytes())
                else:
                    file.write(values.tobytes())
    return at


def main():
    parser = argparse.ArgumentParser(description="Writes a randomly initialised checkpoint in the published layout.")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--config", help="folder with config.json and sam2_config.json; without it the sizes are those of the 1B model")
    parser.add_argument("--tokenizer", default="../shared/golden/tokenizer/qwen2.5-unibiomed", help="folder with the tokenizer files")
    parser.add_argument("--outliers", action="store_true", help="make a few channels 50 to 100 times larger than the rest")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    words = Tokenizer.load(args.tokenizer)
    vision, language, sam2, extra, version = VisionConfig(), LanguageConfig(vocab_size=len(words)), Sam2Config(), {}, "v2"
    if args.config:
        folder = Path(args.config)
        config = checkpoint.read_json(folder / "config.json")
        vision = checkpoint.pick(VisionConfig, config["vision_config"])
        language = checkpoint.pick(LanguageConfig, config["llm_config"] | {"vocab_size": len(words)})
        sam2 = checkpoint.pick(Sam2Config, checkpoint.read_json(folder / "sam2_config.json"))
        extra, version = checkpoint.read_json(folder / "unibiomed_config.json"), config.get("ps_version", "v2")
    with torch.device("meta"):
        model = UniBiomed(vision, language, sam2, words, extra, version)
    shapes = {name: tuple(t.shape) for name, t in sorted(model.state_dict().items())}
    checkpoint.write_configs(args.out, vision, language, sam2, extra, words, version)
    size = write(Path(args.out) / "model.safetensors", shapes, args.seed, args.outliers)
    elements = sum(int(np.prod(s)) for s in shapes.values())
    print(f"{len(shapes)} tensors, {elements:,} elements, {size:,} bytes of weights in {args.out}")


if __name__ == "__main__":
    main()
