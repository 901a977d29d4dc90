"""UniBiomed: the parts put together, and its inference: answer a question about an image, one mask for each [SEG]."""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from . import preprocess
from .language import LanguageModel
from .memory import sine_positions
from .sam2 import Sam2, resize_mask
from .vision import VisionTower, pixel_shuffle


@dataclass
class Answer:
    """What predict returns. `trace` holds intermediate tensors for the parity checks."""

    ids: list
    text: str
    masks: list = field(default_factory=list)  # one a [SEG]: bool [frames, h, w]
    trace: dict = field(default_factory=dict)


class Grounding(nn.Module):
    """Holds the name that the published tensors of SAM 2 start with."""

    def __init__(self, config):
        super().__init__()
        self.sam2_model = Sam2(config)


class UniBiomed(nn.Module):
    def __init__(self, vision, language, sam2, tokenizer, extra=None, ps_version="v2"):
        super().__init__()
        self.vision_config, self.language_config, self.sam2_config = vision, language, sam2
        self.tokenizer, self.extra, self.ps_version = tokenizer, extra or {}, ps_version
        c, h = vision.hidden_size, language.hidden_size
        self.vision_model = VisionTower(vision)
        self.language_model = LanguageModel(language)
        self.mlp1 = nn.Sequential(nn.LayerNorm(4 * c), nn.Linear(4 * c, h), nn.GELU(), nn.Linear(h, h))
        self.text_hidden_fcs = nn.Sequential(nn.Linear(h, h), nn.ReLU(), nn.Linear(h, sam2.d_model))
        self.grounding_encoder = Grounding(sam2)

    @property
    def sam(self):
        return self.grounding_encoder.sam2_model

    # Language branch

    def image_features(self, tiles):
        """Normalised tiles [T, 3, S, S] to features [T, K, H], K tokens a tile."""
        return self.mlp1(pixel_shuffle(self.vision_model(tiles), self.ps_version))

    def embed(self, ids, features):
        """Token embeddings [N, H] with the image features written, in order, over the <IMG_CONTEXT> tokens."""
        x = self.language_model.model.embed_tokens(torch.tensor(ids))
        at = torch.tensor(ids) == self.tokenizer.img_context
        if features is None:
            return x
        if int(at.sum()) != len(features):
            raise ValueError(f"prompt has {int(at.sum())} image tokens, the image gives {len(features)} features")
        return torch.where(at[:, None], torch.zeros_like(x).masked_scatter(at[:, None], features), x)

    def generate(self, ids, features, limit=2048):
        """Greedy decoding: generated ids, logits [steps, V] and the state [steps, H] at each generated token.

        The state at the last generated token does not exist: decoding ends before it is fed back.
        """
        cache, x, start = self.language_model.new_cache(), self.embed(ids, features)[None], 0
        out, logits, states = [], [], []
        while True:
            hidden = self.language_model(x, cache, start)[:, -1]
            if out:
                states.append(hidden[0])
            else:
                first = hidden[0]
            start += x.shape[1]
            logits.append(self.language_model.lm_head(hidden)[0].float())
            out.append(int(logits[-1].argmax()))
            if out[-1] == self.tokenizer.eos or self.tokenizer.ended(out) or len(out) >= limit:
                return out, torch.stack(logits), states, first
            x = self.language_model.model.embed_tokens(torch.tensor([[out[-1]]]))

    # Grounding branch

    def segment(self, features, e, size):
        """Masks of embeddings e [n, D] on one image: low-res logits [n, 4, h, w], chosen mask bool [n, *size] and the trace."""
        f0, f1, p2 = features
        n = len(e)
        f2 = self.sam.with_no_memory(p2)
        masks, iou, score, hs = self.sam.decode(f0.expand(n, -1, -1, -1), f1.expand(n, -1, -1, -1), f2.expand(n, -1, -1, -1), e)
        chosen, k = self.sam.select(masks, iou)
        on = resize_mask(chosen, size, self.sam2_config.image_size)
        return on, {"masks": masks, "chosen": chosen, "iou": iou, "object_score": score, "selected": k, "hs": hs}

    def segment_video(self, frames, e, size):
        """Masks of one embedding e [D] on all slices [n, 3, S, S]: the first ones prompted by e, the others tracked with memory."""
        c, sam = self.sam2_config, self.sam
        prompted = min(self.extra.get("prompted_slices", 5), len(frames))
        memories, pointers, out, trace = [], [], [], []
        map_pos = sine_positions(c.memory_dim, c.map_size, c.map_size).flatten(1).T
        for t, frame in enumerate(frames):
            f0, f1, p2 = sam.encode(frame[None])
            info = {}
            if t < prompted:
                f2, prompt = sam.with_no_memory(p2), e[None]
            else:
                # Prompted slices first, then the nearest tracked ones, oldest first; a table row tells the distance.
                reach = c.num_maskmem - 1
                use = [(s, reach) for s in range(prompted)]
                use += [(s, t - s - 1) for s in range(max(prompted, t - reach), t)]
                memory = [memories[s] for s, _ in use]
                position = [map_pos + sam.maskmem_tpos_enc[i, 0] for _, i in use]
                most = min(len(frames), c.max_obj_ptrs_in_encoder)
                order = list(range(prompted)) + [s for s in range(t - 1, prompted - 1, -1)][: most - 1]
                tokens = torch.cat([pointers[s].reshape(-1, c.memory_dim) for s in order])
                memory, position = torch.cat([*memory, tokens])[None], torch.cat([*position, torch.zeros_like(tokens)])[None]
                f2, prompt = sam.memory_attention(p2, memory, position, len(tokens)), None
                info = {"memory_pos": position[0], "object_pointer_tokens": tokens, "memory_attention_out": f2[0].flatten(1).T}
            masks, iou, score, hs = sam.decode(f0, f1, f2, prompt)
            chosen, k = sam.select(masks, iou)
            pointer = sam.obj_ptr_proj(hs[:, 2 + int(k)])
            pointer = pointer if score > 0 else sam.no_obj_ptr
            large = F.interpolate(chosen[:, None], size=(c.image_size, c.image_size), mode="bilinear", align_corners=False)
            raw = sam.memory_encoder(p2, large)
            memories.append(raw.to(torch.bfloat16).to(raw.dtype)[0].flatten(1).T)  # stored rounded, as the reference does
            pointers.append(pointer[0])
            out.append(resize_mask(chosen, size, c.image_size)[0])
            trace.append({"hs": hs[0], "mask_logits_selected": chosen[0], "obj_ptr": pointer[0], "memory": raw[0], "iou": iou[0],
                          "object_score": score, "selected": k, **info})  # fmt: skip
        return torch.stack(out), trace

    # Both

    @torch.no_grad()
    def predict(self, text, image=None, video=None, past_text="", mask_prompts=None, limit=2048):
        """Answers `text` about an RGB image or a list of slices. `text` says <image> once where the image belongs.

        mask_prompts: arrays [h, w], non-zero inside, marking regions of the image.
        """
        v, extra, trace = self.vision_config, self.extra, {}
        per_tile, features, regions = v.grid**2 // 4, None, []
        if image is not None:
            cut = preprocess.tiles(
                image, v.image_size, extra.get("max_tiles", 12), extra.get("min_tiles", 1), extra.get("thumbnail", True)
            )
            groups = [per_tile * len(cut)]
        elif video is not None:
            cut = np.stack([np.asarray(s.resize((v.image_size, v.image_size))) for s in video[: extra.get("prompted_slices", 5)]])
            groups = [per_tile] * len(cut)
        if image is not None or video is not None:
            trace["vit_input"] = preprocess.vit_normalise(cut)
            trace["vit_output"] = self.vision_model(trace["vit_input"])
            trace["mlp1_output"] = self.mlp1(pixel_shuffle(trace["vit_output"], self.ps_version))
            features = trace["mlp1_output"].flatten(0, 1)
            side = v.grid // 2
            for m in mask_prompts or []:
                at = lambda n: np.arange(side) * n // side
                cells = np.asarray(m)[at(m.shape[0])][:, at(m.shape[1])] != 0
                regions.append(trace["mlp1_output"][-1][torch.from_numpy(cells.flatten())])
            features = torch.cat([features, *regions])
            if "<IMG_CONTEXT>" not in past_text:  # a later turn finds its image in the first one
                text = self.tokenizer.expand_image(text, groups, [len(r) for r in regions])
        else:
            text = text.replace("<image>", "")
        ids = self.tokenizer.encode(past_text + self.tokenizer.template(text))
        out, logits, states, first = self.generate(ids, features, limit)
        trace |= {"prompt_ids": ids, "step_logits": logits, "prefill_hidden": first}
        answer = Answer(out, self.tokenizer.decode(out).strip(), trace=trace)
        found = [h for i, h in zip(out, states) if i == self.tokenizer.seg]
        if not found or features is None:
            return answer
        trace["seg_hidden"] = torch.stack(found)
        trace["seg_embedding"] = e = self.text_hidden_fcs(trace["seg_hidden"])
        size, s = self.sam2_config.image_size, preprocess.sam_table(video is not None)
        if image is not None:
            trace["sam_input"] = preprocess.sam_input(image, size, s)
            trace["features"] = self.sam.encode(trace["sam_input"][None])
            on, parts = self.segment(trace["features"], e, (image.height, image.width))
            trace |= parts
            answer.masks = [m[None] for m in on]
        else:
            frames = torch.stack([preprocess.sam_input(f, size, s) for f in video])
            for one in e:
                on, trace["slices"] = self.segment_video(frames, one, (video[0].height, video[0].width))
                answer.masks.append(on)
        return answer
