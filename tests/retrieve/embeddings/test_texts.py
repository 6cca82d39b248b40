"""Search texts to vectors."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from images import unit

from geo_subset.errors import SettingsError
from geo_subset.retrieve.embeddings import texts


def test_the_texts_of_a_place_are_averaged_after_normalising():
    known = {"a": [10.0, 0.0], "b": [0.0, 0.1], "c": [3.0, 4.0]}
    asked = []

    def encode(words):
        asked.extend(words)
        return np.array([known[word] for word in words], np.float32)

    found = texts.of_places([["a", "b"], ["c"], ["b", "b", "a"]], encode)
    assert asked == ["a", "b", "c", "b", "b", "a"]
    assert np.allclose(found, unit([[1, 1], [3, 4], [1, 2]]))
    assert found.dtype == np.float32


def test_a_model_needs_its_library():
    if find_spec("all_clip") is not None:
        pytest.skip("it is installed")
    with pytest.raises(SettingsError, match=r"retrieve\.embeddings\.model = 'hf_clip:x': install clip-retrieval"):
        texts.check_model("hf_clip:x")


def test_open_clip_on_a_checkpoint_of_random_weights(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = open_clip.create_model("RN50")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    name = f"RN50/{tmp_path}/weights.pt"
    assert texts.check_model(name) == 1024
    found = texts.of_places([["a photo of Old Mill", "Old Mill"], ["New Mill"]], texts.load(name, "cpu"))
    with torch.inference_mode():
        raw = model.eval().encode_text(open_clip.get_tokenizer("RN50")(["a photo of Old Mill", "Old Mill", "New Mill"]))
    raw = unit(raw.numpy())
    assert np.allclose(found, unit([raw[0] + raw[1], raw[2]]), atol=1e-5)
    with pytest.raises(SettingsError, match="open_clip knows no model 'RN51'"):
        texts.check_model("RN51/openai")
    with pytest.raises(SettingsError, match="'openia' is neither a checkpoint file nor one of openai"):
        texts.check_model("RN50/openia")
