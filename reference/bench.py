"""Times the stages of an answer in PyTorch, f32 on the CPU or bf16 on a GPU, for `unibiomed bench --compare-torch`:

    python -m reference.bench CHECKPOINT [--image FILE] [--new-tokens N] [--masks N] [--threads N] [--repeat N] [--device cuda]

Prints one JSON document: {"schema": "unibiomed.torch/1", "library", "threads", "stages": [{"stage", "seconds", "processor_seconds"}],
"resident_peak"}. Stages bear the names of `unibiomed bench`; of several runs the fastest counts. Attention is PyTorch's fused one, which
is faster here than the written-out formula that the rest of reference/ uses.
"""

import argparse
import json
import resource
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from . import checkpoint, language, preprocess, sam2, vision
from .model import pixel_shuffle


def fused(q, k, v, mask=None):
    """attention.attention by scaled_dot_product_attention. A mask over whole prompts is causal here."""
    causal = mask is not None and q.shape[-2] > 1 and q.shape[-2] == k.shape[-2]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=None if causal or q.shape[-2] == 1 else mask, is_causal=causal)


def picture(path):
    if path:
        return Image.open(path).convert("RGB")
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (1024, 1024, 3), np.uint8))


class Bench:
    def __init__(self, repeat):
        self.repeat, self.stages = repeat, []

    def __call__(self, stage, work):
        best = (float("inf"), 0)
        for _ in range(self.repeat):
            wall, cpu = time.perf_counter(), time.process_time()
            result = work()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            best = min(best, (time.perf_counter() - wall, time.process_time() - cpu))
        self.stages.append({"stage": stage, "seconds": best[0], "processor_seconds": best[1]})
        print(f"{stage}: {best[0]:.2f} s", file=sys.stderr)
        return result


@torch.inference_mode()
def run(model, image, question, second, new_tokens, masks, repeat):
    bench, words, size = Bench(repeat), model.tokenizer, model.sam2_config.image_size
    v, extra = model.vision_config, model.extra
    weight = model.language_model.lm_head.weight
    here = lambda t: t.to(weight.device, weight.dtype)

    def cut():
        parts = preprocess.tiles(image, v.image_size, extra.get("max_tiles", 12), extra.get("min_tiles", 1), extra.get("thumbnail", True))
        return here(preprocess.vit_normalise(parts))

    def look(tiles):  # on a CPU one at a time: a batch is no faster there
        if tiles.is_cuda:
            return model.mlp1(pixel_shuffle(model.vision_model(tiles), model.ps_version)).flatten(0, 1)
        return torch.cat([model.mlp1(pixel_shuffle(model.vision_model(t[None]), model.ps_version))[0] for t in tiles])

    tiles = bench("prepare tiles", cut)
    bench("vision, one tile", lambda: look(tiles[:1]))
    features = bench("vision", lambda: look(tiles))
    ids, again = (words.encode(words.template(words.expand_image("<image>" + q, [len(features)], []))) for q in (question, second))
    shared = next(i for i, (a, b) in enumerate(zip(ids, again)) if a != b)
    lm, embed = model.language_model, model.language_model.model.embed_tokens

    def prefill():
        cache = lm.new_cache()
        hidden = lm(model.embed(ids, features)[None], cache, 0)[:, -1]
        return cache, lm.lm_head(hidden)

    def decode(cache, logits, start):
        states = []
        for i in range(new_tokens):
            hidden = lm(embed(logits.argmax(-1))[None], cache, start + i)[:, -1]
            logits = lm.lm_head(hidden)
            states.append(hidden[0])
        return torch.stack(states)

    cache, logits = bench("prefill", prefill)
    copy = lambda upto: [[t[:, :, :upto] for t in layer] for layer in cache]
    states = bench("decode", lambda: decode(copy(len(ids)), logits, len(ids)))
    e = model.text_hidden_fcs(states[torch.arange(masks) % new_tokens])
    x = bench("prepare image", lambda: here(preprocess.sam_input(image, size, preprocess.sam_table(False))))
    f = bench("image features", lambda: model.sam.encode(x[None]))

    def draw(n):
        f0, f1, p2 = f
        low, iou, *_ = model.sam.decode(*(t.expand(n, -1, -1, -1) for t in (f0, f1, model.sam.with_no_memory(p2))), e[:n])
        return model.sam.select(low, iou)[0]

    for n, stage, resize in ((1, "mask", "resize mask"), (masks, "masks", "resize masks")):
        low = bench(stage, lambda: draw(n))
        bench(resize, lambda: sam2.resize_mask(low, (image.height, image.width), size))

    def next_prefill():  # with the cache kept from the first question
        kept = copy(shared)
        rest = torch.tensor(again[shared:])[None]
        n = rest.shape[1]
        mask = torch.full((n, shared + n), float("-inf")).triu(shared + 1)
        return kept, lm.lm_head(lm(embed(rest), kept, shared, position=torch.arange(shared, shared + n), mask=mask)[:, -1])

    kept, logits = bench("prefill, second question", next_prefill)
    bench("decode, second question", lambda: decode([list(layer) for layer in kept], logits, len(again)))
    return bench.stages


def main():
    parser = argparse.ArgumentParser(description="Times the stages of an answer in PyTorch, f32 on the CPU or bf16 on a GPU.")
    parser.add_argument("checkpoint", help="Hugging Face checkpoint folder")
    parser.add_argument("--image", default="", help="default: noise of 1024 x 1024")
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--masks", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's own choice")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cuda: in bf16 on the first GPU, all tiles in one batch")
    args = parser.parse_args()
    kind = "f32" if args.device == "cpu" else "bf16"
    if args.threads > 0:
        torch.set_num_threads(args.threads)
    for module in (vision, language, sam2):
        module.attention = fused
    model = checkpoint.load(args.checkpoint)
    if args.device != "cpu":
        model = model.to(args.device, torch.bfloat16)
        torch.set_default_device(args.device)
    question, second = ("Please segment %s." % t for t in ("liver in abdomen CT", "spleen in abdomen CT"))
    stages = run(model, picture(args.image), question, second, args.new_tokens, args.masks, args.repeat)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"schema": "unibiomed.torch/1", "library": f"PyTorch {torch.__version__}, {kind} on {args.device}, scaled_dot_product_attention",
                      "threads": torch.get_num_threads(), "stages": stages, "resident_peak": peak}))  # fmt: skip


if __name__ == "__main__":
    main()
