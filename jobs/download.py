r"""Stage 'download' as a Ray job: webdataset shards, and the stages before it if they are not done.

    ray job submit --address http://127.0.0.1:8265 --working-dir . -- python jobs/download.py \
        examples/midtown_east.toml --set run=s3://my-bucket/runs/midtown-east

Options are those of the command line. The run folder must be where all nodes reach it.
"""

from __future__ import annotations

import sys

from geo_subset.cli import main

if __name__ == "__main__":
    sys.exit(main(["download", *sys.argv[1:]]))
