"""Pixels in: the Pillow cubic resize, the tile rules of the language branch and the SAM 2 normalisation.

Needs Pillow 10.2: later releases order the two resize passes differently and change pixels by a few levels.
"""

import numpy as np
import torch
from PIL import Image

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def load_rgb(path):
    """Opens an image file as RGB, 8 bits a channel; alpha is dropped, EXIF orientation is not applied."""
    with Image.open(path) as image:
        return image.convert("RGB")


def tile_grid(width, height, tile, most=12, least=1):
    """Returns (columns, rows) of the tile grid whose aspect is nearest to the image's.

    On an exact tie the larger grid wins when the image covers more than half of the grid's pixels.
    """
    pairs = sorted(
        {(i, j) for i in range(1, most + 1) for j in range(1, most + 1) if least <= i * j <= most},
        key=lambda p: p[0] * p[1],
    )
    aspect, best, best_gap = width / height, (1, 1), float("inf")
    for i, j in pairs:
        gap = abs(aspect - i / j)
        if gap < best_gap or (gap == best_gap and width * height > 0.5 * tile * tile * i * j):
            best, best_gap = (i, j), gap
    return best


def tiles(image, tile, most=12, least=1, thumbnail=True):
    """Cuts an RGB image into [T, tile, tile, 3] uint8, row-major; the thumbnail comes last when there are several."""
    columns, rows = tile_grid(*image.size, tile, most, least)
    whole = np.asarray(image.resize((columns * tile, rows * tile)))
    cut = whole.reshape(rows, tile, columns, tile, 3).transpose(0, 2, 1, 3, 4).reshape(-1, tile, tile, 3)
    if thumbnail and columns * rows != 1:
        cut = np.concatenate([cut, np.asarray(image.resize((tile, tile)))[None]])
    return cut


def vit_normalise(pixels):
    """uint8 [..., H, W, 3] to f32 [..., 3, H, W]: v/255, then (v - mean)/std, two rounded steps."""
    x = torch.as_tensor(np.array(pixels)).float() / 255
    x = (x - torch.tensor(MEAN)) / torch.tensor(STD)
    return x.movedim(-1, -3).contiguous()


def sam_table(video=False):
    """The SAM 2 input value of every 8-bit level, [256, 3] f32 holding bf16 values.

    For an image each step is rounded to bf16; a video slice is computed in f32 from the rounded constants and rounded once.
    """
    step = torch.bfloat16
    mean, std = torch.tensor(MEAN).to(step), torch.tensor(STD).to(step)
    level = torch.arange(256.0)[:, None]
    if video:
        return ((level / 255 - mean.float()) / std.float()).to(step).float()
    return ((level.to(step) / 255 - mean) / std).float()


def sam_normalise(pixels, table):
    """uint8 [..., H, W, 3] to f32 [..., 3, H, W] by look-up in sam_table."""
    index = torch.as_tensor(np.array(pixels)).long()
    return torch.stack([table[index[..., c], c] for c in range(3)], dim=-3)


def sam_input(image, size, table):
    """Stretches an RGB image to size x size and normalises it: f32 [3, size, size]."""
    return sam_normalise(np.asarray(image.resize((size, size))), table)
