"""The Merkle tree of RFC 6962, section 2.1, grown leaf by leaf in logarithmic space."""

from __future__ import annotations

from hashlib import sha256

EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """Hash one entry."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two sub-trees into one."""
    return sha256(b"\x01" + left + right).digest()


class Tree:
    """A tree that is only ever appended to; it keeps the roots of its whole sub-trees."""

    def __init__(self) -> None:
        self.size = 0
        self._whole: list[tuple[int, bytes]] = []

    def append(self, data: bytes) -> None:
        """Add an entry."""
        height, node = 0, leaf_hash(data)
        while self._whole and self._whole[-1][0] == height:
            node = node_hash(self._whole.pop()[1], node)
            height += 1
        self._whole.append((height, node))
        self.size += 1

    def root(self) -> bytes:
        """Give the Merkle tree hash of all entries so far."""
        if not self._whole:
            return EMPTY_ROOT
        *others, (_, root) = self._whole
        for _, node in reversed(others):
            root = node_hash(node, root)
        return root
