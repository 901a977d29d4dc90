"""The training set of unibiomed-nano: index, pixel cache, target phrases and augmentation.

The folder holds index.jsonl (one image a line) with JPEG images and 1-bit PNG masks. Rows flagged non-commercial are never read.
"""

import json
import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .preprocess import load_rgb
from .texts import View, finding

CACHE_SIDE = 384  # no image of the set has a longer side

# Mirroring keeps the anatomy right for these sources; FREE ones may also be turned upside down and rotated at will.
FREE = {"isic2017", "kvasir_seg", "dsb2018", "ebhi_seg", "tnbc", "idrid_seg", "idrid_grading", "fives", "hrf", "chasedb1"}
MIRROR = FREE | {
    "vocalfolds", "kermany_oct", "ibsi_sts", "brisc2025", "bhsd", "physionet_ct_ich", "mslesion_lit", "arcade",
    "hc18", "busi", "breast_lesions_usg", "liver_us_zenodo", "ccaus", "covid_cxr", "kermany_cxr", "spider",
}  # fmt: skip

# Image-level labels of these sources name the only class an image has, so their other classes tell look-alikes apart.
# They are asked less often as absent targets: a phrase that is plausible for the image should give a mask. So should it for the larynx,
# where one patient can't teach when a vocal fold is out of sight.
LOOK_ALIKE = {"isic2017", "ebhi_seg", "bhsd", "kermany_oct", "brisc2025", "breast_lesions_usg", "liver_us_zenodo", "vocalfolds"}

FAMILY = {
    "CT": "ct", "MRI": "mri", "MRI-FLAIR": "mri", "MRI-T1": "mri", "MRI-T1-Gd": "mri", "MRI-T2": "mri", "OCT": "oct", "PET": "pet",
    "X-Ray": "xray", "dermoscopy": "dermoscopy", "endoscope": "endoscopy", "fundus": "fundus", "pathology": "pathology",
    "ultrasound": "ultrasound",
}  # fmt: skip


COLOURED = {"dermoscopy", "endoscopy", "fundus", "pathology"}

# How often the masks stage sees each kind of image: more often where shapes are hard.
SHARE = {
    "ct": 0.15, "dermoscopy": 0.06, "endoscopy": 0.12, "fundus": 0.14, "mri": 0.14, "oct": 0.16, "pathology": 0.06, "pet": 0.04,
    "ultrasound": 0.09, "xray": 0.04,
}  # fmt: skip


@dataclass
class Row:
    """One image: its index line plus where its masks start in the cache."""

    number: int
    info: dict
    masks: range

    @property
    def family(self):
        return FAMILY[self.info["modality"]]

    @property
    def phrases(self):
        return [t["phrase"] for t in self.info["targets"]]

    @property
    def healthy(self):
        """Known to show no finding, and nothing is marked."""
        return self.info["findings"] == "no findings" and not self.info["targets"]


@dataclass
class Jitter:
    """How the values of B images change, see `intensity`: gamma, shift and sigma f32 [B, 1, 1, 1], mix [B, 3, 3], light [B, 1, 4, 4],
    coarse [B]."""

    gamma: np.ndarray
    mix: np.ndarray
    shift: np.ndarray
    light: np.ndarray
    sigma: np.ndarray
    coarse: np.ndarray
    seed: int


@dataclass
class Drawn:
    """A batch of the masks stage before its pixels are made: rows, their maps, and n targets with their image, phrase and mask."""

    numbers: np.ndarray
    thetas: list
    bends: np.ndarray
    owners: list
    phrases: list
    masks: list
    jitter: Jitter


class Dataset:
    """Rows of index.jsonl; splits are lists of row numbers. With a `work` folder the pixels are cached there for training."""

    def __init__(self, folder, work):
        self.folder, self.work = Path(folder), work and Path(work)
        lines = [json.loads(line) for line in open(self.folder / "index.jsonl")]
        self.rows, start = [], 0
        for info in (line for line in lines if not line["noncommercial"]):
            self.rows.append(Row(len(self.rows), info, range(start, start + len(info["targets"]))))
            start += len(info["targets"])
        self.splits = {s: [r.number for r in self.rows if r.info["split"] == s] for s in ("train", "val", "test")}
        # The vocabulary of targets is that of the training split; a phrase met only in the test split stays unknown.
        known = [r for r in self.rows if r.info["split"] == "train"]
        self.phrases = sorted({p for r in known for p in r.phrases}) + ["no findings"]
        self.phrase_id = {p: i for i, p in enumerate(self.phrases)}
        self.families = sorted(set(FAMILY.values()))
        self.findings = sorted({f[0] for f in map(finding, known) if f})
        self.classes, self.known = {}, {}
        for r in known:
            self.classes.setdefault((r.info["source"], r.info["modality"]), set()).update(r.phrases)
        if work:
            self._cache()

    def _cache(self):
        """Stretches every image and mask to CACHE_SIDE squares, once; masks are packed to bits."""
        self.work.mkdir(parents=True, exist_ok=True)
        images, masks = self.work / "images.npy", self.work / "masks.npy"
        n, m, side = len(self.rows), self.rows[-1].masks.stop, CACHE_SIDE
        if not masks.exists():
            x = np.lib.format.open_memmap(images, "w+", np.uint8, (n, side, side, 3))
            y = np.zeros((m, side * side // 8), np.uint8)
            with ProcessPoolExecutor() as pool:
                for r, (image, bits) in zip(self.rows, pool.map(partial(stretched, self.folder), self.rows, chunksize=16)):
                    x[r.number], y[r.masks.start : r.masks.stop] = image, bits
            x.flush()
            np.save(masks, y)
        self.images = np.load(images, mmap_mode="r")
        self.masks = np.load(masks)

    def to(self, device):
        """Moves the pixels to a GPU, 2.7 GB, where `render` works then."""
        self.images, self.masks = torch.from_numpy(np.array(self.images)).to(device), torch.from_numpy(self.masks).to(device)

    def pixels(self, numbers, masks):
        """Images [B, 3, side, side] in 0..255 and masks [n, 1, side, side] in 0..1, both f32; a mask number below 0 is an empty mask."""
        masks = np.asarray(masks, int)
        if isinstance(self.images, torch.Tensor):
            rows, packed = self.images[torch.as_tensor(numbers)], self.masks[torch.as_tensor(masks).clamp_min(0)]
        else:
            rows, packed = torch.from_numpy(self.images[np.array(numbers)]), torch.from_numpy(self.masks[np.maximum(masks, 0)])
        bits = packed[..., None] >> torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device) & 1
        there = torch.as_tensor(masks, device=packed.device) >= 0
        y = bits.reshape(-1, 1, CACHE_SIDE, CACHE_SIDE) * there[:, None, None, None]
        return rows.permute(0, 3, 1, 2).float(), y.float()

    def image(self, number):
        """The decoded image at its own size."""
        return load_rgb(self.folder / self.rows[number].info["image"])

    def mask(self, number, target):
        """The true mask at the image's own size, bool [h, w]."""
        return np.asarray(Image.open(self.folder / self.rows[number].info["targets"][target]["mask"]).convert("L")) > 127

    def absent(self, row):
        """Annotated classes of this source that the image does not show."""
        info = row.info
        labelled_only = not info["targets"] and info["findings"] not in ("no findings",)
        names = set() if labelled_only else set(self.classes.get((info["source"], info["modality"]), ()))
        if info["source"] == "busi" and info["findings"] == "no findings":
            names = {"benign tumor in breast ultrasound", "malignant tumor in breast ultrasound"}
        if info["source"] == "idrid_grading" and info["findings"] == "no findings":
            names = {f"{x} in retinal fundus" for x in ("hemorrhage", "microaneurysm", "hard exudates", "soft exudates")}
        return sorted(names - set(row.phrases))

    def foreign(self, row, rng):
        """A phrase of another modality or body part: certainly not in the image."""
        while True:
            phrase = self.phrases[rng.integers(len(self.phrases) - 1)]
            site = f"in {row.info['site']} {row.info['modality']}" if row.info["site"] else row.info["modality"]
            alike = phrase.endswith(site) or (row.family == "pathology" and phrase.endswith("pathology"))
            # T1, T2 and FLAIR name the same tissue; soft-tissue tumours lie in whole-body slices of three modalities.
            alike |= row.family == "mri" and " MRI" in phrase
            alike |= row.info["source"] == "ibsi_sts" and "soft tissue" in phrase
            if not alike:
                return phrase

    def weights(self):
        """Sampling weight of every training row: images of rare phrases, or of small sources without masks, are seen more often."""
        numbers = self.splits["train"]
        count = {}
        keys = [self.rows[i].phrases or [(self.rows[i].info["source"], self.rows[i].info["modality"])] for i in numbers]
        for some in keys:
            for key in some:
                count[key] = count.get(key, 0) + 1
        w = np.array([np.mean([count[key] ** -0.55 for key in some]) * (1 if self.rows[i].phrases else 0.5) for i, some in zip(numbers, keys)])
        return w / w.sum()

    def mask_weights(self):
        """`weights` for the masks stage: images without masks count less, and every kind of image gets its SHARE."""
        some = [self.rows[i] for i in self.splits["train"]]
        w = self.weights() * np.array([1 if r.phrases else 0.4 for r in some])
        families = np.array([r.family for r in some])
        for family, share in SHARE.items():
            w[families == family] *= share / w[families == family].sum()
        return w / w.sum()

    def targets(self, row, rng, most=3):
        """Draws what to ask of one image: [(phrase, mask number or None)], at least one absent target among them."""
        present = list(zip(row.phrases, row.masks))
        rng.shuffle(present)
        chosen = [(p, k) for p, k in present[:most] if p in self.phrase_id]
        here = self.absent(row)
        ask_here = here and rng.random() < (0.15 if row.info["source"] in LOOK_ALIKE else 0.7)
        chosen.append((here[rng.integers(len(here))] if ask_here else self.foreign(row, rng), None))
        if rng.random() < 0.1:
            chosen.append(("no findings", None))
        return chosen

    def draw(self, numbers, rng):
        """Draws how to augment images and what to ask of each."""
        drawn = Drawn(numbers, [], bends(len(numbers), rng), [], [], [], jitters([self.rows[i].family for i in numbers], rng))
        for b, i in enumerate(numbers):
            row = self.rows[i]
            theta, mirrored = affine(row.info["source"], rng)
            drawn.thetas.append(theta)
            for phrase, k in self.targets(row, rng):
                drawn.owners.append(b)
                drawn.phrases.append(self.phrase_id[swap_sides(phrase) if mirrored else phrase])
                drawn.masks.append(-1 if k is None else k)
        return drawn

    def render(self, drawn, size, device="cpu"):
        """Augmented images and masks as drawn.

        Returns uint8-valued f32 [B, 3, size, size], the image of each target [n], phrase ids [n] and masks [n, size/2, size/2] in 0..1.
        """
        owner = torch.tensor(drawn.owners, device=device)
        x, y = self.pixels(drawn.numbers, drawn.masks)
        grid = warp(drawn.thetas, drawn.bends, size, device)
        x = F.grid_sample(x, grid, mode="bilinear", align_corners=False)
        y = F.avg_pool2d(F.grid_sample(y, grid[owner], mode="bilinear", align_corners=False), 2)[:, 0]
        return intensity(x, drawn.jitter), owner, torch.tensor(drawn.phrases, device=device), y

    def views(self, numbers, size, cells, rng, boxes=0.4):
        """Augmented images for the language branch and what each shows.

        Returns uint8-valued f32 [B, 3, size, size], a View an image, coverage [B, classes, cells, cells] of every known class in 0..1, its
        weight [B, classes] (0 where nobody annotated the class), and for every view a function that counts components.
        """
        grid_of = [affine(self.rows[i].info["source"], rng) for i in numbers]
        grid = warp([t for t, _ in grid_of], bends(len(numbers), rng), size)
        owner = [b for b, i in enumerate(numbers) for _ in self.rows[i].masks]
        raw, y = self.pixels(numbers, [k for i in numbers for k in self.rows[i].masks])
        x = intensity(F.grid_sample(raw, grid, mode="bilinear", align_corners=False), jitters([self.rows[i].family for i in numbers], rng))
        y = F.grid_sample(y, grid[owner], mode="bilinear", align_corners=False)
        coverage = F.adaptive_avg_pool2d(y, cells)[:, 0]
        coarse = F.adaptive_max_pool2d(y, 56)[:, 0] > 0.5
        parts = cache(lambda k: components(coarse[k : k + 1])[0])
        views, counters = [], []
        dense = torch.zeros(len(numbers), len(self.phrases) - 1, cells, cells)
        known = torch.zeros(len(numbers), len(self.phrases) - 1)
        at = 0
        for b, i in enumerate(numbers):
            row, mirrored = self.rows[i], grid_of[b][1]
            known[b] = torch.from_numpy(self.annotated(row))
            view, counts = View(row, [], self.absent(row)), {}
            view.absent += [self.foreign(row, rng)]
            for phrase in row.phrases:
                phrase = swap_sides(phrase) if mirrored else phrase
                if phrase in self.phrase_id and coverage[at].mean() > 0.1 / 16**2:  # a tenth of a cell at a tile of 224 pixels
                    view.shown.append((phrase, coverage[at].numpy()))
                    dense[b, self.phrase_id[phrase]] = coverage[at]
                    counts[phrase] = at
                at += 1
            if view.shown and rng.random() < boxes:
                view.boxed = view.shown[rng.integers(len(view.shown))][0]
                k = counts[view.boxed]
                x[b] = self.boxed(i, x[b], y[k, 0], parts(k), rng)
            views.append(view)
            counters.append(lambda phrase, counts=counts: int(len(parts(counts[phrase]).unique()) - 1))
        return x, views, dense, known, counters

    def boxed(self, number, x, mask, parts, rng):
        """Draws the green box of one component of a target. The line is 2 px wide at the stored size of the image."""
        label = parts[parts > 0].unique()
        size = mask.shape[-1]
        # A target smaller than a cell may have no part.
        part = parts == label[rng.integers(len(label))] if len(label) else torch.zeros_like(parts, dtype=torch.bool)
        inside = (F.interpolate(part.float()[None, None], size=(size, size))[0, 0] * mask) > 0.5
        if not inside.any():
            inside = mask > 0.5 if (mask > 0.5).any() else mask == mask.max()
        ys, xs = inside.any(1).nonzero(), inside.any(0).nonzero()
        large = F.interpolate(x[None], size=(2 * size, 2 * size), mode="bilinear", align_corners=False)[0]
        info = self.rows[number].info
        half = max(1, round(2 * size / max(info["width"], info["height"])))
        x0, x1, y0, y1 = 2 * int(xs[0]), 2 * int(xs[-1]) + 1, 2 * int(ys[0]), 2 * int(ys[-1]) + 1
        green = torch.tensor([0.0, 255.0, 0.0]).reshape(3, 1, 1)
        span = lambda v: slice(max(0, v - half), v + half)
        for rows, columns in (
            (span(y0), slice(max(0, x0 - half), x1 + half)), (span(y1), slice(max(0, x0 - half), x1 + half)),
            (slice(max(0, y0 - half), y1 + half), span(x0)), (slice(max(0, y0 - half), y1 + half), span(x1)),
        ):  # fmt: skip
            large[:, rows, columns] = green
        return F.avg_pool2d(large[None], 2)[0].round()

    def annotated(self, row):
        """1 for every class whose presence is known for this image: the classes of its source, and those of other modalities."""
        key = (row.info["source"], row.info["modality"])
        if key not in self.known:
            mine = self.classes.get(key, set())
            family = lambda p: row.family in ("mri",) and " MRI" in p or p.endswith(row.info["modality"])
            self.known[key] = np.array([p in mine or not family(p) for p in self.phrases[:-1]], np.float32)
        return self.known[key]

    def labels(self, rows):
        """Of each row the numbers of its family and of its finding, -1 where the source says nothing of findings."""
        found = [finding(r) for r in rows]
        numbers = [self.findings.index(f[0]) if f and f[0] in self.findings else -1 for f in found]
        return torch.tensor([self.families.index(r.family) for r in rows]), torch.tensor(numbers)

    @cached_property
    def sites(self):
        return sorted({r.info["site"] for r in self.rows if r.info["site"]})


def components(masks):
    """Labels [n, h, w] of the connected parts of boolean masks [n, h, w]; 0 is outside."""
    n, h, w = masks.shape
    on = masks.float()
    label = on * torch.arange(1, h * w + 1, device=on.device).reshape(1, h, w)
    for _ in range(2 * h):
        wider = F.max_pool2d(label, 3, 1, 1) * on
        if torch.equal(wider, label):
            break
        label = wider
    return label


def stretched(folder, row):
    """The pixels of a row as the cache holds them: uint8 [side, side, 3] and packed masks [n, side * side / 8]."""
    size = (CACHE_SIDE, CACHE_SIDE)
    soft = [Image.open(folder / t["mask"]).convert("L").resize(size, Image.BILINEAR) for t in row.info["targets"]]
    bits = np.stack([np.packbits(np.asarray(m) > 127) for m in soft]) if soft else np.zeros((0, CACHE_SIDE**2 // 8), np.uint8)
    return np.asarray(load_rgb(folder / row.info["image"]).resize(size)), bits


def swap_sides(phrase):
    """A mirrored chest shows the left lung where the right one was."""
    if "lung" not in phrase or "left" not in phrase and "right" not in phrase:
        return phrase
    return phrase.replace("left", "?").replace("right", "left").replace("?", "right")


def affine(source, rng):
    """A random output-to-input map [2, 3] for affine_grid, and whether it mirrors the image."""
    free, mirror = source in FREE, source in MIRROR and rng.random() < 0.5
    angle = rng.uniform(-math.pi, math.pi) if free else rng.normal(0, 0.17)
    scale = math.exp(rng.normal(-0.05, 0.2))
    stretch = math.exp(rng.normal(0, 0.1))
    c, s = math.cos(angle) * scale, math.sin(angle) * scale
    a = np.array([[c * stretch, -s], [s * stretch, c]])
    if mirror:
        a[:, 0] *= -1
    reach = max(0.08, 0.9 - scale)
    return np.concatenate([a, rng.uniform(-reach, reach, (2, 1))], axis=1), mirror


def bends(count, rng):
    """Elastic deformations of `count` images, half of them none: shifts [B, 2, 6, 6] of a coarse grid, in halves of an image."""
    return (rng.normal(0, 0.025, (count, 2, 6, 6)) * (rng.random((count, 1, 1, 1)) < 0.5)).astype(np.float32)


def warp(thetas, bent, size, device="cpu"):
    """The sampling grid [B, size, size, 2] of maps [2, 3] and elastic shifts [B, 2, 6, 6]."""
    theta = torch.tensor(np.stack(thetas), dtype=torch.float32, device=device)
    grid = F.affine_grid(theta, (len(theta), 3, size, size), align_corners=False)
    fine = F.interpolate(torch.from_numpy(bent).to(device), size=(size, size), mode="bicubic", align_corners=True)
    return grid + fine.permute(0, 2, 3, 1)


def jitters(families, rng):
    """What `intensity` does to an image of each family: colours move where images have some."""
    count = len(families)
    on, lit, coarse, noisy = rng.random((4, count, 1, 1, 1)) < np.array([0.8, 0.4, 0.15, 0.15]).reshape(4, 1, 1, 1, 1)
    normal = lambda sigma: rng.normal(0, sigma, (count, 1, 1, 1)) * on
    gamma, gain, shift = np.exp(normal(0.25)), np.exp(normal(0.15)), normal(0.05)
    hue = np.array([0.08 if f in COLOURED else 0.02 for f in families]).reshape(count, 1, 1)
    mix = (np.eye(3) + rng.normal(0, 1, (count, 3, 3)) * hue * on[..., 0]) * gain[..., 0]
    light = rng.normal(0, 0.15, (count, 1, 4, 4)) * lit
    sigma = noisy * rng.uniform(0.01, 0.05, (count, 1, 1, 1))
    sharpness = np.where(coarse.reshape(-1), rng.uniform(0.35, 0.8, count), 1)
    values = (gamma, mix, shift, light, sigma, sharpness)
    return Jitter(*(v.astype(np.float32) for v in values), int(rng.integers(2**62)))


def intensity(x, jitter):
    """Gamma, contrast with mixed channels, brightness, uneven light, coarser pixels and noise of [B, 3, S, S] in 0..255, rounded to levels."""
    gamma, mix, shift, light, sigma = (
        torch.from_numpy(v).to(x.device) for v in (jitter.gamma, jitter.mix, jitter.shift, jitter.light, jitter.sigma)
    )
    x = (x / 255).clamp_min(0) ** gamma
    x = torch.einsum("bchw,bdc->bdhw", x, mix) + shift * (x > 0)
    x = x * F.interpolate(light, size=x.shape[2:], mode="bilinear", align_corners=True).exp()
    for b in np.flatnonzero(jitter.coarse < 1):
        small = F.interpolate(x[b][None], scale_factor=float(jitter.coarse[b]), mode="bilinear", antialias=True)
        x[b] = F.interpolate(small, size=x.shape[2:], mode="bilinear")[0]
    noise = torch.Generator(x.device).manual_seed(jitter.seed)
    for b in np.flatnonzero(jitter.sigma):
        x[b] += torch.randn(x[b].shape, generator=noise, device=x.device) * sigma[b]
    return (x * 255).round().clamp(0, 255)
