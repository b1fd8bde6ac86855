"""Layers: deterministic tar streams, compressed, kept by their digest and found again by what made them.

MIRROR/oci/blobs holds the layers, MIRROR/layers what is known of each. The key of a layer stands for
its content and for how it is written, never for an image; so images share what they have in common.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imagegen.archive import Deflated, Piece
from imagegen.compression import Compression, GzipMembers
from mirror.store import disk_errors, sync_folder, write_atomically

# Part of every key: raise it when the same input gives other bytes.
LAYOUT = 5
_CHUNK = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A compressed layer: its digest and size in bytes, and the digest of the tar in it (`diff_id`).

    `unpacked` is the size of that tar in bytes, 0 where nobody has counted.
    """

    digest: str
    diff_id: str
    size: int
    comment: str = ""
    unpacked: int = 0
    media_type: str = Compression.GZIP.media_type


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A tar to be written, and facts about it that are kept beside the layer.

    What is `dense` is compressed as well as can be, in several times the time.
    """

    tar: Iterable[Piece]
    facts: Mapping[str, Any]
    dense: bool = False


class Layers:
    """The layers of one mirror, as one way of compression writes them."""

    def __init__(self, root: Path, compression: Compression = Compression.GZIP) -> None:
        self._compression = compression
        self.blobs = root / "oci" / "blobs" / "sha256"
        self._known = root / "layers"

    def get(
        self, recipe: object, comment: str, make: Callable[[], Content]
    ) -> tuple[Layer, Mapping[str, Any]]:
        """Give the layer that this recipe (plain data) stands for, and its facts; make it if need be.

        A run that is killed leaves no layer behind that is not whole. Raises DiskFullError.
        """
        record = self._record(recipe)
        found = self._recorded(record)
        if found:
            return found
        content = make()
        layer = self._write(content, comment)
        known = json.dumps({"layer": asdict(layer), "facts": content.facts}, sort_keys=True)
        write_atomically(record, known.encode())
        return layer, json.loads(known)["facts"]

    def knows(self, recipe: object) -> bool:
        """Say whether a layer was made of this recipe; it may be lost."""
        return self._record(recipe).exists()

    def path(self, digest: str) -> Path:
        """Say where the blob with this digest lies or would lie."""
        return self.blobs / digest.removeprefix("sha256:")

    def forget_lost(self) -> None:
        """Drop what is known of layers that are not there any more."""
        for record in self._known.glob("*.json"):
            if not self._recorded(record):
                record.unlink()

    def _record(self, recipe: object) -> Path:
        whole = json.dumps([LAYOUT, self._compression.recipe, recipe], sort_keys=True)
        return self._known / f"{hashlib.sha256(whole.encode()).hexdigest()}.json"

    def _recorded(self, record: Path) -> tuple[Layer, Mapping[str, Any]] | None:
        try:
            known = json.loads(record.read_bytes())
            layer = Layer(**known["layer"])
            if self.path(layer.digest).stat().st_size == layer.size:
                return layer, known["facts"]
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return None

    def _write(self, content: Content, comment: str) -> Layer:
        with disk_errors(self.blobs):
            self.blobs.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.blobs, suffix=".tmp", delete=False) as file:
                try:
                    sink = _Sink(file.write, self._compression, dense=content.dense)
                    for piece in content.tar:
                        sink.write(piece)
                    layer = sink.close(comment)
                    file.flush()
                    Path(file.name).chmod(0o444)
                    Path(file.name).rename(self.path(layer.digest))
                finally:
                    Path(file.name).unlink(missing_ok=True)
            sync_folder(self.blobs)
        return layer


class _Sink:
    """Compresses in large pieces, which other threads may run beside, and hashes both sides.

    A member goes into gzip as it is.
    """

    def __init__(self, write: Callable[[bytes], object], compression: Compression, *, dense: bool) -> None:
        self._out = write
        self._media_type = compression.media_type
        self._compressor = compression.compressor(dense=dense)
        self._outer, self._inner = hashlib.sha256(), hashlib.sha256()
        self._size = self._unpacked = 0
        self._waiting: list[bytes] = []
        self._held = 0

    def write(self, piece: Piece) -> None:
        """Take the next bytes of the tar."""
        if isinstance(piece, Deflated):
            if isinstance(self._compressor, GzipMembers):
                self._drain()
                self._count(piece.plain)
                self._emit(self._compressor.splice(piece.member))
                return
            piece = piece.plain
        self._waiting.append(piece)
        self._held += len(piece)
        if self._held >= _CHUNK:
            self._drain()

    def close(self, comment: str) -> Layer:
        """Write the end, and say what was written."""
        self._drain()
        self._emit(self._compressor.flush())
        return Layer(
            digest=f"sha256:{self._outer.hexdigest()}",
            diff_id=f"sha256:{self._inner.hexdigest()}",
            size=self._size,
            comment=comment,
            unpacked=self._unpacked,
            media_type=self._media_type,
        )

    def _drain(self) -> None:
        data = b"".join(self._waiting)
        self._waiting, self._held = [], 0
        self._count(data)
        self._emit(self._compressor.compress(data))

    def _count(self, data: bytes) -> None:
        self._inner.update(data)
        self._unpacked += len(data)

    def _emit(self, data: bytes) -> None:
        self._outer.update(data)
        self._size += len(data)
        self._out(data)
