"""Parts of a file as bodies of requests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# A socket takes some hundred kB at a time; what is left over of a larger chunk is copied each time.
_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class FilePiece:
    """The bytes of a file from `start` on, `size` of them: read as they are sent, and again if need be."""

    file: Path
    start: int
    size: int

    @property
    def headers(self) -> dict[str, str]:
        """What a request says of them."""
        return {"Content-Type": "application/octet-stream", "Content-Length": str(self.size)}

    @property
    def range(self) -> dict[str, str]:
        """Which of the file they are: OCI distribution specification 1.1, "Pushing a blob in chunks"."""
        return {"Content-Range": f"{self.start}-{self.start + self.size - 1}"}

    def __iter__(self) -> Iterator[bytes]:
        """Give them in chunks."""
        with self.file.open("rb", buffering=0) as source:
            source.seek(self.start)
            left = self.size
            while left and (chunk := source.read(min(left, _CHUNK))):
                left -= len(chunk)
                yield chunk
