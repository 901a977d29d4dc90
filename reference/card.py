"""Writes evaluation.json and CARD.md of unibiomed-nano from what was measured. Every figure comes from a file,
but for those of tried.md, which is kept by hand for the weights that ship.

    python -m reference.card --scores SCORES --data ../shared/data/train --curve CURVES...

SCORES holds a folder a task with the summary.json of `unibiomed eval`, and, where they were made, f32.json and q8_0.json of reference.compare and
bench.json of `unibiomed bench --json`. Curves are curve.jsonl files of training, or its logs. Needs Python's standard library only;
`reference/ship.sh` runs everything in order.
"""

import argparse
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "models/unibiomed-nano"
TASKS = ("segment", "recognize", "region", "modality", "presence")
EVAL = "unibiomed eval ../shared/data/train --split test --commercial"
COMMANDS = {
    "segment": f"{EVAL} --absent --baselines", "recognize": f"{EVAL} --task recognize", "region": f"{EVAL} --task region",
    "modality": f"{EVAL} --task modality", "presence": f"{EVAL} --task presence --absent",
    "f32": "python -m reference.compare --items F32_SCORES/items.ndjson --mean 0.005", "q8_0": "python -m reference.compare --items SCORES/items.ndjson --mean 0.01",
    "bench": "unibiomed bench --image models/examples/xray.png --threads 2 --json",
}  # fmt: skip
BASELINES = {"mean_mask": "mean mask", "otsu": "Otsu"}
POINTS = 24  # lines of the learning curve that the card shows


def read(path):
    return json.loads(path.read_text()) if path.exists() else None


def strip(summary):
    """A summary with its interval and run, without what is the same everywhere."""
    return {k: v for k, v in summary.items() if k not in ("schema", "notice")}


def answer_seconds(bench):
    """Seconds of the first answer about an image."""
    return bench and bench["answers"][0]["seconds"]


def bars(scores, checks):
    """What the model was meant to reach: [{what, want, got, reached}]; got is null where it was not measured."""
    out = []

    def bar(what, want, got, above=True):
        reached = None if got is None else bool(got >= want if above else got <= want)
        out.append({"what": what, "want": f"{'>=' if above else '<='} {want:g}", "got": got, "reached": reached})

    seg = scores.get("segment")
    if seg:
        strict, rows = seg["segmentation"]["strict"], [r for r in seg["by_modality"] if r.get("strict")]
        bar("strict Dice, mean over modalities", 0.65, strict["modality_dice"])
        bar("strict Dice, mean over modalities, to be proud", 0.75, strict["modality_dice"])
        worst = min(rows, key=lambda r: r["strict"]["mean"])
        bar(f"strict Dice of the worst modality ({worst['name']})", 0.5, worst["strict"]["mean"])
        for name, text in BASELINES.items():
            base = seg["segmentation"]["baselines"][name]["modality_dice"]
            bar(f"strict Dice above the baseline {text}, mean over modalities", 0.15, strict["modality_dice"] - base)
        bar("absent targets of the same modality, empty masks", 0.85, seg["absent"] and seg["absent"]["mean"])
        bar("absent targets of another modality, empty masks", 0.85, seg["foreign"] and seg["foreign"]["mean"])
        follows = seg["segmentation"]["follows_question"]
        bar("pairs of targets in different places with different masks", 0.9, follows["different"] / follows["pairs"] if follows["pairs"] else None)
    if scores.get("modality"):
        bar("modality question, accuracy", 0.97, scores["modality"]["modality"]["mean"])
    if scores.get("recognize"):
        bar("recognition, accuracy balanced over classes", 0.75, scores["recognize"]["classes"]["balanced"])
    if scores.get("region"):
        bar("region phrase, accuracy as the reference scores it: left and right left out", 0.7, scores["region"]["region"]["official"]["mean"])
        bar("region phrase, accuracy, equal", 0.7, scores["region"]["region"]["strict"]["mean"])
    for kind, limit in (("f32", 0.005), ("q8_0", 0.01)):
        bar(f"mean Dice, {kind}: difference from the PyTorch reference", limit, checks[kind] and checks[kind]["mean_difference"], False)
    bar("model folder, MB", 40, sum(f.stat().st_size for f in MODEL.iterdir() if f.suffix == ".gguf" or f.name == "model.json") / 1e6, False)
    bar("one answer on 2 cores, seconds", 2, answer_seconds(checks["bench"]), False)
    return out


def read_curve(paths):
    """Points of training: [{stage, step, ..., scores}], from JSON lines or from `val at step` lines of a log."""
    out = []
    for path in paths:
        for line in Path(path).read_text().splitlines():
            if line.startswith("{"):
                out.append(json.loads(line))
            elif found := re.search(r"val at step (\d+): (.*)", line):
                scores = {k.strip().lower(): float(v) for k, v in re.findall(r"([A-Za-z ]*[A-Za-z]) (\d+\.\d+)", found[2])}
                out.append({"stage": "sam" if "dice" in scores else "language", "step": int(found[1])} | scores)
    return out


def table(header, rows):
    return "\n".join(["| " + " | ".join(header) + " |", "|" + "---|" * len(header)] + ["| " + " | ".join(map(str, r)) + " |" for r in rows])


def number(x):
    return "-" if x is None else f"{x:.3f}" if x < 10 else f"{x:.1f}"


def interval(s):
    if not s:
        return "-"
    return f"{s['mean']:.3f}" + (f" ({s['low']:.3f} to {s['high']:.3f})" if s["groups"] > 1 else "")


def rows_of(rows):
    return [
        (r["name"], r["strict"]["count"], interval(r.get("official")), interval(r["strict"]), *(interval(r.get("baselines", {}).get(b)) for b in BASELINES))
        for r in rows if r.get("strict")
    ]  # fmt: skip


def sources(data):
    """Rows of the data page about sources that were trained on, and how many images and masks of each."""
    count = {}
    for row in map(json.loads, open(data / "index.jsonl")):
        if not row["noncommercial"] and row["split"] == "train":
            images, masks, licences = count.setdefault(row["source"], [0, 0, set()])
            count[row["source"]] = [images + 1, masks + len(row["targets"]), licences | {row["licence"]}]
    out = []
    for line in (data / "README.md").read_text().splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if len(cells) == 6 and cells[0] in count:
            images, masks, licences = count.pop(cells[0])
            out.append((cells[1], images, masks, "; ".join(sorted(licences)), cells[4]))
    if count:
        raise ValueError(f"{data / 'README.md'}: no attribution of {', '.join(sorted(count))}")
    return out


def card(model, result, data):
    scores, checks = result["tasks"], result["checks"]
    text = [f"""# {model['name']}

{model['description']}

**Research use only. It is not a medical device, and nothing it says is a diagnosis.** It is small, and often wrong: see the figures.

- Architecture: UniBiomed (InternViT, Qwen2, SAM 2) in small; every size is in the GGUF files. Types: {', '.join(f'{k} {v}' for k, v in sorted(model['quantization'].items()))}.
- Weights: Apache-2.0, with the attributions below. Source checkpoint sha256 `{model['source']['sha256']}`.
- Intended use: trying the command and the library, tests, teaching. It stands where the published model of 1B parameters stands in real use.

This page and `evaluation.json` are written by `reference/ship.sh` from the files that the named commands made.

## What was to be reached

Test split of the data set below, images flagged non-commercial left out, on the types that ship. Scores run from 0 to 1.
"""]
    text.append(table(("what", "wanted", "got", "reached"), [
        (b["what"], b["want"], number(b["got"]), {True: "yes", False: "**no**", None: "not measured"}[b["reached"]]) for b in result["bars"]
    ]))  # fmt: skip
    if seg := scores.get("segment"):
        s = seg["segmentation"]
        text.append(f"""
## Masks

    {COMMANDS['segment']}

{seg['images']} images, {s['strict']['dice']['count']} masks; in brackets 95 % intervals, bootstrap over groups (patients, volumes). "Official" is the score of
the published scripts (the first 300 masks), "strict" leaves nothing out (docs/evaluation.md). Baselines need no model: the mean of a phrase's training masks,
and Otsu's threshold or the largest part of it, whichever was best for the phrase in training.
""")
        base = s["baselines"]
        text.append(table(("Dice", "official", "strict", *BASELINES.values()), [
            ("mean over modalities", number(s["official"]["modality_dice"]), number(s["strict"]["modality_dice"]), *(number(base[b]["modality_dice"]) for b in BASELINES)),
            ("mean over masks", interval(s["official"]["dice"]), interval(s["strict"]["dice"]), *(interval(base[b]["dice"]) for b in BASELINES)),
            ("mean over phrases", number(s["official"]["class_dice"]), number(s["strict"]["class_dice"]), *("-" for _ in BASELINES)),
        ]))  # fmt: skip
        head = ("masks", "official", "strict", *BASELINES.values())
        text += ["", table(("modality", *head), rows_of(seg["by_modality"])), "", "<details><summary>by phrase</summary>", "", table(("phrase", *head), rows_of(seg["by_phrase"])), "", "</details>"]  # fmt: skip
        follows = s["follows_question"]
        text.append(f"""
Answers follow the question: of {follows['pairs']} pairs of targets that lie in different places of one image, {follows['different']} got different masks (Dice of
the two answers below 0.9), and {follows['both_empty']} got two empty ones. {s['without_mask']} answers had no mask.""")
    text.append("\n## Words\n")
    rows = []
    for task, name, pick in (
        ("modality", "modality: \"Which imaging modality is this?\"", lambda x: x["modality"]), ("recognize", "recognition: the phrase of the abnormality, or no findings", lambda x: x["recognition"]["strict_accuracy"]),
        ("region", "region: the phrase of what is in the box", lambda x: x["region"]["strict"]), ("presence", "presence: \"Is there a ... in this image?\"", lambda x: x["presence"]),
    ):  # fmt: skip
        if x := scores.get(task):
            c = x["classes"]
            rows.append((name, pick(x)["count"], interval(pick(x)), number(c["balanced"]), f"{number(c['majority'])} (\"{c['majority_answer']}\")", f"`{COMMANDS[task]}`"))
    text.append(table(("question", "asked", "accuracy", "balanced over classes", "always the most frequent answer", "command"), rows))
    text.append("\n## The same from PyTorch and from the command\n")
    if any(checks[k] for k in ("f32", "q8_0")):
        text.append(table(("types", "masks compared", "reference, f32", "command", "difference of the means", "largest of one mask", "same text", "command"), [
            (k, c["masks"], number(c["reference"]), number(c["command"]), f"{c['mean_difference']:.4f}", f"{c['largest_difference']:.4f}", f"{100 * c['same_text']:.1f} %", f"`{COMMANDS[k]}`")
            for k in ("f32", "q8_0") if (c := checks[k])
        ]))  # fmt: skip
    else:
        text.append("Not measured for these weights.")
    if b := checks["bench"]:
        text.append(f"""
## Speed

One answer takes {answer_seconds(b):.2f} s: the first one about `models/examples/xray.png`, on {b['machine']['cpu']}, {b['threads']} threads.

    {COMMANDS['bench']}""")
    text.append("\n## Learning curve\n")
    for stage, title in (("sam", "Masks (stage `sam`): strict Dice on the validation split, masks drawn from the table of phrases, before the shift of `--empty`"), ("language", "Words (stage `language`): share of answers right in every token on the validation split")):
        points = [p for p in result["curve"] if p["stage"] == stage]
        if not points:
            text.append(f"{title}: no curve was kept.\n")
            continue
        points = [points[i] for i in sorted({round(k * (len(points) - 1) / max(1, min(POINTS, len(points)) - 1)) for k in range(min(POINTS, len(points)))})]
        names = [k for k in points[-1] if k not in ("stage", "batch", "heads")]
        points = [p | {"step": f"{p['step']}, then reference.heads"} if "heads" in p else p for p in points]
        text += [title + ":", "", table(names, [[p[k] if isinstance(p.get(k), (int, str)) else number(p.get(k)) for k in names] for p in points]), ""]
    text += [(Path(__file__).parent / "tried.md").read_text()]
    text.append(f"""## What it can't do

- It knows the phrases of its training set, the ones listed above, and the wordings of the official questions with some variations. Its vocabulary is about a
  thousand tokens: long or free questions are answered badly, and other languages not at all (it answers in English, with whatever it takes the words for).
- An unknown phrase gets the mask of a known phrase that looks alike to it, or an empty one (status `empty`). Neither says whether the thing is there.
- Its predicted IoU also decides whether a target is there: it was trained to be 0.4 + 0.6 IoU where there is one, so it reads higher than the overlap.
- Healthy images of a kind that often shows a target get masks too often: compare the two rows of absent targets. An image that shows something
  gets a mask for whatever looks like it, asked for by another name: of two lesions of a retina, say, the one that is not there. A mask is no
  evidence that a thing is there. "Is there a ... in this image?" has its own accuracy above.
- A picture that is no medical image gets an answer as if it were one: a modality is named, and masks may be drawn. The model does not know that it should refuse.
- A region question wants a box, or a mask with at least one pixel: an empty mask is an input error ("has no pixel inside"), and no answer is made.
- Targets share boxes: one lung is the largest part of `lung` and all of `left lung`, a melanoma is a `lesion` too. Region questions about such boxes have several
  right answers, of which "equal" takes one; the official score leaves out left and right.
- Rare phrases (few masks in the table by phrase), tiny targets such as microaneurysms, and thin ones such as vessels, are weak.
- PET has one target (tumor); OCT has no image without findings; mammography, abdominal MRI and others are missing. Left and right are learned for lungs only.
- It was trained on single images of at most 384 pixels. Volumes work slice by slice, but nothing was trained on them.
- Reports are put together from labels: one finding, its place and size. They are not what a radiologist writes.
- Scores on images of other sources will be lower than on this test split, which comes from the same sources as the training images.

## Data

Real images with masks from public sets whose licences allow a model to be used freely; images flagged non-commercial were never read. Counts are of the
training split. Each line names what the licences ask to be named. Models trained on CC BY-SA images carry their attribution too; no image is part of the weights.
""")
    text.append(table(("data set", "images", "masks", "licence", "attribution"), sources(data)))
    return "\n".join(text) + "\n"


def main():
    parser = argparse.ArgumentParser(description="Writes CARD.md and evaluation.json of unibiomed-nano.")
    parser.add_argument("--scores", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path, help="folder with index.jsonl and README.md")
    parser.add_argument("--curve", nargs="*", default=[], help="curve.jsonl files or logs of training")
    args = parser.parse_args()
    model = read(MODEL / "model.json")
    tasks = {t: s for t in TASKS if (s := read(args.scores / t / "summary.json"))}
    for task, summary in tasks.items():
        if (sha := summary["run"]["model_sha256"]) != model["source"]["sha256"]:
            raise SystemExit(f"{args.scores / task}: scores of {sha}, the model is {model['source']['sha256']}")
    checks = {k: read(args.scores / f"{k}.json") for k in ("f32", "q8_0", "bench")}
    for k in ("f32", "q8_0"):
        if checks[k]:
            checks[k].pop("answers", None)
    result = {
        "schema": "unibiomed.card/1", "model": model["name"], "sha256": model["source"]["sha256"], "quantization": model["quantization"], "commands": COMMANDS,
        "bars": bars(tasks, checks), "tasks": {t: strip(s) for t, s in tasks.items()}, "checks": checks, "curve": read_curve(args.curve),
    }  # fmt: skip
    (MODEL / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
    (MODEL / "CARD.md").write_text(card(model, result, args.data))
    for b in result["bars"]:
        print(f"{ {True: 'ok  ', False: 'MISS', None: '  ? '}[b['reached']] } {b['what']}: {number(b['got'])} (want {b['want']})")


if __name__ == "__main__":
    main()
