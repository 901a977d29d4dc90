"""Questions and answers of unibiomed-nano: the official wordings, with variations, made from the labels of the training set.

A `View` is what one augmented image shows. Every sample is (question, answer, phrases of its [SEG] tokens).
"""

from dataclasses import dataclass

import numpy as np

SEGMENT = (
    "Can you segment the {}?|Please segment {}.|What is {}? Please respond with segmentation mask.|"
    "What is {}? Please output segmentation mask.|Can you segment the {}|Please segment {}|"
    "What is {}? Please respond with segmentation mask|What is {}? Please output segmentation mask|"
    "Could you provide a segmentation mask for the {}?|Please identify and segment the {}.|"
    "Where is the {}? Please respond with a segmentation mask.|Can you highlight the {} with a segmentation mask?|"
    "Could you provide a segmentation mask for the {}|Please identify and segment the {}|"
    "Where is the {}? Please respond with a segmentation mask|Can you highlight the {}with a segmentation mask"
).split("|")
SEGMENT_PLAIN = "Segment the {}.|Segment {}.|Where is the {}?|Show me the {}.|Outline the {}.|Please mark the {}.".split("|")
SEGMENT_ANSWERS = "It is [SEG].|Sure, [SEG].|Sure, it is [SEG].|Sure, the segmentation result is [SEG].|[SEG].".split("|")

PARTS = " Please respond with interleaved segmentation masks for the corresponding parts."
REGION = " Please highlight the region with interleaved segmentation masks."
PHRASES = " Please output with interleaved segmentation masks for the corresponding phrases."
DISEASE = [
    "Can we observe any signs of abnormality{}?" + PARTS,
    "Can we see abnormality{}?" + REGION,
    "Can abnormality be identified{}?" + PHRASES,
    "Can abnormality be observed{}?" + PHRASES,
    "Are there any visible indications of abnormality{}?" + PARTS,
    "Are there any observable signs of abnormality{}?" + REGION,
    "Does the visual features suggest the presence of abnormality{}?" + PHRASES,
    "Are there any clear indications of abnormality{}?" + PHRASES,
]
REPORT = [
    "Could you diagnosis the abnormality in this image?" + PARTS,
    "Could you describe the abnormality in this image?" + REGION,
    "Can you generate a brief report for this image?" + PHRASES,
    "Could you give a brief discription of what abnormality can be found within this image?" + PHRASES,
]
BOX = (
    "What is the <region> in the picture?|Can you tell me what is the <region> in the image?|"
    "Could you tell me the <region> in the picture?|Can you identify the <region> in the image?|"
    "Can you tell me about the <region> represents in this photo?|What does the <region> in the photo indicate?|"
    "What does the <region> refer to in this image?|Could you clarify what the <region> in the photo shows?|"
    "What is shown in the <region> in the picture?"
).split("|")
MODALITY = (
    "What modality is this image?|Which imaging modality is this?|What is the modality of this image?|"
    "What kind of medical image is this?|What type of scan is this?|How was this image acquired?"
).split("|")
SITE = (
    "What body part is shown?|Which body part is this?|Which part of the body does the image show?|What anatomical site is shown?|"
    "What region of the body is this?"
).split("|")
ORGAN = (
    "What is shown in this image?|What can be seen in this image?|Which structures are visible in this image?|"
    "What organ is shown in this image?|What does this image show?"
).split("|")
PRESENCE = "Is there a {} in this image?|Is there any {} in this image?|Does this image show a {}?|Can you see a {}?|Is a {} visible?".split("|")
COUNT = "How many {} are there?|How many {} can be seen in this image?|Count the {} in this image.".split("|")
SIDE = "Is the {} on the left or the right side of the image?|On which side of the image is the {}, left or right?".split("|")

MODALITY_NAME = {
    "ct": "a CT image", "mri": "an MRI image", "oct": "an OCT image", "pet": "a PET image", "xray": "an X-Ray image",
    "dermoscopy": "a dermoscopy image", "endoscopy": "an endoscope image", "fundus": "a fundus image", "pathology": "a pathology image",
    "ultrasound": "an ultrasound image",
}  # fmt: skip

SITE_NAME = {"retinal": "retina", "cardiac": "heart", "fetal": "fetus", "coronary": "coronary arteries"}

# Labels of the sources that name no target: what to call them, and the target whose mask grounds them.
CHEST = {"bacterial pneumonia": "pneumonia", "viral pneumonia": "pneumonia", "COVID-19": "COVID-19 infection"}
ABNORMAL = (
    "hemorrhage|tumor|lesion|glioma|meningioma|melanoma|keratosis|polyp|exudates|microaneurysm|adenocarcinoma|neoplasia|adenoma|"
    "stenosis|drusen|cyst|macular hole|detachment|hyperreflective|fluid|traction"
).split("|")
COUNTED = {"polyp", "nuclei", "lesion", "intervertebral disc", "vertebrae", "lung", "tumor", "hard exudates", "optic disc", "fetal head"}


def name_of(phrase):
    """`polyp in colon endoscope` is about a `polyp`."""
    return phrase.split(" in ")[0]


def plural(name):
    if name in ("nuclei", "vertebrae") or name.endswith("s"):
        return name
    return name + "s"


@dataclass
class View:
    """One augmented image: its row, the targets it shows with their coverage [cells, cells] in 0..1, and the boxed target if any."""

    row: object
    shown: list  # (phrase, coverage)
    absent: list  # phrases that are certainly not there
    boxed: str | None = None


def finding(row):
    """The phrase that answers a question for abnormality and the phrase whose mask grounds it; None when the source says nothing."""
    info, label, phrases = row.info, row.info["findings"], row.phrases
    if label == "no findings":
        return "no findings", "no findings"
    if label is None or label == "Unknown":
        return None
    place = f"in {info['site']} {info['modality']}"
    source = info["source"]
    if source in ("covid_cxr", "kermany_cxr"):
        return f"{CHEST[label]} {place}", "lung in chest X-Ray"
    if source == "physionet_ct_ich":
        return (f"intracranial hemorrhage {place}",) * 2
    if source == "isic2017":
        return (f"{'lesion' if label == 'nevus' else label} {place}",) * 2
    if source == "busi":
        return (f"{label} {place}",) * 2
    if source == "idrid_seg":
        order = ["hemorrhage", "hard exudates", "microaneurysm", "soft exudates"]
        found = [f"{x} {place}" for x in order if f"{x} {place}" in phrases]
        return (found[0],) * 2 if found else None
    if source in ("fives", "hrf", "idrid_grading", "hvsmr2", "tnbc", "vocalfolds"):
        return None
    sick = [t for t in info["targets"] if any(w in t["phrase"] for w in ABNORMAL)]
    if source == "bhsd":  # the kind of bleeding, not the target that joins all kinds
        sick = [t for t in sick if not t["phrase"].startswith("intracranial")]
    if not sick:
        return None
    return (max(sick, key=lambda t: t["area_fraction"])["phrase"],) * 2


def place_of(coverage):
    """Where the centre of a coverage map lies, in words of a 3x3 grid, and its share of the image in percent."""
    total = coverage.sum()
    n = len(coverage)
    y, x = (coverage.sum(1) @ np.arange(n) + 0.5 * total) / total / n, (coverage.sum(0) @ np.arange(n) + 0.5 * total) / total / n
    row = "upper" if y < 0.4 else "lower" if y > 0.6 else ""
    column = "left" if x < 0.4 else "right" if x > 0.6 else ""
    share = 100 * total / n / n
    return " ".join(filter(None, [row, column])) or "center", share, x


def size_word(share):
    return "very small" if share < 1 else "small" if share < 5 else "medium sized" if share < 20 else "large"


def segment(view, rng, phrases):
    """A segmentation request: mostly for what is there, else for something absent or of another kind of image."""
    draw = rng.random()
    if view.shown and draw < 0.75:
        phrase = view.shown[rng.integers(len(view.shown))][0]
    elif view.absent and draw < 0.9:
        phrase = view.absent[rng.integers(len(view.absent))]
    else:
        phrase = phrases[rng.integers(len(phrases) - 1)]
    style, named = rng.random(), phrase
    here = {name_of(p) for p, _ in view.shown} | {name_of(p) for p in view.absent}
    if style < 0.25:
        named = phrase.lower()
    elif style < 0.45 and name_of(phrase) in here:
        named = name_of(phrase)
    ask = SEGMENT if rng.random() < 0.75 else SEGMENT_PLAIN
    question = ask[1] if rng.random() < 0.2 else ask[rng.integers(len(ask))]
    answer = SEGMENT_ANSWERS[0 if rng.random() < 0.6 else rng.integers(len(SEGMENT_ANSWERS))]
    return question.format(named), answer, [phrase]


def disease(view, rng):
    found = finding(view.row)
    if found is None:
        return None
    # One opening prevails: of equally likely ones rounding would choose.
    start = "It is [SEG]. " if rng.random() < 0.2 else "[SEG]. "
    return DISEASE[rng.integers(8)].format(""), f"{start}{found[0].lower()}.", [found[1]]


def grounded_vqa(view, rng, sites):
    found = finding(view.row)
    site = view.row.info["site"]
    if found is None or not site:
        return None
    if rng.random() < 0.15:  # another part of the body shows nothing here
        other = sites[rng.integers(len(sites))]
        if other != site:
            return DISEASE[rng.integers(8)].format(f" in {other}"), "<p> no findings. </p> [SEG]", ["no findings"]
    k = rng.integers(8)
    at = " within " if k in (3, 7) else " in "
    return DISEASE[k].format(at + site), f"<p> {name_of(found[0]).lower()}. </p> [SEG]", [found[1]]


def report(view, rng):
    found = finding(view.row)
    if found is None:
        return None
    info = view.row.info
    kind = MODALITY_NAME[view.row.family].lower()
    text = f"{name_of(found[0]).lower()}. {kind} of the {SITE_NAME.get(info['site'], info['site']) or 'tissue'}."
    coverage = dict(view.shown).get(found[1])
    if found[0] == "no findings":
        text += " no abnormality is seen."
    elif coverage is not None and found[0] == found[1]:
        where, share, _ = place_of(coverage)
        text += f" a {size_word(share)} {name_of(found[0]).lower()} is seen in the {where} of the image."
    return REPORT[rng.integers(4)], f"<p> {text} </p> [SEG]", [found[1]]


def plain(view, rng, components):
    """An ungrounded question: modality, body part, structures, presence, count or side."""
    info, shown = view.row.info, view.shown
    kind = rng.choice(["modality", "site", "organ", "presence", "count", "side"], p=[0.3, 0.1, 0.15, 0.25, 0.08, 0.12])
    pick = lambda list_: list_[rng.integers(len(list_))]
    if kind == "modality":
        return pick(MODALITY), f"It is {MODALITY_NAME[view.row.family]}.", []
    if kind == "site":
        return (pick(SITE), f"It is the {SITE_NAME.get(info['site'], info['site'])}.", []) if info["site"] else None
    if kind == "organ" and shown:
        names = sorted(dict.fromkeys(name_of(p) for p, _ in shown))
        return pick(ORGAN), f"It shows {', '.join(names)}.", []
    if kind == "presence":
        if shown and (rng.random() < 0.5 or not view.absent):
            return pick(PRESENCE).format(name_of(pick(shown)[0])), "Yes.", []
        if view.absent:
            return pick(PRESENCE).format(name_of(pick(view.absent))), "No.", []
    if kind == "count":
        some = [p for p, _ in shown if name_of(p) in COUNTED]
        if some:
            phrase = pick(some)
            n = components(phrase)
            return pick(COUNT).format(plural(name_of(phrase))), f"{n}." if n <= 5 else "More than 5.", []
    if kind == "side" and shown:
        phrase, coverage = pick(shown)
        x = place_of(coverage)[2]
        if abs(x - 0.5) > 0.06 and not name_of(phrase).startswith(("left", "right")):
            return pick(SIDE).format(name_of(phrase)), "Left." if x < 0.5 else "Right.", []
    return None


def samples(view, rng, count, phrases, sites, components):
    """Draws `count` samples about a view. The first one of a boxed view asks for the box."""
    out = []
    if view.boxed:
        out.append((BOX[rng.integers(len(BOX))], view.boxed.lower(), []))
    while len(out) < count:
        kind = rng.choice(4, p=[0.15, 0.35, 0.1, 0.4])
        if kind == 0:
            sample = segment(view, rng, phrases)
        elif kind == 1:
            sample = disease(view, rng) if rng.random() < 0.7 else grounded_vqa(view, rng, sites)
        elif kind == 2:
            sample = report(view, rng)
        else:
            sample = plain(view, rng, components)
        if sample:
            out.append(sample)
    return out


def corpus(phrases, sites):
    """Texts to train the vocabulary on: every wording, every phrase."""
    asks = SEGMENT + SEGMENT_PLAIN + [d.format("") for d in DISEASE] + [d.format(" in {}") for d in DISEASE] + REPORT + BOX
    asks += MODALITY + SITE + ORGAN + PRESENCE + COUNT + SIDE
    yield from (a.replace("{}", "nuclei") for a in asks for _ in range(4))
    for p in phrases:
        for _ in range(6):
            yield from (p, p.lower(), name_of(p), f"[SEG]. {p.lower()}.", f"<p> {name_of(p).lower()}. </p> [SEG]")
    yield from SEGMENT_ANSWERS * 4
    sites = [SITE_NAME.get(s, s) for s in sites] + list(sites)
    yield from (f"It is the {s}." for s in sites for _ in range(4))
    yield from (f"It is {m}. {m.lower()} of the {s}." for m in MODALITY_NAME.values() for s in sites)
    words = "upper lower left right center very small medium sized large image Yes No More than"
    yield from [f"a {w} is seen in the {w} of the image. {w}." for w in words.split()] * 4
    yield from ["no abnormality is seen. pneumonia covid-19 infection no findings <|user|>\n <|end|>\n<|assistant|>\n <image>\n 0 1 2 3 4 5 6 7 8 9"] * 20
