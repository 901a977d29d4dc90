"""Reading and writing the published checkpoint layout: model.safetensors, config.json and the optional files beside it."""

import json
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .language import LanguageConfig
from .model import UniBiomed
from .sam2 import Sam2Config
from .tokenizer import Tokenizer
from .vision import VisionConfig


def pick(kind, values):
    """A config dataclass from a mapping; unknown keys and nulls are ignored."""
    names = {f.name for f in fields(kind)}
    return kind(**{k: v for k, v in values.items() if k in names and v is not None})


def read_json(path):
    return json.loads(path.read_text()) if path.exists() else {}


def load(folder):
    """The model of a checkpoint folder, in f32. Names and shapes must agree exactly."""
    folder = Path(folder)
    config = read_json(folder / "config.json")
    model = UniBiomed(
        pick(VisionConfig, config["vision_config"]),
        pick(LanguageConfig, config["llm_config"]),
        pick(Sam2Config, read_json(folder / "sam2_config.json")),
        Tokenizer.load(folder),
        read_json(folder / "unibiomed_config.json"),
        config.get("ps_version", "v2"),
    )
    tensors = {k: v.float() for k, v in load_file(folder / "model.safetensors").items()}
    model.load_state_dict(tensors, strict=True)
    return model.eval()


def config_json(vision, language, ps_version="v2"):
    """The content of config.json."""
    shared = {"architectures": ["Sa2VAChatModel"], "model_type": "sa2va_chat", "torch_dtype": "float32"}
    fixed = {
        "downsample_ratio": 0.5, "dynamic_image_size": True, "force_image_size": vision.image_size, "hidden_size": language.hidden_size,
        "max_dynamic_patch": 12, "min_dynamic_patch": 1, "pad2square": False, "ps_version": ps_version, "select_layer": -1,
        "template": "phi3_chat", "tie_word_embeddings": False, "use_backbone_lora": 0, "use_llm_lora": 0, "use_thumbnail": True,
    }  # fmt: skip
    vit = {"architectures": ["InternVisionModel"], "model_type": "intern_vit_6b", "hidden_act": "gelu", "norm_type": "layer_norm",
           "qk_normalization": False, "num_channels": 3}  # fmt: skip
    llm = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "max_position_embeddings": 32768,
           "tie_word_embeddings": False, "use_sliding_window": False}  # fmt: skip
    return shared | fixed | {"vision_config": vit | asdict(vision), "llm_config": llm | asdict(language)}


def write_configs(folder, vision, language, sam2, extra, tokenizer, ps_version="v2"):
    """Every file of a checkpoint folder but the weights. `extra` goes to unibiomed_config.json, unless it is empty."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write = lambda name, value: (folder / name).write_text(json.dumps(value, indent=2) + "\n")
    write("config.json", config_json(vision, language, ps_version))
    write("generation_config.json", {"_from_model_config": True, "transformers_version": "4.44.2"})
    write("sam2_config.json", asdict(sam2))
    if extra:
        write("unibiomed_config.json", extra)
    tokenizer.save(folder)


def save(folder, model, kind=torch.float32):
    """Writes a model as a checkpoint folder, all tensors of one type."""
    write_configs(folder, model.vision_config, model.language_config, model.sam2_config, model.extra, model.tokenizer, model.ps_version)
    tensors = {k: v.detach().to(kind).contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, Path(folder) / "model.safetensors", metadata={"format": "pt"})
