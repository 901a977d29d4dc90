"""A random checkpoint of the 1B model has the published tensors; a small one is written and loaded."""

import pytest
import torch

from .. import checkpoint, random_checkpoint, tokenizer
from ..language import LanguageConfig
from ..model import UniBiomed
from ..sam2 import Sam2Config
from ..vision import VisionConfig


def test_published_sizes():
    with torch.device("meta"):
        model = UniBiomed(VisionConfig(), LanguageConfig(), Sam2Config(), None)
    tensors = model.state_dict()
    size = sum(t.numel() * random_checkpoint.stored_type(n).itemsize for n, t in tensors.items())
    assert len(tensors) == 1541
    assert sum(t.numel() for t in tensors.values()) == 1_163_665_714
    assert size == 4_046_638_280


@pytest.mark.parametrize("outliers", [False, True])
def test_write_and_load(tmp_path, outliers):
    words = tokenizer.train(["Please segment nuclei in pathology.", "It is [SEG]."] * 4, 300)
    vision = VisionConfig(image_size=56, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    language = LanguageConfig(len(words), 32, 64, 1, 2, 1)
    sam2 = Sam2Config(image_size=128, hiera_embed_dim=8, hiera_num_heads=1, hiera_stages=[1, 1, 1, 1], hiera_global_att_blocks=[],
                      hiera_window_spec=[8, 4, 8, 4], d_model=32, memory_dim=8, memory_attention_num_layers=1)  # fmt: skip
    with torch.device("meta"):
        model = UniBiomed(vision, language, sam2, words)
    shapes = {n: tuple(t.shape) for n, t in sorted(model.state_dict().items())}
    checkpoint.write_configs(tmp_path, vision, language, sam2, {"max_tiles": 1}, words)
    random_checkpoint.write(tmp_path / "model.safetensors", shapes, 1, outliers)
    loaded = checkpoint.load(tmp_path)
    assert loaded.extra == {"max_tiles": 1}
    rows = loaded.vision_model.encoder.layers[0].attn.qkv.weight.std(dim=1)
    assert (rows.max() / rows.median() > 30) == outliers
    assert torch.isfinite(loaded.mlp1[1].weight).all()
