"""On what the search runs: the processor or a GPU, and in which numbers the filter multiplies.

The result is the same on all of them (see `search`), so a choice costs or saves time and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from geo_subset.errors import SettingsError
from geo_subset.retrieve.embeddings import device, search
from geo_subset.retrieve.embeddings.search import Block, Nearest, Product
from geo_subset.retrieve.embeddings.vectors import Floats

DEVICE, DTYPE = "retrieve.embeddings.device", "retrieve.embeddings.dtype"


@dataclass(frozen=True)
class Choice:
    """`device` is 'cpu' or 'cuda', `dtype` 'float32', 'bfloat16' or 'float16'; `why` is for the log."""

    device: str
    dtype: str
    why: str


def choose(device: str, dtype: str, gpus: float, bfloat16: bool) -> Choice:
    """What to use, from the settings ('auto' leaves it open), the GPUs of the cluster, and whether this processor
    multiplies bfloat16. Pure but for looking whether torch is installed.

    Raises SettingsError for what cannot be.
    """
    torch = find_spec("torch") is not None
    if device == "cuda" and not torch:
        raise SettingsError(f"{DEVICE} = 'cuda' needs torch: pip install torch")
    if device == "cuda" and gpus < 1:
        raise SettingsError(f"{DEVICE} = 'cuda': the cluster has no GPU; leave it out, or set it to 'cpu'")
    if device != "cpu" and gpus >= 1 and torch:
        return Choice("cuda", "float16" if dtype == "auto" else dtype, f"{gpus:g} GPUs")
    if dtype == "float16":
        raise SettingsError(f"{DTYPE} = 'float16' is for GPUs; a processor takes 'float32' or 'bfloat16'")
    if dtype == "bfloat16" and not torch:
        raise SettingsError(f"{DTYPE} = 'bfloat16' needs torch: pip install torch")
    if dtype == "auto" and bfloat16 and torch:
        return Choice("cpu", "bfloat16", "the processor multiplies bfloat16")
    if dtype != "auto":
        return Choice("cpu", dtype, "as set")
    return Choice("cpu", "float32", "torch is not installed" if bfloat16 else "the processor has no bfloat16")


def processor_has_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 in hardware (AVX512_BF16, AMX); emulated, it is slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("flags")[2].partition("\n")[0].split()
    except OSError:
        return False
    return bool({"avx512_bf16", "amx_bf16"} & set(flags))


def nearest(choice: Choice, queries: Floats, blocks: Iterable[Block], k: int) -> Nearest:
    """`search.nearest` by the means chosen."""
    if choice.device == "cuda":
        return device.nearest(queries, blocks, k, "cuda", choice.dtype)
    return search.nearest(queries, blocks, k, _bfloat16() if choice.dtype == "bfloat16" else search.single())


def _bfloat16() -> Product:
    """Tiles stay in a processor's own cache (2 MB) and are looked through as they are, which takes a quarter of what
    making them float32 would."""
    import torch

    tile = search.TILE[0], 512
    room = torch.empty(tile[0] * tile[1], dtype=torch.bfloat16)
    bits = room.view(torch.int16).numpy()

    def multiply(queries: Any, rows: Any) -> Any:
        size = len(queries) * len(rows)
        torch.mm(queries, rows.T, out=room[:size].view(len(queries), len(rows)))
        return bits[:size].reshape(len(queries), len(rows))

    def residual(vectors: Floats, operand: Any) -> float:
        return max(
            (
                search.norm(vectors[start : start + 8192] - operand[start : start + 8192].float().numpy())
                for start in range(0, len(vectors), 8192)
            ),
            default=0.0,
        )

    return Product(
        "torch bfloat16", tile, lambda vectors: torch.from_numpy(vectors).to(torch.bfloat16), multiply, residual,
        2.0**-8,
    )  # fmt: skip
