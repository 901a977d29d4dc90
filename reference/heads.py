"""The last layers of the mask decoder, trained alone: python -m reference.heads --data FOLDER --work FOLDER --size 512

goes on from the masks stage in the work folder, or --init, and keeps its result where that stage keeps its state. The stage leaves two
things askew. It counts the pixels inside small targets once more, so that it finds them, and then draws them too large. And it learns by
heart which of the targets that look alike an image lacks, so that rare ones get empty masks elsewhere. Both are a matter of the last
layers: those that choose pixels (the hypernetworks of masks 2 and 3) and those that predict the IoU. Here these learn from what the rest
computes, once, for augmented training images: no pixel counts twice, and a target that only looks alike counts as one whose mask is poor.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .data import LOOK_ALIKE, Dataset
from .train import POOR, dice_by_family, load_masks, normalise, note, save_state, shape_loss, summary

MASKS = (2, 3)


def examples(model, data, numbers, size, seed):
    """What the heads read, a dictionary a target: the states of the first six tokens [6, D], the upscaled map [C, h, w] in f16 and the true
    mask [2h, 2w] as u8, both None without a target, and whether the target only looks alike to what the image shows. Each image is asked for
    all that its source marks elsewhere."""
    sam, out, begun = model.sam, [], time.time()
    for at in range(0, len(numbers), 4):
        drawn = data.draw(numbers[at : at + 4], np.random.default_rng([seed, at]))
        asked = set(zip(drawn.owners, drawn.phrases))
        for b, i in enumerate(drawn.numbers):
            more = {(b, data.phrase_id[p]) for p in data.absent(data.rows[i]) if p in data.phrase_id} - asked
            for owner, phrase in sorted(more):
                drawn.owners.append(owner), drawn.phrases.append(phrase), drawn.masks.append(-1)
        x, owner, phrase, truth = data.render(drawn, size)
        with torch.no_grad():
            f0, f1, p2 = sam.encode(normalise(x))
            hs, u = sam.sam_mask_decoder.read(*sam.prompted(f0[owner], f1[owner], sam.with_no_memory(p2)[owner], model.table.weight[phrase]))
        for n in range(len(owner)):
            row, there = data.rows[drawn.numbers[drawn.owners[n]]], drawn.masks[n] >= 0
            sick = row.info["source"] in LOOK_ALIKE and row.info["findings"] != "no findings"
            alike = not there and sick and data.phrases[drawn.phrases[n]] in data.absent(row)
            out.append({
                "states": hs[n, :6].clone(), "map": u[n].half() if there else None, "truth": (truth[n] * 255).byte() if there else None, "alike": alike,
            })  # fmt: skip
        if at % 100 == 0:
            print(f"{time.strftime('%H:%M:%S')} {at} of {len(numbers)} images, {(time.time() - begun) / (at + 4) * (len(numbers) - at) / 60:.1f} min left", flush=True)
    return out


def loss(decoder, some):
    """Of the shapes of present targets, and of the predicted IoU of all: see train.mask_loss."""
    states = torch.stack([e["states"] for e in some])
    there = torch.tensor([e["map"] is not None for e in some])
    alike = torch.tensor([e["alike"] for e in some])
    wanted = torch.zeros(len(some), 3)
    wanted[~there, 0] = 1.0
    wanted[alike] = torch.tensor([0.0, POOR, POOR])
    total = 0.0
    if there.any():
        shown = [e for e in some if e["map"] is not None]
        hyper = torch.stack([decoder.output_hypernetworks_mlps[k](states[there, 2 + k]) for k in MASKS], dim=1)
        masks = torch.einsum("nmc,nchw->nmhw", hyper, torch.stack([e["map"] for e in shown]).float())
        truth = torch.stack([e["truth"] for e in shown]).float()[:, None] / 255
        each, _, iou = shape_loss(masks, truth, inside=0)
        wanted[there, 1:] = POOR + (1 - POOR) * iou
        total = each.mean()
    predicted = decoder.iou_prediction_head(states[:, 1]).sigmoid()
    return total + F.mse_loss(predicted[:, 1:], wanted)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with index.jsonl")
    parser.add_argument("--work", required=True, help="folder with the pixel cache and the state of the masks stage")
    parser.add_argument("--init", help="exported checkpoint folder to start from where the work folder has no state")
    parser.add_argument("--size", type=int, default=512, help="SAM 2 image size")
    parser.add_argument("--images", type=int, default=900, help="training images, each drawn once; a quarter more are healthy ones")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32, help="targets a step")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    data = Dataset(args.data, args.work)
    model = load_masks(args, data)
    model.eval()
    rng = np.random.default_rng(args.seed)
    numbers = rng.choice(data.splits["train"], args.images, replace=False, p=data.mask_weights())
    healthy = [i for i in data.splits["train"] if data.rows[i].healthy and data.absent(data.rows[i])]
    numbers = np.concatenate([numbers, rng.choice(healthy, min(len(healthy), args.images // 4), replace=False)])
    made = examples(model, data, numbers, args.size, args.seed)
    decoder = model.sam.sam_mask_decoder
    heads = [*(decoder.output_hypernetworks_mlps[k] for k in MASKS), decoder.iou_prediction_head]
    optimizer = torch.optim.AdamW([p for head in heads for p in head.parameters()], lr=args.lr)
    steps, step = args.epochs * (len(made) // args.batch), 0
    for epoch in range(args.epochs):
        order, losses = rng.permutation(len(made)), []
        for at in range(0, len(made) - args.batch + 1, args.batch):
            for group in optimizer.param_groups:
                group["lr"] = args.lr * min(1, (step + 1) / 20) * (1 - step / steps)
            now = loss(decoder, [made[i] for i in order[at : at + args.batch]])
            optimizer.zero_grad()
            now.backward()
            optimizer.step()
            losses.append(now.item())
            step += 1
        print(f"{time.strftime('%H:%M:%S')} epoch {epoch + 1}: loss {np.mean(losses):.4f}", flush=True)
    path = Path(args.work) / "sam.pt"
    state = torch.load(path, weights_only=False) if path.exists() else {"step": 0}
    # The stage would go on from here with a new optimizer.
    state |= {"model": model.state_dict(), "average": [p.detach().clone() for p in model.parameters()], "optimizer": None}
    save_state(path, state)
    with torch.no_grad():
        scores = {k: round(v, 3) for k, v in summary(*dice_by_family(model, data, args.size, data.splits["val"])).items()}
    print(f"{time.strftime('%H:%M:%S')} val: {' '.join(f'{k} {v}' for k, v in scores.items())}", flush=True)
    note(args.work, {"stage": "sam", "step": state["step"], "size": args.size, "heads": args.images} | scores)


if __name__ == "__main__":
    main()
