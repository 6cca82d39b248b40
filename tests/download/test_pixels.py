"""Against img2dataset's Resizer, set as img2dataset's own command line would set it for the same wish."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from img2dataset.resizer import Resizer
from matplotlib import cbook
from PIL import Image, ImageDraw

from geo_subset.download import pixels, reasons
from geo_subset.download.pixels import Picture, PictureError, header
from geo_subset.settings import DownloadSettings

MODES = ("no", "keep_ratio", "keep_ratio_largest", "center_crop", "border")
TURNED = Image.Exif()
TURNED[0x0112] = 6  # orientation: a quarter turn


def resized(body: bytes, settings: DownloadSettings) -> Picture:
    return pixels.resized(body, header(body), settings)


def theirs(body: bytes, settings: DownloadSettings) -> Picture | str:
    data, width, height, original_width, original_height, error = Resizer(
        image_size=settings.image_size,
        resize_mode=settings.resize_mode,
        resize_only_if_bigger=settings.resize_mode not in ("center_crop", "border"),
        encode_quality=settings.encode_quality,
        encode_format=settings.encode_format,
        min_image_size=settings.min_image_size,
        max_aspect_ratio=settings.max_aspect_ratio or float("inf"),
    )(io.BytesIO(body))
    return str(error) if error else Picture(data, width, height, original_width, original_height)


def wish(**values: Any) -> DownloadSettings:
    """Settings whose encoding keeps every pixel."""
    return DownloadSettings(**{"encode_format": "png", "encode_quality": 1, **values})


def array(data: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def assert_alike(ours: Picture, other: Picture | str, psnr: float, mean: float, most: float = 255) -> None:
    """The same sizes and channels; pixels within `psnr` (dB), a `mean` and a `most` absolute difference (of 255)."""
    assert isinstance(other, Picture), other
    sizes = [(p.width, p.height, p.original_width, p.original_height) for p in (ours, other)]
    assert sizes[0] == sizes[1]
    a, b = array(ours.data), array(other.data)
    assert a.shape == b.shape
    assert a.shape[1::-1] == (ours.width, ours.height)
    difference = a.astype(float) - b
    square = np.mean(difference**2)
    assert np.abs(difference).mean() <= mean
    assert np.abs(difference).max() <= most
    assert square == 0 or 10 * np.log10(255**2 / square) >= psnr


def encoded(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def photograph(width: int = 512, height: int = 600) -> Image.Image:
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        return Image.open(file).convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def noise(width: int, height: int, coarse: int = 1) -> Image.Image:
    """Random colours, in spots of about `coarse` pixels."""
    size = (-(-height // coarse), -(-width // coarse), 3)
    values = np.random.default_rng(width + height).integers(0, 256, size, dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def gradient(width: int, height: int) -> Image.Image:
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.dstack([across, down, 255 - across]).astype(np.uint8))


def text(width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for line in range(0, height, 24):
        words = f"Grand Central Terminal, {line} East 42nd Street " * (width // 200 + 1)
        draw.text((3, line), words, fill=(line % 200, 20, 60), font_size=20)
    return image


MADE: dict[str, Callable[[int, int], Image.Image]] = {
    "photograph": photograph,
    "noise": noise,
    "gradient": gradient,
    "text": text,
}


FILES: dict[str, Callable[[Image.Image], bytes]] = {
    "4:4:4": lambda image: encoded(image, quality=95, subsampling=0),
    "4:2:2": lambda image: encoded(image, quality=85, subsampling=1),
    "4:2:0": lambda image: encoded(image, quality=60, subsampling=2),
    "progressive": lambda image: encoded(image, quality=85, progressive=True),
    "grey": lambda image: encoded(image.convert("L"), quality=90),
    "cmyk": lambda image: encoded(image.convert("CMYK"), quality=90),
    "turned": lambda image: encoded(image, quality=90, exif=TURNED),
    "png": lambda image: encoded(image, "PNG"),
    "png with alpha": lambda image: encoded(with_alpha(image), "PNG"),
    "png of grey and alpha": lambda image: encoded(with_alpha(image).convert("LA"), "PNG"),
    "png with a palette": lambda image: encoded(image.convert("P"), "PNG"),
    "png, a colour of it clear": lambda image: encoded(image.convert("P"), "PNG", transparency=3),
    "png of one bit": lambda image: encoded(image.convert("1"), "PNG"),
    "webp": lambda image: encoded(image, "WEBP", quality=80),
    "webp with alpha": lambda image: encoded(with_alpha(image), "WEBP", lossless=True),
    "gif": lambda image: encoded(image, "GIF"),
    "gif, a colour of it clear": lambda image: encoded(image.convert("P"), "GIF", transparency=3),
    "bmp": lambda image: encoded(image, "BMP"),
    "tiff": lambda image: encoded(image, "TIFF"),
    "ppm": lambda image: encoded(image, "PPM"),
}


# The OpenCV that goes with numpy 1 (4.11) reads no GIF: to img2dataset and to us they are undecodable there.
if array(encoded(Image.new("P", (9, 9)), "GIF")) is None:
    FILES = {kind: file for kind, file in FILES.items() if not kind.startswith("gif")}


def with_alpha(image: Image.Image) -> Image.Image:
    alpha = gradient(*image.size).getchannel(0)
    return Image.merge("RGBA", (*image.split(), alpha))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_file_comes_out_as_from_img2dataset(kind: str, mode: str) -> None:
    body = FILES[kind](photograph(343, 401))
    is_jpeg = header(body).is_jpeg
    # Shrunk a little, more, and so much that a JPEG is decoded reduced; enlarged or left as it is.
    for size in (300, 222, 75, 500):
        settings = wish(image_size=size, resize_mode=mode)
        psnr, mean, most = (40, 2, 255) if is_jpeg else (66, 0.05, 1)
        assert_alike(resized(body, settings), theirs(body, settings), psnr, mean, most)


@pytest.mark.parametrize("mode", ["keep_ratio", "keep_ratio_largest"])
@pytest.mark.parametrize("kind", ["4:4:4", "4:2:0", "progressive", "grey", "cmyk"])
@pytest.mark.parametrize("made", MADE)
def test_jpegs_decoded_at_reduced_scale_stay_within_the_tolerance(made: str, kind: str, mode: str) -> None:
    # A little more than twice the size asked for at a half, a quarter and an eighth; none of them divides the sides.
    for width, height in ((259, 387), (520, 513), (1027, 1289)):
        body = FILES[kind](MADE[made](width, height))
        settings = wish(image_size=64, resize_mode=mode)
        # Lines and dots of one pixel are the hardest there is; photographs have none.
        psnr, mean = (28, 7) if made in ("noise", "text") else (38, 2)
        assert_alike(resized(body, settings), theirs(body, settings), psnr, mean)


sides = st.one_of(st.integers(1, 8), st.integers(1, 420))


@hypothesis_settings(max_examples=60, deadline=None)
@given(width=sides, height=sides, size=st.integers(1, 90), mode=st.sampled_from(MODES), jpeg=st.booleans())
def test_any_size_comes_out_in_img2datasets_geometry(width: int, height: int, size: int, mode: str, jpeg: bool) -> None:
    image = noise(width, height, coarse=12)
    body = encoded(image, "JPEG" if jpeg else "PNG")
    settings = wish(image_size=size, resize_mode=mode)
    assert_alike(resized(body, settings), theirs(body, settings), psnr=28, mean=7)


@pytest.mark.parametrize(("form", "quality"), [("jpg", 95), ("jpg", 60), ("png", 6), ("webp", 90)])
@pytest.mark.parametrize("kind", ["4:2:0", "grey", "png with alpha"])
def test_what_is_not_shrunk_is_stored_byte_for_byte_as_by_img2dataset(kind: str, form: str, quality: int) -> None:
    body = FILES[kind](photograph(120, 90))
    for mode in MODES:
        settings = wish(image_size=150, resize_mode=mode, encode_format=form, encode_quality=quality)
        assert resized(body, settings) == theirs(body, settings)


def test_every_colour_and_transparency_is_laid_on_white_as_by_img2dataset() -> None:
    values, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    body = encoded(Image.fromarray(np.dstack([values, values.T, 255 - values, alpha])), "PNG")
    settings = wish(resize_mode="no")
    assert resized(body, settings) == theirs(body, settings)


@pytest.mark.parametrize("alpha", [False, True])
def test_sixteen_bits_become_eight(alpha: bool) -> None:
    image = np.asarray(with_alpha(photograph()) if alpha else photograph())
    deep = cv2.imencode(".png", image.astype(np.uint16) * 257)[1].tobytes()
    flat = cv2.imencode(".png", image)[1].tobytes()
    assert array(deep).dtype == np.uint16
    assert resized(deep, DownloadSettings()) == resized(flat, DownloadSettings())


@pytest.mark.parametrize("form", ["WEBP", "PNG", "TIFF", *(["GIF"] if "gif" in FILES else [])])
def test_of_an_animation_the_first_picture_is_kept(form: str) -> None:
    pictures = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green", "blue", "white")]
    body = encoded(pictures[0], form, save_all=True, append_images=pictures[1:])
    assert array(resized(body, wish()).data).reshape(-1, 3).mean(0) == pytest.approx([0, 0, 255], abs=4)


CUT = {
    "4:2:0": reasons.TRUNCATED,
    "progressive": reasons.TRUNCATED,
    "png": reasons.TRUNCATED,
    "webp": reasons.TRUNCATED,
    "gif": reasons.TRUNCATED,
    "tiff": reasons.UNDECODABLE,
    "bmp": reasons.UNDECODABLE,
}


@pytest.mark.parametrize("kind", [kind for kind in CUT if kind in FILES])
@pytest.mark.parametrize("part", [0.4, 0.7, 0.999])
def test_cut_files_are_told(kind: str, part: float) -> None:
    body = FILES[kind](photograph())
    for size in (32, 512):
        with pytest.raises(PictureError) as caught:
            resized(body[: int(len(body) * part)], wish(image_size=size))
        assert caught.value.reason == CUT[kind]


def test_the_end_of_a_preview_is_not_that_of_the_image() -> None:
    preview = encoded(photograph(60, 70))
    body = encoded(photograph(), comment=preview)
    assert resized(body, wish()) == resized(encoded(photograph()), wish())
    with pytest.raises(PictureError, match=reasons.TRUNCATED):
        resized(body[: len(body) // 2], wish())


@pytest.mark.parametrize(
    ("body", "values", "reason"),
    [
        (b"", {}, reasons.NOT_AN_IMAGE),
        (b"<html>404</html>", {}, reasons.NOT_AN_IMAGE),
        (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', {}, reasons.NOT_AN_IMAGE),
        (b"\xff\xd8\xff", {}, reasons.NOT_AN_IMAGE),
        (encoded(photograph(80, 60)), {"min_image_size": 61}, reasons.TOO_SMALL),
        (encoded(photograph(80, 20)), {"max_aspect_ratio": 3.9}, reasons.ASPECT_RATIO),
        (encoded(photograph(1, 10_000)), {"resize_mode": "center_crop"}, reasons.ASPECT_RATIO),
        (encoded(photograph(16_384, 4)), {"resize_mode": "no", "encode_format": "webp"}, reasons.TOO_MANY_PIXELS),
        (encoded(Image.new("F", (9, 9)), "TIFF"), {}, reasons.UNDECODABLE),
        (encoded(Image.new("L", (5001, 5000)), "PNG"), {}, reasons.TOO_MANY_PIXELS),
    ],
)
def test_what_cannot_be_stored_has_its_reason(body: bytes, values: dict[str, Any], reason: str) -> None:
    with pytest.raises(PictureError, match=f"^{reason}") as caught:
        resized(body, wish(**values))
    assert caught.value.reason == reason


def test_limits_that_are_just_met_leave_an_image_in() -> None:
    body = encoded(photograph(80, 60))
    assert resized(body, wish(min_image_size=60, max_aspect_ratio=80 / 60)).width == 80


@pytest.mark.parametrize(("width", "height"), [(65_500, 65_500), (20_000, 5_001)])
def test_a_jpeg_that_promises_too_much_is_not_decoded(width: int, height: int) -> None:
    body = bytearray(encoded(photograph(16, 16)))
    at = body.index(b"\xff\xc0") + 5
    body[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    with pytest.raises(PictureError, match=reasons.TOO_MANY_PIXELS):
        header(bytes(body))


def test_a_progressive_jpeg_counts_for_more_than_its_pixels() -> None:
    """Its decoder keeps all coefficients until the last scan has come: 9 bytes a pixel instead of 3."""
    for progressive in (False, True):
        body = bytearray(encoded(photograph(16, 16), progressive=progressive, subsampling=0))
        at = body.index(b"\xff\xc2" if progressive else b"\xff\xc0") + 5
        body[at : at + 4] = (9_900).to_bytes(2, "big") + (9_900).to_bytes(2, "big")
        head = header(bytes(body))
        assert head.decoder_bytes == (6 * 9_900 * 9_900 if progressive else 0)
    with pytest.raises(PictureError, match=reasons.TOO_MANY_PIXELS):
        resized(bytes(body), wish(resize_mode="no"))


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    options=st.fixed_dictionaries(
        {}, optional={"progressive": st.just(True), "subsampling": st.integers(0, 2), "optimize": st.just(True)}
    ),
    comment=st.binary(max_size=300),
    padding=st.integers(0, 3),
)
def test_the_size_of_a_jpeg_is_read_from_its_head(
    width: int, height: int, options: dict[str, Any], comment: bytes, padding: int
) -> None:
    body = encoded(Image.new("RGB", (width, height)), comment=comment, **options)
    body = body[:2] + b"\xff" * padding + body[2:]
    head = header(body)
    assert (head.width, head.height) == (width, height)
    assert body[head.scans : head.scans + 2] == b"\xff\xda"


@hypothesis_settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(sorted(FILES)),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    part=st.floats(0, 1),
)
def test_damaged_files_are_a_picture_or_a_reason(kind: str, changes: list[tuple[float, int]], part: float) -> None:
    body = bytearray(FILES[kind](photograph(48, 40)))
    for place, value in changes:
        body[int(place * len(body))] = value
    try:
        picture = resized(bytes(body[: int(part * len(body))]), wish(image_size=16))
    except PictureError as error:
        assert error.reason in reasons.REASONS
    else:
        assert array(picture.data).shape[1::-1] == (picture.width, picture.height)


def test_many_threads_get_what_one_gets() -> None:
    bodies = [encoded(photograph(300 + n, 400)) for n in range(12)]
    alone = [resized(body, wish()) for body in bodies]
    together: list[Picture | None] = [None] * len(bodies)

    def work(n: int) -> None:
        together[n] = resized(bodies[n], wish())

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


_MANY_LARGE = """
import io, re
from concurrent.futures import ThreadPoolExecutor
from PIL import Image
from geo_subset.download.pixels import header, resized
from geo_subset.settings import DownloadSettings
out = io.BytesIO()
Image.new("RGBA", (5000, 4900), (10, 200, 90, 128)).save(out, "PNG", compress_level=1)
body = out.getvalue()
with ThreadPoolExecutor(10) as pool:
    pictures = [pool.submit(resized, body, header(body), DownloadSettings()) for _ in range(10)]
assert {picture.result().original_width for picture in pictures} == {5000}
print(int(re.search(r"VmHWM:\\s+([0-9]+)", open("/proc/self/status").read())[1]) // 1024)
"""


def test_threads_with_large_pictures_wait_for_memory() -> None:
    """Ten at once would hold 2.5 GB."""
    done = subprocess.run([sys.executable, "-c", _MANY_LARGE], capture_output=True, text=True, check=True)
    assert int(done.stdout) < pixels.MEMORY / (1 << 20) + 400


@pytest.mark.parametrize("size", [99, 9999])
@pytest.mark.parametrize("progressive", [False, True])
def test_an_end_too_early_is_told_though_the_mark_of_the_end_is_there(size: int, progressive: bool) -> None:
    body = encoded(photograph(), progressive=progressive)
    with pytest.raises(PictureError) as caught:
        resized(body[: len(body) // 2] + b"\xff\xd9", wish(image_size=size))
    assert caught.value.reason == reasons.TRUNCATED


def test_decoders_can_be_kept_from_printing(capfd: pytest.CaptureFixture[str]) -> None:
    body = encoded(photograph())
    scan = body.index(b"\xff\xda")
    damaged = body[:scan] + b"\0\0\0" + body[scan:]
    resized(damaged, wish())
    assert "Corrupt JPEG data" in capfd.readouterr().err
    with pixels.silent_decoders():
        resized(damaged, wish())
        print("from Python", file=sys.stderr)
    assert capfd.readouterr().err == "from Python\n"
    resized(damaged, wish())
    assert "Corrupt JPEG data" in capfd.readouterr().err
