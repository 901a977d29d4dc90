"""Scores a checkpoint folder: python -m reference.evaluate --checkpoint FOLDER --data FOLDER --split test --out result.json

Segmentation is scored by strict Dice at each image's own size: every listed target counts, also one that gets no mask. Text tasks
are scored on what greedy decoding answers. The result holds one record an answer, so that another runtime can be compared with it.
"""

import argparse
import json
import time

import numpy as np
import torch
from PIL import ImageDraw

from . import checkpoint, preprocess, texts
from .data import Dataset, components


def questions(data, number, rng):
    """Fixed test questions about one image: (task, question, answer, [SEG] phrases, box or None)."""
    row = data.rows[number]
    out = [("modality", texts.MODALITY[0], f"It is {texts.MODALITY_NAME[row.family]}.", [], None)]
    found = texts.finding(row)
    if found and found[1] in data.phrase_id:
        out.append(("recognition", texts.DISEASE[rng.integers(8)].format(""), f"[SEG]. {found[0].lower()}.", [found[1]], None))
    known = [(t, p) for t, p in enumerate(row.phrases) if p in data.phrase_id]
    if known:
        t, phrase = known[rng.integers(len(known))]
        out.append(("segment", texts.SEGMENT[1].format(phrase), "It is [SEG].", [phrase], None))
        out.append(("region", texts.BOX[rng.integers(len(texts.BOX))], phrase.lower(), [], largest_box(data.mask(number, t))))
        out.append(("presence", texts.PRESENCE[0].format(texts.name_of(phrase)), "Yes.", [], None))
    out.append(("presence", texts.PRESENCE[0].format(texts.name_of(data.foreign(row, rng))), "No.", [], None))
    return out


def largest_box(mask):
    """Bounding box (x0, y0, x1, y1) of the largest connected part of a boolean mask [h, w]."""
    h, w = mask.shape
    step = max(1, max(h, w) // 96)
    coarse = torch.from_numpy(mask[: h // step * step, : w // step * step].reshape(h // step, step, w // step, step).any((1, 3)))
    label = components(coarse[None])[0]
    values, counts = label[label > 0].unique(return_counts=True)
    part = (label == values[counts.argmax()]).numpy().repeat(step, 0).repeat(step, 1)
    inside = mask.copy()
    inside[:] = False
    inside[: part.shape[0], : part.shape[1]] = part & mask[: part.shape[0], : part.shape[1]]
    ys, xs = np.nonzero(inside)
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def draw_box(image, box):
    """A green rectangle, 2 px wide, as the region questions expect."""
    image = image.copy()
    x0, y0, x1, y1 = box
    ImageDraw.Draw(image).rectangle([x0 - 1, y0 - 1, x1, y1], outline=(0, 255, 0), width=2)
    return image


class Session:
    """One image, encoded once for many questions."""

    def __init__(self, model, image):
        self.model, self.image = model, image
        v, extra = model.vision_config, model.extra
        cut = preprocess.tiles(image, v.image_size, extra.get("max_tiles", 12), extra.get("min_tiles", 1), extra.get("thumbnail", True))
        self.features = model.image_features(preprocess.vit_normalise(cut)).flatten(0, 1)
        self.grounding = None

    def ask(self, question, limit=120):
        """The answer without its end marker, and its masks, bool [h, w] each."""
        model, words = self.model, self.model.tokenizer
        ids = words.encode(words.template(words.expand_image("<image>" + question, [len(self.features)])))
        out, _, states, _ = model.generate(ids, self.features, limit)
        found = [h for i, h in zip(out, states) if i == words.seg]
        masks = []
        if found:
            if self.grounding is None:
                size = model.sam2_config.image_size
                self.grounding = model.sam.encode(preprocess.sam_input(self.image, size, preprocess.sam_table())[None])
            on, _ = model.segment(self.grounding, model.text_hidden_fcs(torch.stack(found)), (self.image.height, self.image.width))
            masks = [m.numpy() for m in on]
        return words.decode(out).strip().removesuffix("<|end|>"), masks


def dice(on, want):
    return float(2 * (on & want).sum() / max(1, on.sum() + want.sum()))


def evaluate(model, data, split, limit=None):
    """One record an answer: {image, family, task, phrase, question, answer, and dice or right}."""
    records = []
    numbers = data.splits[split]
    numbers = numbers[:: max(1, len(numbers) // limit)] if limit else numbers
    begun = time.time()
    for n, i in enumerate(numbers):
        row, image, rng = data.rows[i], data.image(i), np.random.default_rng(i)
        session = Session(model, image)
        none = np.zeros((image.height, image.width), bool)

        def record(task, phrase, question, answer, **result):
            records.append({"image": row.info["image"], "family": row.family, "task": task, "phrase": phrase, "question": question,
                            "answer": answer, **result})  # fmt: skip

        for t, phrase in enumerate(row.phrases):
            question = f"Please segment {phrase}."
            answer, masks = session.ask(question)
            record("segment", phrase, question, answer, dice=dice(masks[0] if masks else none, data.mask(i, t)))
        absent = data.absent(row)
        wrong = [data.foreign(row, rng)] + ([absent[rng.integers(len(absent))]] if absent else [])
        for task, phrase in zip(("absent foreign", "absent annotated"), wrong):
            question = f"Please segment {phrase}."
            answer, masks = session.ask(question)
            record(task, phrase, question, answer, right=not (masks and masks[0].any()))
        for task, question, want, names, box in questions(data, i, np.random.default_rng(i)):
            if task == "segment":
                continue
            answer, masks = (Session(model, draw_box(image, box)) if box else session).ask(question)
            if task == "recognition":
                result = {"right": want.removeprefix("[SEG]. ").removesuffix(".") in answer.lower(), "want": want}
            elif task == "region":
                short = lambda s: s.lower().split(" in ")[0].replace("left ", "").replace("right ", "")
                result = {"right": short(answer) == short(want), "want": want}
            else:
                result = {"right": answer == want, "want": want}
            record(task, names[0] if names else None, question, answer, **result)
        if (n + 1) % 50 == 0:
            pace = (time.time() - begun) / (n + 1)
            print(f"{n + 1}/{len(numbers)} images, {pace:.2f} s each, {pace * (len(numbers) - n - 1) / 60:.0f} min left", flush=True)
    return records


def summarise(records):
    """Mean Dice by modality and phrase; accuracy by task, for recognition also the mean over classes."""
    mean = lambda values: round(float(np.mean(values)), 4) if values else None

    def by(key, some, value):
        names = sorted({r[key] for r in some})
        return {n: {"mean": mean([r[value] for r in some if r[key] == n]), "n": sum(r[key] == n for r in some)} for n in names}

    seg = [r for r in records if r["task"] == "segment"]
    families = by("family", seg, "dice")
    out = {"dice": {"mean over modalities": mean([v["mean"] for v in families.values()]), "mean over masks": mean([r["dice"] for r in seg]),
                    "by modality": families, "by phrase": by("phrase", seg, "dice")}, "tasks": {}}  # fmt: skip
    for task in sorted({r["task"] for r in records} - {"segment"}):
        some = [r for r in records if r["task"] == task]
        out["tasks"][task] = {"accuracy": mean([r["right"] for r in some]), "n": len(some)}
        if task in ("recognition", "region"):
            classes = by("want", some, "right")
            out["tasks"][task] |= {"balanced": mean([v["mean"] for v in classes.values()]), "by class": classes}
    return out


def main():
    parser = argparse.ArgumentParser(description="Scores a checkpoint folder on the training set's validation or test split.")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data", required=True, help="folder with index.jsonl")
    parser.add_argument("--split", choices=["val", "test"], default="test")
    parser.add_argument("--limit", type=int, help="about this many images, evenly picked")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", help="JSON file with the summary and every record")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = Dataset(args.data, None)
    with torch.no_grad():
        records = evaluate(checkpoint.load(args.checkpoint), data, args.split, args.limit)
    result = summarise(records)
    print(json.dumps(result, indent=1))
    if args.out:
        with open(args.out, "w") as file:
            json.dump(result | {"split": args.split, "records": records}, file, indent=1)


if __name__ == "__main__":
    main()
