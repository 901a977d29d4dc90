"""The built command computes what the reference computes on random checkpoints of unusual sizes: no size, depth or id is fixed in it."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from .. import checkpoint, preprocess, random_checkpoint
from ..language import LanguageConfig
from ..model import UniBiomed
from ..sam2 import Sam2Config
from ..tokenizer import Tokenizer
from ..vision import VisionConfig
from .test_golden import GOLDEN, ROOT

COMMAND = ROOT / "build/bin/unibiomed"
QUESTION = "<image>Please segment the bright part."
STAGES = (
    "vit_input", "vit_output", "mlp1_output", "prefill_hidden", "step_logits", "seg_hidden", "seg_embedding", "sam_input",
)  # fmt: skip

pytestmark = pytest.mark.skipif(not COMMAND.exists(), reason="build/bin/unibiomed is not built: ./build.sh build")

CASES = {
    "published vocabulary, six tiles": (
        GOLDEN / "tokenizer/qwen2.5-unibiomed",
        VisionConfig(image_size=224, hidden_size=96, intermediate_size=160, num_hidden_layers=3, num_attention_heads=3),
        LanguageConfig(
            hidden_size=192, intermediate_size=320, num_hidden_layers=5, num_attention_heads=3, num_key_value_heads=1
        ),
        Sam2Config(
            image_size=512, hiera_embed_dim=24, hiera_num_heads=1, hiera_stages=[2, 3, 4, 1], hiera_global_att_blocks=[6, 8],
            hiera_window_spec=[8, 4, 8, 8], d_model=128, memory_dim=32, memory_attention_num_layers=3, memory_attention_mlp_dim=96,
            decoder_num_heads=4, decoder_mlp_dim=192, decoder_iou_head_hidden_dim=64,
        ),
        {"max_tiles": 6, "thumbnail": True, "prompted_slices": 3},
    ),
    "small vocabulary, no qkv bias": (
        ROOT / "reference/nano",
        VisionConfig(
            image_size=448, hidden_size=64, intermediate_size=96, num_hidden_layers=6, num_attention_heads=2, qkv_bias=False
        ),
        LanguageConfig(
            hidden_size=160, intermediate_size=256, num_hidden_layers=2, num_attention_heads=5, num_key_value_heads=5,
            rope_theta=10000.0, rms_norm_eps=1e-5,
        ),
        Sam2Config(
            image_size=256, hiera_embed_dim=32, hiera_num_heads=2, hiera_stages=[1, 1, 5, 2], hiera_global_att_blocks=[3, 5],
            hiera_window_spec=[8, 4, 16, 8], d_model=64, memory_dim=32, memory_attention_num_layers=1, memory_attention_mlp_dim=64,
            decoder_mlp_dim=128, decoder_iou_head_hidden_dim=96, num_maskmem=4, max_obj_ptrs_in_encoder=5,
        ),
        {},
    ),
}  # fmt: skip


def difference(a, b):
    """Relative rms of two tensors that may differ in shape but not in order."""
    a, b = a.double().reshape(-1), b.double().reshape(-1)
    return float((a - b).pow(2).mean().sqrt() / b.pow(2).mean().sqrt())


def blobs(seed, width=150, height=110):
    """A smooth colour image."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.BICUBIC)


def run(*args):
    done = subprocess.run([COMMAND, *map(str, args), "--quiet"], capture_output=True, text=True, env=os.environ | {"UNIBIOMED_ACCEL": "exact"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def set_first_token(folder, trace, token):
    """Turns the row of `token` in lm_head to the state at the end of the prompt, so that the answer begins with it."""
    h = trace["prefill_hidden"]
    t = load_file(folder / "model.safetensors")
    head = t["language_model.lm_head.weight"]
    head[token] = (h / h.norm() * 3 * head.norm(dim=1).mean()).to(head.dtype)
    save_file({k: v.contiguous() for k, v in t.items()}, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", CASES)
def test_unseen_sizes(name, tmp_path):
    tokenizer, vision, language, sam2, extra = CASES[name]
    if not tokenizer.exists():
        pytest.skip("no golden data: set UNIBIOMED_SHARED to the folder that holds golden/")
    words = Tokenizer.load(tokenizer)
    language.vocab_size = len(words)
    folder, converted = tmp_path / "checkpoint", tmp_path / "model"
    folder.mkdir()
    with torch.device("meta"):
        empty = UniBiomed(vision, language, sam2, words, extra, "v2")
    shapes = {n: tuple(t.shape) for n, t in sorted(empty.state_dict().items())}
    checkpoint.write_configs(folder, vision, language, sam2, extra, words, "v2")
    random_checkpoint.write(folder / "model.safetensors", shapes, 7, False)

    paths = []
    for i in range(4):
        paths.append(tmp_path / f"{i}.png")
        blobs(i).save(paths[-1])
    images = [preprocess.load_rgb(p) for p in paths]
    with torch.no_grad():
        first = checkpoint.load(folder).eval().predict(QUESTION, image=images[0], limit=4)
        set_first_token(folder, first.trace, words.seg)
        model = checkpoint.load(folder).eval()
        want = model.predict(QUESTION, image=images[0], limit=4)
        video = model.predict(QUESTION, video=images, limit=4)
    assert words.seg in want.ids and want.masks and video.masks

    run("convert", folder, "--out", converted, "--type", "f32")

    def ask(*inputs):
        trace = tmp_path / "trace.safetensors"
        out = run("ask", "-m", converted, *inputs, "-p", QUESTION, "--max-new-tokens", 4, "--json", "--trace", trace, "--out", tmp_path / "out")
        return json.loads(out), load_file(trace)

    def pixels_off(result, mask):
        got = np.asarray(Image.open(tmp_path / "out" / result["mask"]["file"])) > 0
        return int((got != mask.numpy()).sum())

    got, trace = ask(paths[0])
    assert got["token_ids"] == want.ids
    f0, f1, p2 = want.trace["features"]
    for stage, value in [(s, want.trace[s]) for s in STAGES] + [("F0", f0), ("F1", f1), ("P2", p2)]:
        value = torch.stack(value) if isinstance(value, list) else value
        assert difference(trace[stage], value) <= 1e-5, stage
    # Masks of random weights are noise with many logits near zero, so some pixels may tip.
    limit = 1e-3 * images[0].size[0] * images[0].size[1]
    for finding, mask in zip(got["findings"], want.masks, strict=True):
        assert pixels_off(finding, mask[0]) <= limit

    got, _ = ask(*paths, "--video")
    assert got["token_ids"] == video.ids
    for finding, mask in zip(got["findings"], video.masks, strict=True):
        assert any(s["tracked"] for s in finding["slices"]) == (extra.get("prompted_slices", 5) < len(paths))
        for s in finding["slices"]:
            assert pixels_off(s, mask[s["slice"]]) <= limit
