"""The command line with units so small that a small run is made of several. Plans are the driver's, so workers need
not know."""

from __future__ import annotations

import sys

from geo_subset import cli, merge
from geo_subset.retrieve.captions import plan as captions
from geo_subset.retrieve.embeddings import plan as embeddings

merge.PARTITION_BYTES, merge.MAP_BYTES = 16 << 10, 24 << 10
captions.PARTITION_BYTES = 32 << 10
embeddings.UNIT_ROWS = (1 << 13, 1 << 13)
embeddings.PARTITION_BYTES = 256 << 10

if __name__ == "__main__":
    sys.exit(cli.main())
