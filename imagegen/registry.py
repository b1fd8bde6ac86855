"""A repository of a registry, by the OCI distribution specification 1.1."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urljoin

import httpx

from imagegen.answers import (
    FAULTS,
    bounded,
    check,
    drop_redirect_body,
    is_final,
    speaks_no_tls,
    unreachable,
    whole,
)
from imagegen.credentials import Credentials, trust
from imagegen.errors import PushError
from imagegen.pieces import FilePiece
from imagegen.reference import Reference
from imagegen.referrers import MANIFEST_TYPE, Referrer, blob_digest, fallback_tag
from imagegen.tokens import ask_token

_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
_PIECE = 16 << 20
_CHUNK = 1 << 20
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_MANIFESTS = (
    MANIFEST_TYPE,
    _INDEX_TYPE,
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
# No manifest is larger (OCI distribution specification), and no bill of materials is.
_LARGEST_MANIFEST, _LARGEST_BLOB = 4 << 20, 64 << 20
_MOST_REFERRERS = 100
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_T = TypeVar("_T")
_TIMEOUT = httpx.Timeout(60, connect=15)
_ATTEMPTS = 5


class Repository:
    """One repository; a context manager. `pause` waits that many seconds between attempts.

    `actions` are what its token service is asked for: `pull,push` or only `pull`.
    """

    def __init__(
        self,
        reference: Reference,
        credentials: Credentials | None,
        pause: Callable[[float], object] = time.sleep,
        *,
        actions: str = "pull,push",
    ) -> None:
        self.reference = reference
        self._actions = actions
        self._credentials = credentials
        self._pause = pause
        self._client = httpx.Client(
            verify=trust(reference.registry),
            timeout=_TIMEOUT,
            follow_redirects=False,
            event_hooks={"response": [drop_redirect_body]},
        )
        self._authorization: dict[str, str] = {}
        self._root = f"https://{reference.registry}/v2/"

    def __enter__(self) -> Repository:
        """Find out how the registry is to be spoken to. Raises PushError."""
        try:
            self._request("GET", "")
        except PushError as error:
            if not (self.reference.is_loopback and speaks_no_tls(error.__cause__)):
                raise
            self._root = f"http://{self.reference.registry}/v2/"
            self._request("GET", "")
        return self

    def __exit__(self, *_: object) -> None:
        """Close all connections."""
        self._client.close()

    def has_blob(self, digest: str) -> bool:
        """Say whether the repository holds a blob."""
        return self._request("HEAD", f"{self._name}/blobs/{digest}", expect=(200, 404)).status_code == 200

    def mount(self, digest: str, source: str) -> bool:
        """Take a blob over from another repository of the registry; say whether that went."""
        path = f"{self._name}/blobs/uploads/"
        answer = self._request(
            "POST", path, params={"mount": digest, "from": source}, expect=(201, 202, 401, 403)
        )
        if answer.status_code == 202:  # an upload was begun instead
            self._abandon(self._location(answer))
        return answer.status_code == 201

    def check_push(self) -> None:
        """Raise PushError where nothing may be pushed here: begin an upload, and give it up."""
        self._abandon(self._begin())

    def _abandon(self, place: str) -> None:
        """Give an upload up. Registries do so by themselves some time, and some have no other way."""
        with suppress(PushError, *FAULTS):
            self._once("DELETE", place)

    def upload(self, digest: str, file: Path) -> None:
        """Send a small blob at once, another piece by piece; that goes on where the registry says it stands.

        After a cut, a registry that has given the upload up is sent the blob from its beginning.
        """
        size = file.stat().st_size
        if size <= _PIECE:
            self._retried(lambda: self._send_whole(digest, FilePiece(file, 0, size)))
        else:
            self._send_in_pieces(digest, file, size)

    def _send_whole(self, digest: str, blob: FilePiece) -> None:
        options = {"params": {"digest": digest}, "content": blob, "headers": blob.headers}
        check(self._once("PUT", self._begin(), **options), (201,), str(self.reference))

    def _send_in_pieces(self, digest: str, file: Path, size: int) -> None:
        (place, sent), failures = (self._begin(), 0), 0
        while sent < size:
            piece = FilePiece(file, sent, min(_PIECE, size - sent))
            try:
                answer = self._once("PATCH", place, content=piece, headers=piece.headers | piece.range)
                check(answer, (202,), str(self.reference))
                place, sent = self._location(answer), sent + piece.size
            except FAULTS as error:
                failures += 1
                if failures >= _ATTEMPTS or is_final(error):
                    raise unreachable(error, self.reference) from error
                self._pause(2**failures / 4)
                place, sent = self._resume(place)
        self._request("PUT", place, params={"digest": digest}, expect=(201,))

    def put_manifest(self, name: str, content: bytes, media_type: str) -> bool:
        """Put a manifest under a tag or its digest; say whether the registry notes what it refers to."""
        path = f"{self._name}/manifests/{name}"
        answer = self._request(
            "PUT", path, content=content, headers={"Content-Type": media_type}, expect=(201,)
        )
        return "OCI-Subject" in answer.headers

    def refer(self, referrers: Sequence[Referrer]) -> None:
        """Put artifacts about one manifest, whose blobs are there.

        A registry without an API for referrers is given their index under a tag of its own.
        """
        noted = [self.put_manifest(one.digest, one.manifest, MANIFEST_TYPE) for one in referrers]
        if referrers and not all(noted):
            tag = fallback_tag(referrers[0].subject)
            listed = {str(entry["digest"]): entry for entry in self._listed(f"manifests/{tag}")}
            wanted = listed | {one.digest: one.descriptor() for one in referrers}
            if wanted != listed:
                entries = [entry for _, entry in sorted(wanted.items())]
                content = {"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": entries}
                self.put_manifest(tag, json.dumps(content, sort_keys=True).encode(), _INDEX_TYPE)

    def manifest(self, name: str) -> bytes | None:
        """Give the manifest or index of a tag or digest, or None. Raises PushError where it is another."""
        found = self._read(f"manifests/{name}", _LARGEST_MANIFEST)
        if found is not None and ":" in name:
            self._check_digest(found, name)
        return found

    def blob(self, digest: str) -> bytes | None:
        """Give a small blob, or None. Raises PushError where it is another, or is large."""
        found = self._read(f"blobs/{digest}", _LARGEST_BLOB)
        if found is not None:
            self._check_digest(found, digest)
        return found

    def pieces(self, digest: str) -> Iterator[bytes]:
        """Give the bytes of a blob as they come, unchecked; after a cut it goes on where that came.

        Raises PushError where it is not there.
        """
        given = 0
        for number in range(1, _ATTEMPTS + 1):
            try:
                for piece in self._pieces(f"{self._root}{self._name}/blobs/{digest}", given):
                    given += len(piece)
                    yield piece
                return
            except FAULTS as error:
                if number == _ATTEMPTS or is_final(error):
                    raise unreachable(error, self.reference) from error
                self._pause(2**number / 4)

    def _pieces(self, url: str, start: int) -> Iterator[bytes]:
        """Give what comes after `start`, also of a registry that knows no ranges."""
        wanted = {"Range": f"bytes={start}-"} if start else {}
        expect = (200, 206) if start else (200,)
        with self._opened(url, wanted, expect) as answer:
            check(answer, expect, str(self.reference))
            surplus = start if answer.status_code == 200 else 0
            for piece in answer.iter_raw(_CHUNK):
                yield piece[surplus:]
                surplus = max(0, surplus - len(piece))

    def referrers(self, digest: str) -> tuple[Referrer, ...]:
        """Give the artifacts about a manifest that have one blob, sorted by digest."""
        entries = self._listed(f"referrers/{digest}") or self._listed(f"manifests/{fallback_tag(digest)}")
        found = (self._referrer(str(entry.get("digest")), digest) for entry in entries[:_MOST_REFERRERS])
        return tuple(sorted((one for one in found if one), key=lambda one: one.digest))

    def _referrer(self, digest: str, subject: str) -> Referrer | None:
        manifest = self.manifest(digest) if _DIGEST.fullmatch(digest) else None
        try:
            blob = self.blob(blob_digest(manifest, subject)) if manifest else None
        except ValueError:
            return None
        return Referrer(manifest=manifest, blob=blob) if manifest and blob is not None else None

    def _listed(self, path: str) -> list[dict[str, Any]]:
        """Give the descriptors of an index, none where there is no such index."""
        try:
            entries = json.loads(self._read(path, _LARGEST_MANIFEST) or b"{}").get("manifests", [])
            return [entry for entry in entries if isinstance(entry, dict) and "digest" in entry]
        except (ValueError, AttributeError, TypeError, RecursionError):
            return []

    def _check_digest(self, data: bytes, digest: str) -> None:
        if digest != f"sha256:{hashlib.sha256(data).hexdigest()}":
            raise PushError(f"it gives other bytes for {digest}", where=str(self.reference))

    def _read(self, path: str, limit: int) -> bytes | None:
        """Read a document, None where there is none. Raises PushError."""
        return self._retried(lambda: self._fetched(f"{self._root}{self._name}/{path}", limit))

    def _fetched(self, url: str, limit: int) -> bytes | None:
        with self._opened(url, {"Accept": ", ".join(_MANIFESTS)}, (200,)) as answer:
            if answer.status_code == 200:
                return bounded(answer.iter_bytes(), limit, str(self.reference))
            check(answer, (404,), str(self.reference))
            return None

    @contextmanager
    def _opened(
        self, url: str, headers: Mapping[str, str], expect: tuple[int, ...]
    ) -> Iterator[httpx.Response]:
        """Ask for what may be large, once more where the registry wants to know who asks: tokens expire.

        The body of an answer that is expected is still to be read.
        """
        for is_last in (False, True):
            # A registry may keep its blobs elsewhere; httpx takes no credentials there.
            with self._client.stream(
                "GET", url, headers={**headers, **self._authorization}, follow_redirects=True
            ) as answer:
                refused = answer.status_code == 401 and not answer.history
                if is_last or not refused or not self._authorize(answer):
                    yield answer if answer.status_code in expect else self._whole(answer)
                    return

    def _whole(self, answer: httpx.Response) -> httpx.Response:
        return whole(answer, _LARGEST_MANIFEST, str(self.reference))

    @property
    def _name(self) -> str:
        return self.reference.repository

    def _begin(self) -> str:
        return self._location(self._request("POST", f"{self._name}/blobs/uploads/"))

    def _resume(self, place: str) -> tuple[str, int]:
        answer = self._request("GET", place, expect=(204, 404))
        if answer.status_code == 404:
            return self._begin(), 0
        _, _, last = answer.headers.get("Range", "").rpartition("-")
        # Registries write 0-0 for one byte and for none.
        return self._location(answer), int(last) + 1 if last.isdigit() and last != "0" else 0

    def _location(self, answer: httpx.Response) -> str:
        """Give where an upload goes on; only the registry itself is followed there with credentials."""
        try:
            place = urljoin(str(answer.url), str(answer.headers.get("Location", "")))
            host = httpx.URL(place).host
        except (ValueError, httpx.InvalidURL) as error:
            raise PushError(f"it sends the upload nowhere: {error}", where=str(self.reference)) from error
        if host != answer.url.host:
            raise PushError("it sends the upload to another host", where=str(self.reference))
        return place

    def _request(
        self, method: str, path: str, *, expect: tuple[int, ...] = (200, 202), **options: Any
    ) -> httpx.Response:
        """Ask until there is an answer that another attempt would not change. Raises PushError."""

        def attempt() -> httpx.Response:
            answer = self._once(method, path, **options)
            check(answer, expect, str(self.reference))
            return answer

        return self._retried(attempt)

    def _retried(self, attempt: Callable[[], _T]) -> _T:
        for number in range(1, _ATTEMPTS + 1):
            try:
                return attempt()
            except FAULTS as error:
                if number == _ATTEMPTS or is_final(error):
                    raise unreachable(error, self.reference) from error
                self._pause(2**number / 4)
        raise AssertionError("unreachable")

    def _once(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send one request, and a second one where the registry first wants to know who asks."""
        headers = options.pop("headers", {})
        url = httpx.URL(urljoin(self._root, path))
        if parameters := options.pop("params", None):
            url = url.copy_merge_params(parameters)
        answer = self._sent(method, url, headers={**headers, **self._authorization}, **options)
        if answer.status_code == 401 and self._authorize(answer):
            answer = self._sent(method, url, headers={**headers, **self._authorization}, **options)
        return answer

    def _sent(self, method: str, url: httpx.URL | str, **options: Any) -> httpx.Response:
        with self._client.stream(method, url, **options) as answer:
            return self._whole(answer)

    def _authorize(self, answer: httpx.Response) -> bool:
        kind, _, rest = answer.headers.get("WWW-Authenticate", "").partition(" ")
        basic = self._credentials.basic if self._credentials else None
        if kind.lower() == "basic" and basic:
            request = next(httpx.BasicAuth(*basic).auth_flow(httpx.Request("GET", self._root)))
            self._authorization = {"Authorization": request.headers["Authorization"]}
            return True
        if kind.lower() == "bearer":
            challenge = dict(_CHALLENGE.findall(rest))
            token = ask_token(self._sent, challenge, self.reference, self._actions, self._credentials)
            self._authorization = {"Authorization": f"Bearer {token}"}
            return True
        return False
