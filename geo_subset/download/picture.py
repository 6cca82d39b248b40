"""What is known of an image file before it is decoded, and the error that says why nothing is stored of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from geo_subset.download import reasons

#: Segments, chunks, boxes or tags of a file that are looked at. Photographs of 60 MB have some 1,000.
STEPS = 2000


class PictureError(Exception):
    """No picture can be stored; `reason` is one of `reasons.REASONS`, the text begins with it."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class UnreadableError(Exception):
    """The head of a file makes no sense, or is not all there."""


class Steps:
    """The looks that reading one file's head may take, however its parts name one another."""

    def __init__(self) -> None:
        self._left = STEPS

    def take(self, count: int = 1) -> None:
        self._left -= count
        if self._left < 0:
            raise PictureError(reasons.TOO_COSTLY, f"more than {STEPS:,} segments, chunks, boxes or tags")


@dataclass(frozen=True)
class Header:
    """What the head of an image file says.

    `apart`: the head does not bound the work of decoding, so it is done in a process that has limits.
    `effort`: the work of decoding beyond that of its pixels and bytes, at most, counted in pixels of an ordinary JPEG.
    `decoder_bytes`: what the decoder keeps beside the picture, such as a JPEG's coefficients until its last scan.
    `turned`: the decoder turns the picture on its side.
    Of a JPEG: `scans` is where its first scan begins, `channels` are 1 (grey), 3 (colour) or 4 (CMYK), and, where it
    comes in several scans, `samples` the number of values of each channel by its id.
    """

    form: str
    width: int
    height: int
    apart: bool = False
    effort: int = 0
    decoder_bytes: int = 0
    turned: bool = False
    scans: int = 0
    channels: int = 0
    samples: dict[int, int] = field(default_factory=dict)

    @property
    def is_jpeg(self) -> bool:
        return self.form == "JPEG"
