"""Trains unibiomed-nano: python -m reference.train --data FOLDER --work FOLDER --stage sam|language|export.

Stages: `sam` learns masks from a table with one embedding a target phrase; `language` learns the answers and to reproduce
the table at [SEG]; `export` writes a checkpoint folder of both. A stage resumes from its own state in the work folder.
"""

import argparse
import json
import math
import multiprocessing
import os
import pickle
import signal
import time
from collections import deque
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from . import checkpoint, texts, tokenizer
from .data import Dataset
from .evaluate import draw_box, questions
from .language import LanguageConfig, LanguageModel
from .model import UniBiomed
from .muon import Muon
from .preprocess import MEAN, STD
from .sam2 import Sam2, Sam2Config, resize_mask
from .vision import VisionConfig, VisionTower, pixel_shuffle

ABOUT = {
    "name": "unibiomed-nano",
    "description": "A small model of the UniBiomed architecture, trained on openly licensed images of ten modalities. For trying, testing and teaching.",
    "licence": "Apache-2.0, training data by attribution: see CARD.md",
    "intended_use": "Research use only. Not for diagnosis.",
    "min_tiles": 1,
    "max_tiles": 1,
    "thumbnail": False,
    "prompted_slices": 5,
}
TRAINING = "training.safetensors"  # beside an exported checkpoint: what only the training needs
CURVE = "curve.jsonl"  # in the work folder: a line an evaluation on the validation split, the learning curve
POOR = 0.4  # predicted IoU of a target that is there, at least: else the empty mask, right as often as targets are absent, wins over poor masks
VOCABULARY = 1500  # at most; the texts need fewer


def sam2_config(size):
    """SAM 2 of unibiomed-nano. Windows divide every map of the sizes in use, so nothing is padded."""
    windows = {128: [8, 4, 8, 4], 192: [8, 4, 12, 6], 256: [8, 4, 16, 8], 384: [8, 4, 12, 6], 512: [8, 4, 16, 8], 640: [8, 4, 20, 10], 768: [8, 4, 16, 8]}[size]
    return Sam2Config(
        image_size=size, hiera_embed_dim=64, hiera_num_heads=1, hiera_stages=[1, 2, 6, 2], hiera_global_att_blocks=[5, 8],
        hiera_window_spec=windows, d_model=128, memory_dim=32, memory_attention_num_layers=1, memory_attention_mlp_dim=128,
        decoder_num_heads=4, decoder_mlp_dim=512, decoder_iou_head_hidden_dim=128,
    )  # fmt: skip


def vision_config(tile):
    return VisionConfig(
        image_size=tile, patch_size=14, hidden_size=192, intermediate_size=768, num_hidden_layers=8, num_attention_heads=3
    )  # fmt: skip


def language_config(vocabulary):
    return LanguageConfig(
        vocab_size=vocabulary, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2
    )


def initialise(model, std=0.02):
    """Truncated normal matrices and position tables; norms, biases and token embeddings keep PyTorch's defaults."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, p in model.named_parameters():
        if "pos_embed" in name or "position_embedding" in name or "class_embedding" in name or "no_mem_embed" in name:
            nn.init.trunc_normal_(p, std=std)


def half_precision():
    """Products in bf16 on a GPU, and on processors that multiply bf16; elsewhere they are emulated, a hundred times slower than f32."""
    device = torch.get_default_device().type
    enabled = device != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.autocast(device, torch.bfloat16, enabled=enabled)


class Masks(nn.Module):
    """SAM 2 with the table of target embeddings."""

    def __init__(self, config, phrases):
        super().__init__()
        self.sam = Sam2(config)
        self.table = nn.Embedding(phrases, config.d_model)
        self.compiled = None

    def forward(self, x, owner, e):
        """Images [B, 3, S, S], the image of each target [n] and e [n, D]; see MaskDecoder.forward."""
        encode = self.compiled if self.training and self.compiled else self.sam.encode
        f0, f1, p2 = encode(x)
        return self.sam.decode(f0[owner], f1[owner], self.sam.with_no_memory(p2)[owner], e)


def normalise(x):
    """The SAM 2 normalisation of preprocess.sam_table for f32 levels 0..255, [B, 3, S, S]."""
    bf16 = torch.bfloat16
    mean, std = (torch.tensor(v).to(bf16).reshape(3, 1, 1) for v in (MEAN, STD))
    return ((x.to(bf16) / 255 - mean) / std).float()


def shape_loss(masks, t, inside):
    """Loss [n, m], Dice loss [n, m] and true IoU [n, m] of logits [n, m, h, w] for truth t [n, 1, 2h, 2w] in 0..1. Over all pixels a small
    target weighs nothing: `inside` is how much its own pixels count once more, at most."""
    logits = F.interpolate(masks.float(), size=t.shape[2:], mode="bilinear", align_corners=False)
    bce = F.binary_cross_entropy_with_logits(logits, t.expand_as(logits), reduction="none").mean((2, 3))
    p = logits.sigmoid()
    dice = 1 - (2 * (p * t).sum((2, 3)) + 1) / (p.sum((2, 3)) + t.sum((2, 3)) + 1)
    area = t.mean((2, 3))
    own = (F.softplus(-logits) * t).mean((2, 3)) / area.clamp_min(1e-6)
    with torch.no_grad():
        on, want = logits > 0, t > 0.5
        iou = (on & want).sum((2, 3)) / (on | want).sum((2, 3)).clamp_min(1)
    return 4 * bce + dice + inside * own * (1 - area / 0.1).clamp_min(0), dice, iou


def mask_loss(masks, iou, score, truth):
    """Losses of n targets: logits [n, 4, h, w], IoU [n, 4], object score [n], truth [n, H, W] in 0..1 with H = 2h.

    Masks 2 and 3 learn the shapes of targets that are there, and never see one that is not: an empty mask is a trap for small and
    rare targets. Mask 1 learns to be empty. So the predicted IoU, which chooses among the three, also decides whether the target is
    there. Mask 0 is never used and not trained.
    """
    present = truth.amax((1, 2)) > 0.5
    t = truth[present, None]
    each, dice, true_iou = shape_loss(masks[present, 2:], t, inside=0.5)
    empty = F.softplus(masks[:, 1].float()).mean()
    mask = each.mean() + empty
    with torch.no_grad():
        wanted = torch.zeros(len(truth), 3, device=truth.device)
        wanted[~present, 0] = 1.0
        wanted[present, 1:] = POOR + (1 - POOR) * true_iou
    iou_loss = F.mse_loss(iou[:, 1:].float(), wanted)
    object_loss = F.binary_cross_entropy_with_logits(score.float(), present.float())
    parts = {"mask": each.mean(), "dice": dice.mean(), "empty": empty, "iou": iou_loss, "object": object_loss}
    return mask + iou_loss + 0.2 * object_loss, parts


class Average:
    """Exponential moving average of the parameters; it is what gets evaluated and exported."""

    def __init__(self, model, decay=0.995):
        self.parameters, self.decay = list(model.parameters()), decay
        self.shadow = [p.detach().clone() for p in self.parameters]

    def update(self, step):
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self.parameters], 1 - min(self.decay, (1 + step) / (10 + step)))

    def swap(self):
        """Exchanges the averaged and the running weights; call again to undo."""
        for p, s in zip(self.parameters, self.shadow):
            p.data, s.data = s.data, p.data


def rate(step, left, decay, warmup=60):
    """Learning rate factor: linear warm-up, constant, linear decay to 2 % over the last part `decay` of the run, of which `left` is left."""
    return min(1.0, (step + 1) / warmup) * max(0.02, min(1.0, left / decay if decay else 1.0))


def drop_paths(blocks, most):
    """Stochastic depth (Huang et al. 2016, arXiv 1603.09382): in training both branches of a block are left out for some rows, the more
    often the later the block, `most` at the end."""
    blocks = list(blocks)
    for i, block in enumerate(blocks):
        keep = 1 - most * i / max(1, len(blocks) - 1)

        def hook(module, _, out, keep=keep):
            if not module.training or keep == 1:
                return out
            return out * (torch.rand(len(out), *[1] * (out.ndim - 1), device=out.device) < keep).to(out.dtype) / keep

        block.attn.register_forward_hook(hook)
        block.mlp.register_forward_hook(hook)


class Loader:
    """Makes the batches of steps ahead of time in processes of its own, and in order. With no processes it makes each when asked."""

    def __init__(self, make, processes):
        """`make(step)` returns what can be pickled. Create it before the first use of a GPU: the processes are forks."""
        self.make, self.waiting, self.next = make, deque(), None
        self.ahead = 3 * processes
        self.pool = multiprocessing.get_context("fork").Pool(processes, self.begin, (make,)) if processes else None

    @staticmethod
    def begin(make):
        # In a group of their own: a signal to the group of the training must not kill them, or it would wait for their batch for ever.
        os.setpgrp()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the training's own: `close` ends them with it
        torch.set_num_threads(1)
        Loader.task = staticmethod(make)

    @staticmethod
    def run(step):
        # As bytes: tensors would go through shared memory, of which some machines have little.
        return pickle.dumps(Loader.task(step), pickle.HIGHEST_PROTOCOL)

    def batch(self, step):
        if not self.pool:
            return self.make(step)
        if self.next is None:
            self.next = step
        while len(self.waiting) < self.ahead:
            self.waiting.append(self.pool.apply_async(Loader.run, (self.next,)))
            self.next += 1
        return pickle.loads(self.waiting.popleft().get())

    def close(self):
        if self.pool:
            self.pool.terminate()


def save_state(path, state):
    """Whole or not at all."""
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def note(work, scores):
    """Adds a line to the learning curve in the work folder."""
    with open(Path(work) / CURVE, "a") as file:
        file.write(json.dumps(scores) + "\n")


class Trainer:
    """The loop that stages share: steps, averaging, checkpoints every few minutes, evaluation, log lines with time left."""

    def __init__(self, args, name, model, loader, loss, evaluate):
        self.args, self.name, self.model, self.loader, self.loss, self.evaluate = args, name, model, loader, loss, evaluate
        self.optimizer = Muon(model, args.lr, largest=256 if args.device == "cpu" else 512)
        self.average, self.step, self.stopped = Average(model), 0, False
        self.path = Path(args.work) / f"{name}.pt"
        if self.path.exists():
            self.restore(torch.load(self.path, weights_only=False, map_location=torch.get_default_device()))

    def meet(self):
        """Workers train on data of their own and replace their weights by the mean of all of them every few steps."""
        weights = nn.utils.parameters_to_vector(self.average.parameters).detach()
        torch.distributed.all_reduce(weights)
        nn.utils.vector_to_parameters(weights / self.args.workers, self.average.parameters)

    def stop(self, *_):
        self.stopped = True

    def restore(self, state):
        self.model.load_state_dict(state["model"])
        for mine, p in zip(self.average.shadow, state["average"]):
            mine.copy_(p)
        self.step = state["step"]
        if state.get("optimizer"):
            self.optimizer.load_state_dict(state["optimizer"])

    def save(self):
        state = {
            "model": self.model.state_dict(), "average": self.average.shadow, "optimizer": self.optimizer.state_dict(), "step": self.step,
        }  # fmt: skip
        save_state(self.path, state)

    def run(self):
        args, model = self.args, self.model
        saved = checked = time.time()
        begun, first, means, counted, busy = time.time(), self.step, {}, 0, 0.0
        signal.signal(signal.SIGTERM, self.stop)
        share_left = lambda: 1 - (time.time() - begun) / (60 * args.minutes) if args.minutes else 1 - self.step / args.steps
        while self.step < args.steps and (left := share_left()) > 0 and not self.stopped:
            torch.manual_seed(args.seed * 1_000_003 + self.step * args.workers + args.rank)
            for group in self.optimizer.param_groups:
                group["lr"] = args.lr * rate(self.step - first if args.minutes else self.step, left, args.decay)
            model.train()
            loss, parts = self.loss(self.loader.batch(self.step))
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            if torch.isfinite(norm):
                self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            if args.workers > 1 and self.step % 8 == 0:
                self.meet()
            self.average.update(self.step)
            counted += 1
            for k, v in {"loss": loss, **parts}.items():
                means[k] = means.get(k, 0.0) + v.detach()
            if self.step % args.report == 0:
                pace = (time.time() - begun - busy) / (self.step - first)
                text = " ".join(f"{k} {v.item() / counted:.3f}" for k, v in means.items())
                minutes = left * args.minutes if args.minutes else pace * (args.steps - self.step) / 60
                print(f"{time.strftime('%H:%M:%S')} step {self.step} {text} {pace:.3f} s/step, {minutes:.1f} min left", flush=True)
                means, counted = {}, 0
            if args.rank:
                continue
            if time.time() - saved > 60 * args.save:
                self.save()
                saved = time.time()
            if time.time() - checked > 60 * args.check:
                t = time.time()
                self.check()
                checked = time.time()
                busy += checked - t
        self.loader.close()
        if args.rank == 0:
            self.save()
            if not self.stopped:
                self.check()

    def check(self):
        self.average.swap()
        self.model.eval()
        with torch.no_grad():
            scores = {k: round(v, 3) for k, v in self.evaluate().items()}
        print(f"{time.strftime('%H:%M:%S')} val at step {self.step}: {' '.join(f'{k} {v}' for k, v in scores.items())}", flush=True)
        note(self.args.work, {"stage": self.name, "step": self.step, "batch": self.args.batch * self.args.workers, "size": self.args.size} | scores)
        self.average.swap()


def dice_by_family(model, data, size, numbers, batch=8):
    """Strict Dice of the table's masks at each image's own size, every listed target: {family: [(phrase, dice)]}, and the
    share of empty masks for foreign phrases."""
    scores, empty = {}, []
    for at in range(0, len(numbers), batch):
        some = numbers[at : at + batch]
        images = [np.asarray(data.image(i).resize((size, size))) for i in some]
        x = torch.from_numpy(np.stack(images)).to(model.table.weight.device).permute(0, 3, 1, 2)
        rng = np.random.default_rng(some)
        jobs = [(b, i, t, p) for b, i in enumerate(some) for t, p in enumerate(data.rows[i].phrases) if p in data.phrase_id]
        jobs += [(b, i, None, data.foreign(data.rows[i], rng)) for b, i in enumerate(some)]
        owner = torch.tensor([j[0] for j in jobs])
        with half_precision():
            masks, iou, _, _ = model(normalise(x), owner, model.table.weight[[data.phrase_id[j[3]] for j in jobs]])
        chosen, _ = model.sam.select(masks, iou)
        for (b, i, t, phrase), logits in zip(jobs, chosen):
            info = data.rows[i].info
            on = resize_mask(logits[None], (info["height"], info["width"]), size)[0].cpu().numpy()
            if t is None:
                empty.append(not on.any())
                continue
            want = data.mask(i, t)
            dice = 2 * (on & want).sum() / max(1, on.sum() + want.sum())
            scores.setdefault(data.rows[i].family, []).append((phrase, float(dice)))
    return scores, float(np.mean(empty))


def summary(scores, empty):
    """Mean Dice over modalities, the share of empty masks, and the mean Dice of each modality."""
    means = {f: float(np.mean([d for _, d in v])) for f, v in sorted(scores.items())}
    return {"dice": float(np.mean(list(means.values()))), "empty": empty} | means


def generator(args, name, step):
    """Every step draws from its own generator, so a resumed run sees the data that an unbroken one would."""
    return np.random.default_rng([args.seed, step, len(name), args.rank])


def train_sam(args):
    data = Dataset(args.data, args.work)
    weights, numbers = data.mask_weights(), data.splits["train"]

    def make(step):
        rng = generator(args, "sam", step)
        return data.draw(rng.choice(numbers, args.batch, p=weights), rng)

    loader = Loader(make, args.loaders)
    torch.set_default_device(args.device)
    if args.device != "cpu":
        data.to(args.device)
    torch.manual_seed(args.seed)
    model = Masks(sam2_config(args.size), len(data.phrases))
    initialise(model)
    start_from(args, "sam", model)
    # The language stage learns to reproduce the table, so the table stands still from then on, and its reader learns to bear errors.
    model.table.weight.requires_grad_(not args.freeze_table)
    drop_paths(model.sam.image_encoder.trunk.blocks, args.drop_path)
    if args.compile:
        model.compiled = torch.compile(model.sam.encode)

    def loss(drawn):
        x, owner, phrase, truth = data.render(drawn, args.size, args.device)
        e = model.table(phrase)
        if args.freeze_table:
            e = e + torch.randn_like(e) * e.std() * 0.15 * torch.rand(len(e), 1)
        with half_precision():
            masks, iou, score, _ = model(normalise(x), owner, e)
        return mask_loss(masks, iou, score, truth)

    def evaluate():
        return summary(*dice_by_family(model, data, args.size, data.splits["val"]))

    Trainer(args, "sam", model, loader, loss, evaluate).run()


class Reader(nn.Module):
    """The language branch. In training only, `hints` predicts which classes each cell of the ViT grid covers, and `labels` the kind of
    image and its finding: every image teaches the tower all of that, whatever the questions about it."""

    def __init__(self, vision, language, width, classes, labels):
        super().__init__()
        c, h = vision.hidden_size, language.hidden_size
        self.vision_model = VisionTower(vision)
        self.language_model = LanguageModel(language)
        self.mlp1 = nn.Sequential(nn.LayerNorm(4 * c), nn.Linear(4 * c, h), nn.GELU(), nn.Linear(h, h))
        self.text_hidden_fcs = nn.Sequential(nn.Linear(h, h), nn.ReLU(), nn.Linear(h, width))
        self.hints = nn.Sequential(nn.LayerNorm(c), nn.Linear(c, classes))
        self.labels = nn.Sequential(nn.LayerNorm(h), nn.Linear(h, labels))

    def forward(self, x, packed):
        """Tiles [B, 3, S, S] and their questions. Returns final states [B, N, H], class hints [B, cells, classes] and labels."""
        tokens = self.vision_model(x)
        features = self.mlp1(pixel_shuffle(tokens))
        words = self.language_model.model.embed_tokens(packed.ids)
        a, b = packed.image
        words = torch.cat([words[:, :a].to(features.dtype), features, words[:, b:].to(features.dtype)], dim=1)
        return self.language_model(words, position=packed.position, mask=packed.mask), self.hints(tokens[:, 1:]), self.labels(features.mean(1))


class Packed:
    """Several questions about each image as one row: every question sees the shared image tokens and itself only.

    ids, position [B, N] and part [B, N], 0 for the shared tokens, k for those of question k, -1 for filling; `image` is the span of the
    image tokens; row, column: the answer tokens, question: the running number of the question that each belongs to; seg: rows and
    columns of [SEG], None when there is none. All on the CPU until `to`.
    """

    def __init__(self, words, samples, per_tile):
        """samples: for each image a list of (question with <image>, answer, phrases)."""
        head = words.encode(f"<|user|>\n{words.expand_image('<image>', [per_tile])}")
        first = head.index(words.img_context)
        self.image = first, first + per_tile
        rows, places, parts, answers, number = [], [], [], [], 0
        for b, some in enumerate(samples):
            ids, place, part = list(head), list(range(len(head))), [0] * len(head)
            for k, (question, answer, _) in enumerate(some, 1):
                full = words.encode(words.template(words.expand_image(question, [per_tile])))
                assert full[: len(head)] == head
                prompt, reply = full[len(head) :], words.encode_answer(answer + tokenizer.END)
                answers += [(b, len(ids) + len(prompt) + i, number) for i in range(len(reply))]
                place += range(len(head), len(head) + len(prompt) + len(reply))
                part += [k] * (len(prompt) + len(reply))
                ids += prompt + reply
                number += 1
            rows.append(ids)
            places.append(place)
            parts.append(part)
        longest = max(map(len, rows))
        tensor = lambda values: torch.tensor(values, device="cpu")
        pad = lambda lists, value: tensor([v + [value] * (longest - len(v)) for v in lists])
        self.ids, self.position, self.part = pad(rows, words.eos), pad(places, 0), pad(parts, -1)
        self.row, self.column, self.question = map(tensor, zip(*answers))
        is_seg = self.ids[self.row, self.column] == words.seg
        self.seg = (self.row[is_seg], self.column[is_seg]) if is_seg.any() else None
        self.seg_question = self.question[is_seg]

    def to(self, device):
        for name in ("ids", "position", "part", "row", "column", "question", "seg_question"):
            setattr(self, name, getattr(self, name).to(device))
        self.seg = self.seg and tuple(v.to(device) for v in self.seg)
        return self

    @property
    def mask(self):
        """What is added to the attention scores, [B, 1, N, N]."""
        part, n = self.part, self.part.shape[1]
        before = torch.ones(n, n, dtype=torch.bool, device=part.device).tril()
        sees = before & ((part[:, None] == part[:, :, None]) | (part[:, None] == 0))
        return torch.zeros(sees.shape, device=part.device).masked_fill(~sees, float("-inf"))[:, None]


@dataclass
class Lesson:
    """A batch of the language stage: images uint8 [B, 3, S, S], their questions, the coverage of classes and its weight as
    `Dataset.views` gives them, the number of each image's family and finding, and the table row that each [SEG] has to meet."""

    x: torch.Tensor
    packed: Packed
    dense: torch.Tensor
    known: torch.Tensor
    family: torch.Tensor
    finding: torch.Tensor
    want: torch.Tensor

    def to(self, device):
        return Lesson(*(getattr(self, f.name).to(device) for f in fields(self)))


def ask(question, rng):
    """Three in ten questions follow the training layout of the published model, with a new line after the image."""
    return f"<image>{chr(10) if rng.random() < 0.3 else ''}{question}"


def embedding_loss(e, want, spread):
    """Squared error against table rows, in units of the table's variance."""
    return F.mse_loss(e.float(), want) / spread


def train_language(args):
    data = Dataset(args.data, args.work)
    words = vocabulary(data, args)
    weights, numbers = data.weights(), data.splits["train"]
    vision = vision_config(args.tile)
    per_tile = vision.grid**2 // 4

    def make(step):
        rng = generator(args, "language", step)
        x, views, dense, known, counters = data.views(rng.choice(numbers, args.batch, p=weights), args.tile, vision.grid, rng)
        samples = []
        for view, counter in zip(views, counters):
            drawn = texts.samples(view, rng, args.questions, data.phrases, data.sites, counter)
            samples.append([(ask(q, rng), a, p) for q, a, p in drawn])
        want = torch.tensor([data.phrase_id[p] for some in samples for _, _, names in some for p in names], dtype=torch.long)
        return Lesson(x.byte(), Packed(words, samples, per_tile), dense, known, *data.labels([view.row for view in views]), want)

    loader = Loader(make, args.loaders)
    torch.set_default_device(args.device)
    torch.manual_seed(args.seed)
    config = language_config(len(words))
    table = load_masks(args, data).table.weight.detach()
    spread = table.var()
    model = Reader(vision, config, table.shape[1], len(data.phrases) - 1, len(data.families) + len(data.findings))
    initialise(model)
    for layer in model.vision_model.encoder.layers:
        nn.init.constant_(layer.ls1, 0.5)
        nn.init.constant_(layer.ls2, 0.5)
    nn.init.constant_(model.hints[1].bias, -4.0)
    start_from(args, "language", model)
    drop_paths(model.vision_model.encoder.layers, args.drop_path)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (MEAN, STD))

    def run(x, s):
        with half_precision():
            states, hints, labels = model((x / 255 - mean) / std, s)
            logits = model.language_model.lm_head(states[s.row, s.column - 1])
            e = model.text_hidden_fcs(states[s.seg]) if s.seg else None
        return logits.float(), e, hints.float(), labels.float()

    def loss(lesson):
        lesson = lesson.to(args.device)
        s = lesson.packed
        logits, e, hints, labels = run(lesson.x.float(), s)
        text = F.cross_entropy(logits, s.ids[s.row, s.column])
        hint = F.binary_cross_entropy_with_logits(hints.transpose(1, 2), lesson.dense.flatten(2), reduction="none").mean(2)
        hint = (hint * lesson.known).sum() / len(hint)
        kinds, findings = labels.split([len(data.families), len(data.findings)], 1)
        label = F.cross_entropy(kinds, lesson.family)
        if (lesson.finding >= 0).any():
            label = label + F.cross_entropy(findings, lesson.finding, ignore_index=-1)
        total, parts = text + 0.3 * hint + 0.3 * label, {"text": text, "hint": hint, "label": label}
        if e is not None:
            parts["e"] = embedding_loss(e, table[lesson.want], spread)
            total = total + 2 * parts["e"]
        return total, parts

    def evaluate():
        """Share of answers right in every token, and of embeddings whose nearest table row is the right one, on the validation split."""
        right, total = {}, {}
        for at in range(0, len(data.splits["val"]), 16):
            some = data.splits["val"][at : at + 16]
            jobs = [questions(data, i, np.random.default_rng(i)) for i in some]
            images = [data.image(i) for i in some]
            groups = [(im, [j for j in job if not j[4]]) for im, job in zip(images, jobs)]
            boxed = [(draw_box(im, j[4]), [j]) for im, job in zip(images, jobs) for j in job if j[4]]
            for group in filter(None, (groups, boxed)):
                x = torch.from_numpy(np.stack([np.asarray(im.resize((args.tile, args.tile))) for im, _ in group])).to(args.device)
                s = Packed(words, [[("<image>" + q, a, p) for _, q, a, p, _ in job] for _, job in group], per_tile).to(args.device)
                logits, e, _, _ = run(x.permute(0, 3, 1, 2).float(), s)
                hit = logits.argmax(1) == s.ids[s.row, s.column]
                for n, (task, _, _, names, _) in enumerate(j for _, job in group for j in job):
                    hits = hit[s.question == n]
                    # An answer of recognition may as well begin with `It is`.
                    ok = bool(hits[1:].all() if task == "recognition" else hits.all())
                    if task == "segment":
                        k = int((s.seg_question == n).nonzero()[0])
                        ok = int((table - e[k].float()).pow(2).sum(1).argmin()) == data.phrase_id[names[0]]
                    right[task] = right.get(task, 0) + ok
                    total[task] = total.get(task, 0) + 1
        return {task: right[task] / total[task] for task in sorted(total)}

    Trainer(args, "language", model, loader, loss, evaluate).run()


def vocabulary(data, args):
    """The tokenizer: that of --init, else learned once."""
    folder = Path(args.work) / "tokenizer"
    if not folder.exists():
        folder.mkdir()
        made = tokenizer.Tokenizer.load(args.init) if args.init else tokenizer.train(texts.corpus(data.phrases, data.sites), VOCABULARY)
        made.save(folder)
    return tokenizer.Tokenizer.load(folder)


def start_from(args, name, model):
    """Takes the first weights of a stage from an exported checkpoint folder, unless the stage has a state of its own. What has another
    shape there, as the heads do when classes were added, starts anew."""
    if not args.init or (Path(args.work) / f"{name}.pt").exists():
        return
    stored = load_file(Path(args.init) / "model.safetensors") | load_file(Path(args.init) / TRAINING)
    prefix = "grounding_encoder.sam2_model."
    stored = {("sam." + k.removeprefix(prefix) if k.startswith(prefix) else k): v.float() for k, v in stored.items()}
    mine = model.state_dict()
    for k in filter(mine.__contains__, stored):
        if k.endswith("position_embedding"):
            stored[k] = resize_positions(stored[k], mine[k].shape[1])
    fits = lambda k, v: k in stored and stored[k].shape == v.shape
    model.load_state_dict({k: stored[k] if fits(k, v) else v for k, v in mine.items()})


def resize_positions(table, count):
    """A vision tower's position table [1, 1 + cells, C] for a square grid of another size: [1, count, C]; the class token's stays."""
    side, wanted = math.isqrt(table.shape[1] - 1), math.isqrt(count - 1)
    cells = table[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    cells = F.interpolate(cells, size=(wanted, wanted), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], cells.flatten(2).transpose(1, 2)], dim=1)


def averaged(path, model):
    """Loads the averaged weights of a stage."""
    state = torch.load(path, weights_only=False, map_location=torch.get_default_device())
    model.load_state_dict(state["model"])
    with torch.no_grad():
        for p, value in zip(model.parameters(), state["average"]):
            p.copy_(value)
    return model


def load_masks(args, data):
    """The averaged weights of the sam stage, or those of --init."""
    model = Masks(sam2_config(args.size), len(data.phrases))
    start_from(args, "sam", model)
    path = Path(args.work) / "sam.pt"
    return averaged(path, model) if path.exists() or not args.init else model


def calibrate(model, data, size, wanted, batch=8):
    """Shifts the predicted IoU of the empty mask so that a share `wanted` of the absent targets of the validation split get it: what
    an image's source marks elsewhere, asked of its healthy images (as `eval --absent` does)."""
    gaps = []
    model.eval()
    for at in range(0, len(data.splits["val"]), batch):
        some = data.splits["val"][at : at + batch]
        healthy = [(b, data.rows[i]) for b, i in enumerate(some) if data.rows[i].healthy]
        asked = [(b, p) for b, row in healthy for p in data.absent(row) if p in data.phrase_id]
        if not asked:
            continue
        x = torch.from_numpy(np.stack([np.asarray(data.image(i).resize((size, size))) for i in some])).to(model.table.weight.device)
        with torch.no_grad():
            e = model.table.weight[[data.phrase_id[p] for _, p in asked]]
            _, iou, _, _ = model(normalise(x.permute(0, 3, 1, 2)), torch.tensor([b for b, _ in asked]), e)
        logit = iou[:, 1:].logit()
        gaps.append(logit[:, 1:].amax(1) - logit[:, 0])
    gaps = torch.cat(gaps)
    shift = gaps.quantile(wanted).item()
    with torch.no_grad():
        model.sam.sam_mask_decoder.iou_prediction_head.layers[-1].bias[1] += shift
    print(f"absent targets on the validation split: {(gaps < 0).float().mean():.3f} empty before, {wanted} after a shift of {shift:.2f}")


def export(args):
    """Writes the averaged weights of both stages as a checkpoint folder."""
    torch.set_default_device(args.device)
    data = Dataset(args.data, args.work)
    words = vocabulary(data, args)
    torch.manual_seed(args.seed)
    config = language_config(len(words))
    masks = load_masks(args, data)
    if args.empty:
        calibrate(masks, data, args.size, args.empty)
    vision = vision_config(args.tile)
    reader = Reader(vision, config, masks.table.weight.shape[1], len(data.phrases) - 1, len(data.families) + len(data.findings))
    initialise(reader)
    start_from(args, "language", reader)
    if (Path(args.work) / "language.pt").exists():
        averaged(Path(args.work) / "language.pt", reader)
    model = UniBiomed(vision, config, masks.sam.config, words, ABOUT)
    model.grounding_encoder.sam2_model = masks.sam
    for part in ("vision_model", "language_model", "mlp1", "text_hidden_fcs"):
        setattr(model, part, getattr(reader, part))
    checkpoint.save(args.out, model, torch.bfloat16 if args.bf16 else torch.float32)
    rest = {"table.weight": masks.table.weight} | {k: v for k, v in reader.state_dict().items() if k.startswith(("hints.", "labels."))}
    save_file({k: v.detach().clone() for k, v in rest.items()}, Path(args.out) / TRAINING)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with index.jsonl")
    parser.add_argument("--work", required=True, help="folder for the pixel cache and the training state")
    parser.add_argument("--stage", choices=["sam", "language", "export"], required=True)
    parser.add_argument("--size", type=int, default=256, help="SAM 2 image size, 128, 192, 256, 384, 512, 640 or 768; weights fit every size")
    parser.add_argument("--tile", type=int, default=224, help="language and export: side of the vision tower's tile, a multiple of 28; weights fit every size")
    parser.add_argument("--steps", type=int, default=20000, help="last step of the stage")
    parser.add_argument("--minutes", type=float, help="length of this run, if it ends before --steps; on a GPU that is lent for a while")
    parser.add_argument("--decay", type=float, default=0.3, help="last part of the stage, or of --minutes, over which the learning rate falls; 0: none")
    parser.add_argument("--drop-path", type=float, default=0.0, help="stochastic depth of the last block of the image towers")
    parser.add_argument("--loaders", type=int, default=0, help="processes that make batches ahead of time")
    parser.add_argument("--freeze-table", action="store_true", help="sam: keep the target embeddings and blur them with noise")
    parser.add_argument("--compile", action="store_true", help="sam: compile the image encoder, a minute at the start for a fifth of each step")
    parser.add_argument("--questions", type=int, default=4, help="language: questions an image and step")
    parser.add_argument("--out", help="export: checkpoint folder to write")
    parser.add_argument("--empty", type=float, help="export: share of absent targets of the validation split that get an empty mask, 0 to 1")
    parser.add_argument("--init", help="exported checkpoint folder whose weights a stage without a state starts from")
    parser.add_argument("--bf16", action="store_true", help="export: store bf16, half the size")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--report", type=int, default=20, help="steps between log lines")
    parser.add_argument("--save", type=float, default=4, help="minutes between checkpoints")
    parser.add_argument("--check", type=float, default=12, help="minutes between evaluations on the validation split")
    parser.add_argument("--workers", type=int, default=1, help="processes that train one stage together")
    parser.add_argument("--rank", type=int, default=0, help="number of this process among the workers; 0 keeps the state")
    args = parser.parse_args()
    if args.device != "cpu" and args.stage != "export" and not args.loaders:
        parser.error("--device cuda needs --loaders: batches are made on the CPU")
    if args.workers > 1:
        store = f"file://{Path(args.work).resolve()}/{args.stage}.meet"
        torch.distributed.init_process_group("gloo", init_method=store, rank=args.rank, world_size=args.workers)
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high")
    {"sam": train_sam, "language": train_language, "export": export}[args.stage](args)


if __name__ == "__main__":
    main()
