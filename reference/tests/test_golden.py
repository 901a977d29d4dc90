"""The reference reproduces the golden cases, stage by stage. Limits are those of golden/README.md."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from .. import checkpoint, preprocess

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("UNIBIOMED_SHARED", ROOT.parent / "shared"))
GOLDEN = SHARED / "golden"
CASES = GOLDEN / "tiny/cases"
NAMES = sorted(p.stem for p in CASES.glob("*.json"))

pytestmark = pytest.mark.skipif(not NAMES, reason="no golden data: set UNIBIOMED_SHARED to the folder that holds golden/")


@pytest.fixture(scope="module")
def model():
    return checkpoint.load(GOLDEN / "tiny/checkpoint")


def close(name, got, case, tensors, limit=1e-5):
    """Compares a tensor, cut by the case's strides, as relative rms. Stages that a case does not store pass."""
    if name not in tensors:
        return
    got, want = got.float(), tensors[name].float()
    if got.shape != want.shape:
        got = got[tuple(slice(None, None, k) for k in case["strides"].get(name, ()))]
    assert got.shape == want.shape, name
    error = (got - want).pow(2).mean().sqrt() / want.pow(2).mean().sqrt()
    assert error <= limit, f"{name}: relative rms {error:.2e}, limit {limit:.0e}"


def predict(model, case):
    opened = lambda paths: [preprocess.load_rgb(SHARED / p) for p in paths]
    grey = lambda p: np.asarray(Image.open(SHARED / p).convert("L"))
    return model.predict(
        case["text"],
        image=opened([case["image"]])[0] if case.get("image") else None,
        video=opened(case["video"]) if case.get("video") else None,
        past_text=case.get("past_text", ""),
        mask_prompts=[grey(p) for p in case.get("mask_prompts") or []],
        limit=case.get("max_new_tokens", 2048),
    )


def same_mask(on, path):
    want = np.asarray(Image.open(path).convert("L")) > 127
    assert on.shape == want.shape
    assert (on.numpy() != want).sum() <= 3, path.name


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("video")])
def test_image_case(model, name):
    case, tensors = json.loads((CASES / f"{name}.json").read_text()), load_file(CASES / f"{name}.safetensors")
    answer = predict(model, case)
    trace = answer.trace
    assert trace["prompt_ids"] == case["prompt_ids"]
    assert answer.ids == case["generated_ids"]
    assert answer.text == case["prediction"]
    for stage in ("vit_input", "vit_output", "mlp1_output", "prefill_hidden", "step_logits", "seg_hidden", "seg_embedding", "sam_input"):
        if stage in trace:
            close(stage, trace[stage], case, tensors)
    assert (trace["step_logits"] - tensors["step_logits"]).abs().max() <= 1e-3
    assert len(answer.masks) == len(case.get("masks", []))
    if not answer.masks:
        return
    f0, f1, p2 = trace["features"]
    trunk = model.sam.image_encoder.trunk(trace["sam_input"][None])
    for i, c in enumerate(trunk):
        close(f"C{i}", c[0].permute(2, 0, 1), case, tensors)
    for stage, value in {"F0": f0, "F1": f1, "P2": p2, "F2": model.sam.with_no_memory(p2)}.items():
        close(stage, value[0], case, tensors)
    h = model.sam2_config.map_size
    close("dense_pe", model.sam.sam_prompt_encoder.pe_layer(h, h), case, tensors, limit=0)
    for s, mask in enumerate(answer.masks):
        close(f"hs.{s}", trace["hs"][s], case, tensors)
        close(f"mask_logits.{s}.selected", trace["chosen"][s], case, tensors)
        assert (trace["chosen"][s] - tensors[f"mask_logits.{s}.selected"]).abs().max() <= 1e-3
        assert int(trace["selected"][s]) == case["selected"][s]
        np.testing.assert_allclose(trace["iou"][s], case["iou"][s], atol=1e-4)
        np.testing.assert_allclose(trace["object_score"][s], case["object_score"][s], atol=1e-4)
        same_mask(mask[0], CASES / case["masks"][s]["file"])


def test_video_case(model):
    name = "video_8slices"
    case, tensors = json.loads((CASES / f"{name}.json").read_text()), load_file(CASES / f"{name}.safetensors")
    answer = predict(model, case)
    assert answer.ids == case["generated_ids"]
    assert answer.trace["prompt_ids"] == case["prompt_ids"]
    last = len(case["slices"]) - 1
    for t, (got, want) in enumerate(zip(answer.trace["slices"], case["slices"])):
        tracked = want["kind"] != "prompted"
        assert int(got["selected"]) == want["selected"]
        np.testing.assert_allclose(got["iou"], want["iou"], atol=1e-4)
        same_mask(answer.masks[0][t], CASES / want["mask"])
        cuts = {"memory": (f"memory.{t}", (1, 4, 4)), "hs": (f"slice.{t}.hs", (1, 1))}
        cuts["mask_logits_selected"] = (f"slice.{t}.mask_logits_selected", (1, 1) if t in (0, last) else (4, 4))
        cuts["memory_pos"] = (f"slice.{t}.memory_pos", (256, 1))
        cuts["object_pointer_tokens"] = (f"slice.{t}.object_pointer_tokens", (1, 1))
        cuts["memory_attention_out"] = (f"slice.{t}.memory_attention_out", (16, 1))
        for key, (stored, strides) in cuts.items():
            if key not in got or stored not in tensors:
                continue
            a, b = got[key], tensors[stored]
            if a.shape != b.shape:
                a = a[tuple(slice(None, None, k) for k in strides)]
            assert a.shape == b.shape, stored
            # A memory value may round to the other bf16 neighbour; what reads it moves a little more than one f32 stage.
            error = float((a - b).pow(2).mean().sqrt() / b.pow(2).mean().sqrt())
            assert error <= (1e-4 if tracked else 1e-5), f"{stored}: relative rms {error:.2e}"
            if key == "mask_logits_selected":
                assert (a - b).abs().max() <= (0.02 if tracked else 1e-3), stored


def test_tile_grid():
    rows = json.loads((GOLDEN / "preprocess/tile_grid.json").read_text())
    rows = rows["rows"] if isinstance(rows, dict) else rows
    for width, height, columns, down, *_ in rows:
        assert preprocess.tile_grid(width, height, 448) == (columns, down), (width, height)


def test_sam_table():
    want = load_file(GOLDEN / "preprocess/sam_input.safetensors")
    assert torch.equal(preprocess.sam_table(), want["sam_lut_image_f32"])
    assert torch.equal(preprocess.sam_table(video=True), want["sam_lut_video_f32"])


def test_resize():
    index = json.loads((GOLDEN / "preprocess/resize/index.json").read_text())
    want = load_file(GOLDEN / "preprocess/resize/pillow_resize.safetensors")
    pairs = [k.removeprefix("src.") for k in want if k.startswith("src.") and "dst." + k.removeprefix("src.") in want]
    assert index
    for name in pairs:
        dst = want[f"dst.{name}"].numpy()
        got = Image.fromarray(want[f"src.{name}"].numpy()).resize((dst.shape[1], dst.shape[0]))
        assert (np.asarray(got) == dst).all(), f"{name}: this Pillow resizes differently, install 10.2.0"


def test_save_and_load(model, tmp_path):
    checkpoint.save(tmp_path, model)
    again = checkpoint.load(tmp_path).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, again[name]), name
    published = load_file(GOLDEN / "tiny/checkpoint/model.safetensors")
    assert published.keys() == load_file(tmp_path / "model.safetensors").keys()
