"""Where a GPU's time goes, kernel by kernel:

    python -m reference.kernels MODEL --library build/lib/libunibiomed.so

runs the native library under PyTorch's profiler, which sees the kernels of the whole process, and prints for every stage of an answer its time by
the clock, how long the GPU was busy, and its kernels. Inputs are noise. Needs a library of the preset `cuda` and PyTorch on the same GPU.
"""

import argparse
import ctypes as c
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

TILES = 10


class Error(c.Structure):
    _fields_ = [("code", c.c_int32), ("message", c.c_char * 1020)]


class Files(c.Structure):
    _fields_ = [("size", c.c_uint32), ("reserved", c.c_uint32), ("language", c.c_char_p), ("vision", c.c_char_p), ("grounding", c.c_char_p)]


class Params(c.Structure):
    _fields_ = [
        ("size", c.c_uint32), ("n_threads", c.c_int32), ("device", c.c_char_p), ("memory_limit", c.c_uint64), ("n_ctx", c.c_uint32),
        ("tile_batch", c.c_uint32), ("mask_batch", c.c_uint32), ("vocab_only", c.c_uint32), ("kv_cache", c.c_char_p),
    ]  # fmt: skip


class Info(c.Structure):
    _fields_ = [("size", c.c_uint32)] + [
        (name, c.c_int32)
        for name in "n_vocab n_embd n_layer n_ctx_train tile_size tile_tokens tile_min tile_max tile_thumbnail vit_tokens vit_embd".split()
    ] + [("mean_std", c.c_float * 6), ("mask_image_size", c.c_int32), ("rest", c.c_int32 * 7), ("mask_mean_std", c.c_float * 6)]  # fmt: skip


class Model:
    """The stages of one answer through the C ABI (csrc/include/unibiomed.h)."""

    def __init__(self, library, folder, device):
        self.library, self.error = c.CDLL(str(library)), Error()
        files, params, info = Files(), Params(), Info(size=c.sizeof(Info))
        self.library.ub_struct_size.restype = c.c_int64
        for name, ours in (("error", Error), ("model_files", Files), ("model_params", Params), ("model_info", Info)):
            assert c.sizeof(ours) == self.library.ub_struct_size(b"ub_" + name.encode()), f"ub_{name} of this library is another one"
        self.library.ub_model_files_init(c.byref(files))
        self.library.ub_model_params_init(c.byref(params))
        for part in ("language", "vision", "grounding"):
            setattr(files, part, str(Path(folder) / f"{part}.gguf").encode())
        params.device, params.n_ctx = device.encode(), 4096
        self.model, self.session = c.c_void_p(), c.c_void_p()
        self.call("ub_model_open", c.byref(files), c.byref(params), None, c.byref(self.model))
        self.call("ub_model_get_info", self.model, c.byref(info))
        self.call("ub_session_open", self.model, 4096, c.byref(self.session))
        noise = lambda *shape: np.random.default_rng(1).standard_normal(shape, np.float32)
        self.tiles, self.image = noise(TILES, 3, info.tile_size, info.tile_size), noise(3, info.mask_image_size, info.mask_image_size)
        self.embeddings = np.zeros((TILES * info.tile_tokens, info.n_embd), np.float32)
        self.ids = np.array([11] * 10 + [-1] * len(self.embeddings) + [13] * 13, np.int32)
        self.logits, self.hidden = np.zeros(info.n_vocab, np.float32), np.zeros(info.n_embd, np.float32)

    def call(self, name, *arguments):
        convert = lambda a: a.ctypes.data_as(c.c_void_p) if isinstance(a, np.ndarray) else a
        if getattr(self.library, name)(*map(convert, arguments), c.byref(self.error)):
            raise RuntimeError(f"{name}: {self.error.message.decode()}")

    def vision(self):
        self.call("ub_vision_encode", self.model, self.tiles, TILES, self.embeddings, None)

    def features(self):
        made = c.c_void_p()
        self.call("ub_features_encode", self.model, self.image, c.byref(made), None)
        self.library.ub_features_free(made)

    def prefill(self):
        self.call("ub_session_truncate", self.session, 0)
        n = len(self.ids)
        self.call("ub_session_prefill", self.session, self.ids, n, self.embeddings, len(self.embeddings), self.logits, self.hidden, None)

    def decode(self):
        self.call("ub_session_truncate", self.session, len(self.ids))
        for _ in range(8):
            self.call("ub_session_decode", self.session, self.ids[:1], 1, self.logits, self.hidden)


def kernels(work):
    """Runs work once; returns {kernel or copy: [count, seconds]}."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        work()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    found = {}
    for e in events:
        if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
            entry = found.setdefault(e["name"], [0, 0.0])
            entry[0] += 1
            entry[1] += e["dur"] * 1e-6
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="model folder of unibiomed")
    parser.add_argument("--library", default="build/lib/libunibiomed.so")
    parser.add_argument("--device", default="cuda0")
    parser.add_argument("--most", type=int, default=15, help="kernels shown of a stage")
    args = parser.parse_args()
    model = Model(args.library, args.model, args.device)
    torch.zeros(1, device="cuda")
    for name in ("vision", "features", "prefill", "decode"):
        work, times = getattr(model, name), []
        for _ in range(6):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        found = kernels(work)
        busy = sum(seconds for _, seconds in found.values())
        print(f"{name}: {1e3 * min(times):.1f} ms by the clock, best of {len(times)}; GPU busy {1e3 * busy:.1f} ms")
        for kernel, (count, seconds) in sorted(found.items(), key=lambda item: -item[1][1])[: args.most]:
            print(f"  {1e3 * seconds:8.3f} ms {count:5d}  {kernel[:120]}")


if __name__ == "__main__":
    main()
