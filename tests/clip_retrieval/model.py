"""A small CLIP with random weights in a folder, which clip-retrieval loads as `hf_clip:FOLDER`; nothing is downloaded.

Random weights give all texts nearly one direction, and all images nearly another. The two projections are therefore
made from singular vectors of what the towers say about a sample: the first one, the direction that all share, is left
out, the rest is scaled to equal weight. So texts find distinct rows, and pictures that differ are no duplicates.
"""

from __future__ import annotations

import json
from pathlib import Path

import clip
import numpy as np
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

DIMENSIONS = 256
_BATCH = 256


def build(folder: Path, texts: list[str]) -> None:
    """Writes the model, its projections fitted to `texts` (1,000 or more) and to pictures of noise."""
    torch.manual_seed(0)
    tower = {"num_hidden_layers": 1, "num_attention_heads": 4, "hidden_size": 272, "intermediate_size": 544}
    config = CLIPConfig(
        # CLIP's own token ids, as clip.tokenize gives them; transformers looks for the end of a text by its id.
        text_config=tower | {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 0},
        vision_config=tower | {"patch_size": 32},
        projection_dim=DIMENSIONS,
    )
    model = CLIPModel(config).eval()
    with torch.no_grad():
        pooled = [model.text_model(tokens).pooler_output for tokens in _tokens(texts)]
        model.text_projection.weight.copy_(_spread(torch.cat(pooled)))
        pooled = [model.vision_model(_noise(32)).pooler_output for _ in range(32)]
        model.visual_projection.weight.copy_(_spread(torch.cat(pooled)))
    model.save_pretrained(folder)
    # clip-retrieval loads a tokenizer with the image processor but never asks it: one of two words will do.
    (folder / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    CLIPProcessor(CLIPImageProcessor(), tokenizer).save_pretrained(folder)


def encode(folder: Path, texts: list[str]) -> np.ndarray:
    """Embeddings of the texts: float32, one row of length 1 a text."""
    model = CLIPModel.from_pretrained(folder).eval()
    with torch.no_grad():
        found = torch.cat([model.get_text_features(tokens) for tokens in _tokens(texts)])
    return (found / found.norm(dim=1, keepdim=True)).numpy()


def _tokens(texts: list[str]) -> list[torch.Tensor]:
    return [clip.tokenize(texts[i : i + _BATCH], truncate=True) for i in range(0, len(texts), _BATCH)]


def _noise(count: int) -> torch.Tensor:
    """Pictures of random blocks, from coarse to fine."""
    side = int(2 ** torch.randint(1, 7, ()).item())
    return torch.nn.functional.interpolate(torch.randn(count, 3, side, side), (224, 224))


def _spread(pooled: torch.Tensor) -> torch.Tensor:
    _, scales, directions = torch.linalg.svd(pooled, full_matrices=False)
    return directions[1 : DIMENSIONS + 1] / scales[1 : DIMENSIONS + 1, None] * len(pooled) ** 0.5
