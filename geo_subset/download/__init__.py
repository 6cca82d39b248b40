"""Download: from the samples table to checked webdataset shards."""

from __future__ import annotations

import os

# Read when albumentations is imported, which img2dataset does: without it, every worker asks a server for updates.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
