"""Text to ids and back: a Hugging Face tokenizer file, the chat template, image expansion and the stop rule."""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

# Appended to the base vocabulary in this order: Qwen2.5's own tokens, InternVL's, UniBiomed's.
ADDED = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> <|quad_start|> "
    "<|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> <tool_call> </tool_call> <|fim_prefix|> "
    "<|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> <img> </img> <IMG_CONTEXT> <quad> </quad> <ref> </ref> "
    "<box> </box> [SEG] <p> </p> <vp> </vp>"
).split()

ORDINARY = set("<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>".split())

FILES = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json", "special_tokens_map.json")
END = "<|end|>"


class Tokenizer:
    """The template's markers are plain text for this vocabulary: always encode the whole assembled string."""

    def __init__(self, files):
        """files: name to bytes of the tokenizer files."""
        self.files = files
        self.backend = Backend.from_str(files["tokenizer.json"].decode())
        self.answers = None
        ids = json.loads(files["added_tokens.json"])
        self.seg, self.img_context, self.eos = ids["[SEG]"], ids["<IMG_CONTEXT>"], ids["<|im_end|>"]

    @classmethod
    def load(cls, folder):
        return cls({name: (Path(folder) / name).read_bytes() for name in FILES})

    def save(self, folder):
        for name, data in self.files.items():
            (Path(folder) / name).write_bytes(data)

    def __len__(self):
        return self.backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text):
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_answer(self, text):
        """Ids of an answer to train on. As in the published training, <p> and </p> are plain text there, not tokens."""
        if self.answers is None:
            spec = json.loads(self.files["tokenizer.json"])
            spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] not in ("<p>", "</p>")]
            self.answers = Backend.from_str(json.dumps(spec))
        return self.answers.encode(text, add_special_tokens=False).ids

    def decode(self, ids):
        return self.backend.decode(ids, skip_special_tokens=False)

    def ended(self, ids):
        """The stop rule: the decoded text, new lines removed, ends with the end marker."""
        return self.decode(ids).replace("\n", "").replace("\r", "").endswith(END)

    def template(self, text):
        return f"<|user|>\n{text}{END}\n<|assistant|>\n"

    def expand_image(self, text, groups, regions=()):
        """Writes the image tokens in place of <image>: one <img> group of that many tokens each, then the regions."""
        if text.count("<image>") != 1:
            raise ValueError(f"text must say <image> exactly once, says it {text.count('<image>')} times")
        block = "\n".join(f"<img>{'<IMG_CONTEXT>' * n}</img>" for n in groups)
        if regions:
            named = ", ".join(f"region{i}<vp>{'<IMG_CONTEXT>' * n}</vp>" for i, n in enumerate(regions, 1))
            block += f"\nThere are {len(regions)} part regions in the picture: {named}.\n"
        return text.replace("<image>", block)


SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train(texts, size):
    """A small tokenizer of the published kind: byte-level BPE learned from texts, then the added tokens in their order."""
    backend = Backend(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, min_frequency=2, initial_alphabet=alphabet, show_progress=False))
    base = json.loads(backend.to_str())["model"]
    word = lambda t: AddedToken(t, normalized=False, special=t not in ORDINARY)
    backend.add_tokens([word(t) for t in ADDED])
    ids = {t: backend.token_to_id(t) for t in ADDED}
    listed = [t for t in ADDED[1:] if t not in ORDINARY and t not in ADDED[-5:]]
    names = {"additional_special_tokens": listed, "eos_token": ADDED[2], "pad_token": ADDED[0]}
    decoder = {
        str(i): {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": t not in ORDINARY}
        for t, i in ids.items()
    }
    config = {
        "add_prefix_space": False, "added_tokens_decoder": decoder, "bos_token": None, "clean_up_tokenization_spaces": False,
        "errors": "replace", "model_max_length": 8192, "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
    } | names  # fmt: skip
    merges = [m if isinstance(m, str) else " ".join(m) for m in base["merges"]]
    text = lambda value: (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
    return Tokenizer(
        {
            "tokenizer.json": backend.to_str(pretty=True).encode(), "vocab.json": text(base["vocab"]),
            "merges.txt": "\n".join(["#version: 0.2", *merges, ""]).encode(), "added_tokens.json": text(ids),
            "tokenizer_config.json": text(config), "special_tokens_map.json": text(names),
        }
    )  # fmt: skip
