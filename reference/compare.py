"""Compares the scores of the Go command with those of this reference, answer by answer.

    unibiomed eval DATA --model MODEL --commercial --out SCORES
    python -m reference.compare --checkpoint CHECKPOINT --data DATA --items SCORES/items.ndjson

Both read the same images and masks; the command's answers come from SCORES/items.ndjson (docs/evaluation.md), the reference's are computed
here in f32. Exit code 1 when the mean Dice over all masks or over those of one modality differs by more than --mean, or that of one mask by
more than --each.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from . import checkpoint, preprocess
from .data import FAMILY
from .evaluate import Session


def dice(pixels):
    """Strict Dice of {pred, truth, both}: 1 where both are empty."""
    total = pixels["pred"] + pixels["truth"]
    return 2 * pixels["both"] / total if total else 1.0


def read_items(path, limit=None):
    """Records of the task segment; `limit` picks about that many, evenly."""
    header, *records = [json.loads(line) for line in open(path)]
    if header["task"] != "segment":
        raise ValueError(f"{path}: task {header['task']}, want segment")
    return records[:: max(1, len(records) // limit)] if limit else records


@torch.inference_mode()
def compare(model, data, records, progress=None):
    """One line an answer: {image, modality, phrase, absent, command, reference (Dice of both), same_text}."""
    index = {row["image"]: row for row in map(json.loads, open(Path(data) / "index.jsonl"))}
    out, begun = [], time.time()
    for n, record in enumerate(records):
        image = preprocess.load_rgb(Path(data) / record["id"])
        session = Session(model, image)
        files = {t["phrase"]: t["mask"] for t in index[record["id"]]["targets"]}
        for item in record["items"]:
            answer, masks = session.ask(f"Please segment {item['phrase']}.")
            pred = masks[0] if masks else np.zeros((image.height, image.width), bool)
            truth = np.zeros_like(pred)
            if not item.get("absent"):
                truth = np.asarray(Image.open(Path(data) / files[item["phrase"]]).convert("L")) > 0
            mine = {"pred": int(pred.sum()), "truth": int(truth.sum()), "both": int((pred & truth).sum())}
            if mine["truth"] != item["pixels"]["truth"]:
                raise ValueError(f"{record['id']}: {item['phrase']}: the truth has {mine['truth']} pixels, {item['pixels']['truth']} in the command")
            out.append({
                "image": record["id"], "modality": FAMILY[record["modality"]], "phrase": item["phrase"], "absent": bool(item.get("absent")),
                "command": dice(item["pixels"]), "reference": dice(mine), "same_text": item["answer"].strip().removesuffix("<|end|>") == answer,
            })  # fmt: skip
        if progress:
            progress(n + 1, len(records), time.time() - begun)
    return out


def summarise(lines):
    """Means of both, the largest difference of one answer and of a modality's mean, and how many texts agree."""
    shown = [x for x in lines if not x["absent"]]
    mean = lambda some, key: float(np.mean([x[key] for x in some]))
    by = {m: [x for x in shown if x["modality"] == m] for m in sorted({x["modality"] for x in shown})}
    off = [abs(x["command"] - x["reference"]) for x in lines]
    return {
        "masks": len(shown), "absent": len(lines) - len(shown), "command": mean(shown, "command"), "reference": mean(shown, "reference"),
        "mean_difference": abs(mean(shown, "command") - mean(shown, "reference")),
        "modality_difference": {m: abs(mean(some, "command") - mean(some, "reference")) for m, some in by.items()},
        "largest_difference": max(off), "above_0.005": sum(d > 0.005 for d in off), "above_0.01": sum(d > 0.01 for d in off),
        "same_text": mean(lines, "same_text"),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description="Compares the command's segmentation scores with the reference's.")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data", required=True, help="folder with index.jsonl")
    parser.add_argument("--items", required=True, help="items.ndjson of `unibiomed eval --task segment`")
    parser.add_argument("--limit", type=int, help="about this many images, evenly picked")
    parser.add_argument("--mean", type=float, default=0.005, help="largest difference of the mean Dice")
    parser.add_argument("--each", type=float, help="largest difference of one mask's Dice; default: any")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", help="JSON file with the summary and every answer")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    def progress(done, total, seconds):
        if done % 25 == 0:
            print(f"{done}/{total} images, {seconds / done * (total - done) / 60:.0f} min left", file=sys.stderr, flush=True)

    lines = compare(checkpoint.load(args.checkpoint), args.data, read_items(args.items, args.limit), progress)
    result = summarise(lines)
    print(json.dumps(result, indent=1))
    if args.out:
        Path(args.out).write_text(json.dumps(result | {"answers": lines}, indent=1) + "\n")
    worst = max(result["mean_difference"], *result["modality_difference"].values())
    if worst > args.mean or args.each is not None and result["largest_difference"] > args.each:
        sys.exit(f"the command differs from the reference: means by {worst:.4f} (limit {args.mean}), one mask by {result['largest_difference']:.4f}")


if __name__ == "__main__":
    main()
