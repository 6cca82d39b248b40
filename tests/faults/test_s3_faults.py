"""A run folder on an S3 server that fails: one request in five, or all of them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import s3_faults_proxy as s3_proxy
from pipeline_runs import command, rubbish, samples, tables

from geo_subset import runfolder, storage
