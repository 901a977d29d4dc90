"""Pieces of the training code that could be wrong without being noticed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .. import heads, texts, tokenizer
from ..data import Jitter, bends, components, intensity, jitters, swap_sides, warp
from ..evaluate import draw_box, largest_box
from ..language import LanguageConfig
from ..model import UniBiomed
from ..preprocess import sam_table
from ..sam2 import MaskDecoder, Sam2Config
from ..muon import Muon, orthogonal
from ..train import Loader, Packed, Reader, drop_paths, mask_loss, normalise, rate, resize_positions
from ..vision import VisionConfig

ROOT = Path(__file__).resolve().parents[2]
VISION = VisionConfig(image_size=56, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)


def words():
    return tokenizer.train(texts.corpus(["polyp in colon endoscope"], ["colon"]), 400)


def test_packed_questions_do_not_see_each_other():
    torch.manual_seed(1)
    t = words()
    config = LanguageConfig(len(t), 32, 64, 2, 2, 1)
    reader = Reader(VISION, config, 16, 3, 2).eval()
    samples = [("<image>Please segment polyp.", "It is [SEG].", ["polyp"]), ("<image>\nIs there a polyp in this image?", "Yes.", [])]
    x = torch.randn(1, 3, 56, 56)
    whole = Packed(t, [samples], 4)
    states, _, _ = reader(x, whole)
    for n, sample in enumerate(samples):
        one = Packed(t, [[sample]], 4)
        alone, _, _ = reader(x, one)
        mine = whole.question == n
        torch.testing.assert_close(states[whole.row[mine], whole.column[mine]], alone[one.row, one.column])
    assert whole.seg_question.tolist() == [0]


def test_positions_of_a_larger_tile_lie_where_they_were():
    ramp = torch.linspace(0, 1, 4).repeat(4, 1)
    table = torch.cat([torch.tensor([[[7.0, 8.0]]]), torch.stack([ramp, ramp.T], dim=-1).reshape(1, 16, 2)], dim=1)
    torch.testing.assert_close(resize_positions(table, 17), table)
    larger = resize_positions(table, 65)
    assert larger.shape == (1, 65, 2)
    assert larger[0, 0].tolist() == [7.0, 8.0]  # of the class token
    across, down = larger[0, 1:].reshape(8, 8, 2).unbind(-1)
    torch.testing.assert_close(across, down.T)
    torch.testing.assert_close(across[3], across[0])
    assert (across[0].diff() > 0).all()
    torch.testing.assert_close(across[0].mean(), torch.tensor(0.5))


def test_packed_equals_inference():
    """What training optimises is what greedy decoding computes."""
    torch.manual_seed(1)
    t = words()
    config = LanguageConfig(len(t), 32, 64, 2, 2, 1)
    sam2 = Sam2Config(image_size=128, hiera_embed_dim=8, hiera_num_heads=1, hiera_stages=[1, 1, 1, 1], hiera_global_att_blocks=[],
                      hiera_window_spec=[8, 4, 8, 4], d_model=32, memory_dim=8, memory_attention_num_layers=1)  # fmt: skip
    reader = Reader(VISION, config, 32, 3, 2).eval()
    model = UniBiomed(VISION, config, sam2, t, {"max_tiles": 1}).eval()
    for part in ("vision_model", "language_model", "mlp1", "text_hidden_fcs"):
        setattr(model, part, getattr(reader, part))
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (60, 70, 3), np.uint8))
    answer = model.predict("<image>Please segment polyp.", image=image, limit=4)
    packed = Packed(t, [[("<image>Please segment polyp.", t.decode(answer.ids), [])]], 4)
    states, _, _ = reader(answer.trace["vit_input"], packed)
    logits = reader.language_model.lm_head(states[packed.row, packed.column - 1])
    assert packed.ids[0, : packed.column[0]].tolist() == answer.trace["prompt_ids"]
    torch.testing.assert_close(logits[:1], answer.trace["step_logits"][:1], atol=1e-4, rtol=1e-4)


def test_training_normalisation_equals_the_table():
    level = torch.arange(256.0).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(normalise(level).float()[0].permute(1, 2, 0).reshape(256, 3), sam_table())


def test_components_and_boxes():
    mask = np.zeros((40, 50), bool)
    mask[3:9, 4:20] = True
    mask[30:32, 40:44] = True
    assert len(components(torch.from_numpy(mask[None])).unique()) == 3
    assert largest_box(mask) == (4, 3, 20, 9)
    drawn = np.asarray(draw_box(Image.new("RGB", (50, 40)), largest_box(mask)))
    assert (drawn[2, 10] == (0, 255, 0)).all() and (drawn[5, 10] == 0).all()


def test_mirrored_phrases():
    assert swap_sides("left lung in chest X-Ray") == "right lung in chest X-Ray"
    assert swap_sides("lung in chest X-Ray") == "lung in chest X-Ray"
    assert swap_sides("left heart atrium in cardiac MRI") == "left heart atrium in cardiac MRI"


def test_orthogonal():
    torch.manual_seed(1)
    for shape in ((32, 128), (128, 32), (3, 24, 96)):
        singular = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert (singular > 0.3).all() and (singular < 1.3).all()


def test_muon_updates_every_parameter_once():
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(24, 72), torch.nn.LayerNorm(72), torch.nn.Linear(72, 16))
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = Muon(model, lr=0.01)
    model(torch.randn(8, 24)).square().sum().backward()
    optimizer.step()
    assert all((p != b).any() for p, b in zip(model.parameters(), before))
    step = (model[0].weight - before[0]).square().mean().sqrt()
    assert 0.1 * 0.01 < step < 0.4 * 0.01  # the size that AdamW's steps have, 0.2 lr
    again = Muon(model, lr=0.01)
    again.load_state_dict(optimizer.state_dict())
    assert torch.equal(again.state[model[0].weight]["average"], optimizer.state[model[0].weight]["average"])


def test_mask_loss_wants_shapes_where_targets_are_and_nothing_elsewhere():
    truth = torch.zeros(2, 16, 16)
    truth[0, 4:12, 4:12] = 1
    logits = torch.full((2, 4, 8, 8), -20.0)
    logits[0, 2:, 2:6, 2:6] = 20
    logits[1, 2:] = 20  # what the masks of shapes show for an absent target is not trained
    iou = torch.tensor([[0.0, 0.0, 0.95, 0.95], [0.0, 1.0, 0.0, 0.0]])
    right, parts = mask_loss(logits, iou, torch.tensor([9.0, -9.0]), truth)
    assert right < 0.2 and parts["dice"] < 0.15
    logits[0, 1] = 20
    assert mask_loss(logits, iou, torch.tensor([9.0, -9.0]), truth)[0] > right + 5, "mask 1 stays empty also where the target is"
    logits[0, 1] = -20
    assert mask_loss(logits, iou.flip(0), torch.tensor([9.0, -9.0]), truth)[0] > right + 0.3


def test_heads_learn_alone_and_leave_look_alikes_a_mask():
    torch.manual_seed(1)
    decoder = MaskDecoder(Sam2Config(d_model=32))
    states = lambda: torch.randn(6, 32)
    disc = (torch.hypot(*torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")) < 9).float()
    there = {"states": states(), "map": torch.stack([2 * disc - 1] * 4).half(), "truth": (disc.repeat_interleave(2, 0).repeat_interleave(2, 1) * 255).byte(), "alike": False}
    absent, alike = ({"states": states(), "map": None, "truth": None, "alike": a} for a in (False, True))
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=3e-3, weight_decay=0)
    before = {k: v.clone() for k, v in decoder.state_dict().items()}
    for _ in range(300):
        optimizer.zero_grad()
        heads.loss(decoder, [there, absent, alike]).backward()
        optimizer.step()
    moved = {k.split(".layers")[0] for k, v in decoder.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"output_hypernetworks_mlps.2", "output_hypernetworks_mlps.3", "iou_prediction_head"}
    with torch.no_grad():
        masks, iou, _ = decoder.heads(torch.stack([e["states"] for e in (there, absent, alike)]), there["map"].float().expand(3, -1, -1, -1))
    assert ((masks[0, 2:] > 0) == (disc > 0)).all()
    torch.testing.assert_close(iou[:, 1:], torch.tensor([[0, 1, 1], [1, 0, 0], [0, heads.POOR, heads.POOR]]).float(), atol=0.05, rtol=0)


def test_intensity():
    x = torch.arange(2 * 3 * 64.0).reshape(2, 3, 8, 8) % 256
    one, none = np.ones((2, 1, 1, 1), np.float32), np.zeros((2, 1, 1, 1), np.float32)
    mix = np.stack([np.eye(3, dtype=np.float32)] * 2)
    still = Jitter(one, mix, none, none, none, np.ones(2, np.float32), 1)
    assert torch.equal(intensity(x.clone(), still), x)
    drawn = jitters(["oct", "fundus"], np.random.default_rng(3))
    drawn.sigma[:] = 0.05
    first = intensity(x.clone(), drawn)
    assert torch.equal(first, intensity(x.clone(), drawn)), "the noise is drawn with the batch"
    assert torch.equal(first, first.round()) and first.min() >= 0 and first.max() <= 255 and not torch.equal(first, x)


def test_warp_bends_no_grid_without_shifts():
    theta = np.array([[1.0, 0, 0], [0, 1, 0]])
    flat = torch.nn.functional.affine_grid(torch.tensor(theta[None], dtype=torch.float32), (1, 3, 12, 12), align_corners=False)
    assert torch.equal(warp([theta], np.zeros((1, 2, 6, 6), np.float32), 12), flat)
    drawn = bends(64, np.random.default_rng(2))
    bent = warp([theta] * 64, drawn, 12) - flat
    assert 20 < int(bent.flatten(1).any(1).sum()) < 44 and bent.abs().max() < 0.2


def test_loader_makes_the_same_batches_in_order():
    make = lambda step: (step, torch.full((2,), float(step)))
    alone, pool = Loader(make, 0), Loader(make, 2)
    try:
        for step in range(5, 25):
            assert str(pool.batch(step)) == str(alone.batch(step))
    finally:
        pool.close()


def test_loader_outlives_a_signal_to_the_group():
    """`timeout` and Ctrl-C signal the whole group of a training, which then makes its last step and saves."""
    code = """
import os, signal, sys
from reference.train import Loader
os.setpgrp()
training = os.getpid()
signal.signal(signal.SIGTERM, lambda *a: os.getpid() == training and print("asked to stop", flush=True))
pool = Loader(lambda step: step, 2)
pool.batch(0)
os.killpg(0, signal.SIGTERM)
print([pool.batch(k) for k in range(1, 20)][-1])
pool.close()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[:2] == ["asked to stop", "19"], done


def test_rate():
    assert rate(0, 1.0, 0.3) == 1 / 60
    assert rate(1000, 0.5, 0.3) == 1
    assert rate(1000, 0.15, 0.3) == 0.5
    assert rate(1000, 0.0, 0.3) == 0.02
    assert rate(1000, 0.0, 0) == 1


def test_drop_paths_leave_out_branches_in_training_only():
    torch.manual_seed(1)
    tower = Reader(VisionConfig(28, 14, 32, 64, 4, 2), LanguageConfig(300, 32, 64, 1, 2, 1), 16, 3, 2).vision_model
    for layer in tower.encoder.layers:
        torch.nn.init.ones_(layer.ls1)
    x = torch.randn(64, 3, 28, 28)
    plain = tower.eval()(x)
    drop_paths(tower.encoder.layers, 0.9)
    assert torch.equal(tower(x), plain)
    kept = []
    tower.encoder.layers[3].attn.register_forward_hook(lambda *a: kept.append(a[2].flatten(1).any(1)))
    tower.train()(x)
    assert 0 < kept[0].sum() < 20  # of 64, one in ten is expected
