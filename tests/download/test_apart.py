"""Pictures that are decoded in processes with limits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from PIL import Image

from geo_subset.download import apart, pixels, reasons
from geo_subset.download.picture import PictureError
from geo_subset.download.pixels import header
from geo_subset.errors import ShortageError
from geo_subset.settings import DownloadSettings

from . import dearest
from .dearest import encoded, flat

GOOD = encoded(Image.linear_gradient("L").convert("RGB"), "JPEG2000")


def resized(body: bytes) -> pixels.Picture:
    return pixels.resized(body, header(body), DownloadSettings())


def test_a_picture_decoded_apart_is_the_one_decoded_here() -> None:
    for form in ("JPEG2000", "TIFF"):
        body = encoded(Image.linear_gradient("L").convert("RGB"), form)
        head = header(body)
        assert head.apart
        assert resized(body) == pixels.resized_here(body, head, DownloadSettings())


def test_its_reason_is_told() -> None:
    body = encoded(Image.new("RGB", (64, 64)), "TIFF")
    with pytest.raises(PictureError) as caught:
        pixels.resized(body[:200] + bytes(len(body) - 200), header(body), DownloadSettings(min_image_size=65))
    assert str(caught.value) == "image too small: 64 x 64"
    with pytest.raises(PictureError) as caught:
        pixels.resized(b"II*\0" + bytes(200), header(body), DownloadSettings())
    assert caught.value.reason == reasons.UNDECODABLE


def test_a_picture_that_takes_too_long_ends_and_the_next_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a second's work, and the next whole second is the last."""
    body = dearest.jpeg2000_of_noise(2000)
    monkeypatch.setattr(apart, "_seconds", lambda *_: 0)
    with pytest.raises(PictureError, match="CPU time") as caught:
        resized(body)
    assert caught.value.reason == reasons.TOO_COSTLY
    monkeypatch.undo()
    assert resized(GOOD).original_width == 256


def test_a_picture_is_blamed_for_the_memory_that_it_alone_may_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that wants more than its process may have; the next picture is read by the same."""
    monkeypatch.setattr(apart, "_CODE", _GREEDY + apart._CODE)
    monkeypatch.setattr(apart, "_idle", type(apart._idle)())
    with pytest.raises(PictureError, match="more memory") as caught:
        resized(encoded(flat(65), "TIFF"))
    assert caught.value.reason == reasons.TOO_COSTLY
    assert resized(GOOD).original_width == 256


#: In place of the decoder, for pictures 65 wide.
_GREEDY = """
from geo_subset.download import pixels
real = pixels.resized_here
def greedy(body, head, settings):
    if head.width == 65:
        bytearray(pixels.MEMORY + (1 << 28))
    return real(body, head, settings)
pixels.resized_here = greedy
"""


_LACKING = """
import resource, sys
from geo_subset import shortage
from geo_subset.download.pixels import header, resized
from geo_subset.settings import DownloadSettings
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (10 << 20),) * 2)
body = sys.stdin.buffer.read()
try:
    resized(body, header(body), DownloadSettings())
except Exception as error:
    print(shortage.of(error) or error)
"""


def test_a_machine_that_lacks_memory_is_not_the_fault_of_the_picture() -> None:
    """The process of the worker has no more room than this one leaves it."""
    body = encoded(flat(4900), "TIFF", compression="tiff_deflate")
    told = subprocess.run([sys.executable, "-c", _LACKING], input=body, capture_output=True, check=True)
    assert told.stdout.startswith(b"this machine (")


def test_a_process_that_cannot_start_is_not_the_fault_of_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_CODE", "raise ImportError('failed to map segment from shared object')")
    monkeypatch.setattr(apart, "_idle", type(apart._idle)())
    with pytest.raises(ShortageError, match="could not start"):
        resized(GOOD)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_something_else_ends_is_not_the_fault_of_the_picture(
    monkeypatch: pytest.MonkeyPatch, sent: signal.Signals
) -> None:
    """As the kernel does when memory runs out."""
    monkeypatch.setattr(apart, "_CODE", _ENDS.format(int(sent)) + apart._CODE)
    monkeypatch.setattr(apart, "_idle", type(apart._idle)())
    with pytest.raises(ShortageError, match="ended a process"):
        resized(GOOD)


_ENDS = """
import os
from geo_subset.download import pixels
pixels.resized_here = lambda *_: os.kill(os.getpid(), {})
"""


def test_nobody_here_waits_for_the_memory_of_a_picture_decoded_apart() -> None:
    body = encoded(flat(3000), "TIFF", compression="tiff_deflate")
    with ThreadPoolExecutor(1) as pool, pixels._memory.held(pixels.MEMORY):
        assert pool.submit(resized, body).result(60).original_width == 3000


def test_threads_have_processes_of_their_own() -> None:
    with ThreadPoolExecutor(3) as pool:
        pictures = list(pool.map(resized, [GOOD] * 12))
    assert {picture.data for picture in pictures} == {resized(GOOD).data}


def test_a_process_that_was_ended_is_replaced() -> None:
    resized(GOOD)
    for child in psutil.Process().children():
        if child.status() != psutil.STATUS_ZOMBIE and "apart_worker" in " ".join(child.cmdline()):
            child.kill()
            child.wait(10)
    assert resized(GOOD).original_width == 256


_DIES = """
import os, signal, sys
from pathlib import Path
import psutil
from geo_subset.download.pixels import header, resized
from geo_subset.settings import DownloadSettings
body = Path(sys.argv[1]).read_bytes()
resized(body, header(body), DownloadSettings())
print([child.pid for child in psutil.Process().children()][0], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(GOOD)
    done = subprocess.run(
        [sys.executable, "-c", _DIES, str(tmp_path / "picture")], stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    child, deadline = int(done.stdout), time.monotonic() + 20
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_lives_under_limits_that_are_set_already() -> None:
    code = (
        "import resource, sys; from pathlib import Path;"
        "resource.setrlimit(resource.RLIMIT_CPU, (500, 500));"
        "resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30));"
        "from geo_subset.download.pixels import header, resized; from geo_subset.settings import DownloadSettings;"
        "body = sys.stdin.buffer.read(); print(resized(body, header(body), DownloadSettings()).original_width)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=GOOD, capture_output=True, check=True, env=os.environ)
    assert done.stdout.split() == [b"256"]


def test_seconds_grow_with_the_picture() -> None:
    small, large = (apart._seconds(bytes(length), header(encoded(flat(64), "TIFF"))) for length in (9, 60_000_000))
    assert 1 <= small < large <= 10
