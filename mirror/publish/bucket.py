"""The bucket of an S3-compatible object store, by boto3.

Credentials, region, proxies and certificates are those of the standard AWS configuration:
environment, profiles, roles of containers and machines. What comes from the store, as errors too, is
told without them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from mirror.destinations import ObjectStoreSpec
from mirror.errors import ObjectStoreError
from mirror.publish.objects import FOLDERS, Content, Page

_T = TypeVar("_T")
_R = TypeVar("_R")
_AT_ONCE = 16
_DELETED_AT_ONCE = 1000  # as many as the protocol takes
_PART = 64 << 20
_REGION = "us-east-1"  # what stores that know no regions expect
_HINTS = {
    "NoSuchBucket": "make the bucket first; lockstock makes none",
    "AccessDenied": "it needs to list, read, write and delete objects, and to list and abort uploads",
    "InvalidAccessKeyId": "look at AWS_ACCESS_KEY_ID, AWS_PROFILE and ~/.aws",
    "SignatureDoesNotMatch": "look at AWS_SECRET_ACCESS_KEY, AWS_PROFILE and ~/.aws, and at the region",
    "RequestTimeTooSkewed": "set this machine's clock by NTP",
}
_UNREACHED = (
    "look at `endpoint` and `bucket` under [object_store] and at your AWS configuration; run it again"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What the store says of an object. The etag of one that was sent in one piece is its md5."""

    size: int
    etag: str


class Bucket:
    """The part of a bucket below a prefix; keys are told without it."""

    def __init__(self, spec: ObjectStoreSpec) -> None:
        self.spec = spec
        self._prefix = f"{spec.prefix}/" if spec.prefix else ""
        self._client = _client(spec)

    def listing(self) -> dict[str, Held]:
        """Give all of our objects by their keys. Raises ObjectStoreError, as all of these do."""
        with _failures(self.spec):
            pages = self._client.get_paginator("list_objects_v2")
            return {
                item["Key"].removeprefix(self._prefix): Held(
                    size=item["Size"], etag=item.get("ETag", "").strip('"')
                )
                for folder in FOLDERS
                for page in pages.paginate(Bucket=self.spec.bucket, Prefix=self._prefix + folder)
                for item in page.get("Contents", ())
            }

    def find(self, key: str) -> bytes | None:
        """Give the bytes of a small object, or None where there is none."""
        with _failures(self.spec):
            whole = self._prefix + key
            answer = self._client.list_objects_v2(Bucket=self.spec.bucket, Prefix=whole, MaxKeys=1)
        found = any(item["Key"] == whole for item in answer.get("Contents", ()))
        return self.read([key])[key] if found else None

    def read(self, keys: Collection[str]) -> Mapping[str, bytes]:
        """Give the bytes of small objects by their keys."""

        def one(key: str) -> tuple[str, bytes]:
            answer = self._client.get_object(Bucket=self.spec.bucket, Key=self._prefix + key)
            return key, answer["Body"].read()

        return dict(self._each(one, keys))

    def write(self, pages: Iterable[Page]) -> None:
        """Put pages, each at once for every reader."""

        def one(page: Page) -> None:
            self._client.put_object(
                Bucket=self.spec.bucket, Key=self._prefix + page.key, Body=page.body, **_headers(page)
            )

        self._each(one, pages)

    def upload(self, contents: Iterable[Content]) -> None:
        """Put files, the large ones in parts, each at once for every reader."""
        from boto3.s3.transfer import TransferConfig

        transfer = TransferConfig(multipart_threshold=_PART, multipart_chunksize=_PART, use_threads=False)

        def one(content: Content) -> None:
            self._client.upload_file(
                str(content.path), self.spec.bucket, self._prefix + content.key,
                ExtraArgs=_headers(content), Config=transfer,
            )  # fmt: skip

        self._each(one, contents)

    def remove(self, keys: Iterable[str]) -> None:
        """Delete objects."""
        with _failures(self.spec):
            objects = [{"Key": self._prefix + key} for key in sorted(keys)]
            while objects:
                some, objects = objects[:_DELETED_AT_ONCE], objects[_DELETED_AT_ONCE:]
                answer = self._client.delete_objects(
                    Bucket=self.spec.bucket, Delete={"Objects": some, "Quiet": True}
                )
                for refused in answer.get("Errors", ()):
                    raise _refused(self.spec, str(refused.get("Code", "")))

    def sweep(self) -> None:
        """Abort the uploads in parts that killed runs left behind, which cost room unseen."""
        with _failures(self.spec):
            found = self._client.get_paginator("list_multipart_uploads")
            uploads = [
                upload
                for folder in FOLDERS
                for page in found.paginate(Bucket=self.spec.bucket, Prefix=self._prefix + folder)
                for upload in page.get("Uploads", ())
            ]
            for upload in uploads:
                self._client.abort_multipart_upload(
                    Bucket=self.spec.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )

    def _each(self, function: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
        """Do it for all, some at a time; the first failure ends it."""
        with _failures(self.spec), ThreadPoolExecutor(_AT_ONCE) as pool:
            tasks = [pool.submit(function, item) for item in items]
            try:
                return [task.result() for task in as_completed(tasks)]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _headers(sent: Page | Content) -> dict[str, str]:
    return {"ContentType": sent.content_type, "CacheControl": sent.cache_control}


def _client(spec: ObjectStoreSpec) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise ObjectStoreError(
            "boto3 is not installed", where=spec.place, hint="pip install 'lockstock[s3]'"
        ) from None
    with _endpoint_failures(spec), _failures(spec):
        session = boto3.Session()
        config = Config(
            region_name=session.region_name or _REGION,
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard", "max_attempts": 4},
            max_pool_connections=_AT_ONCE,
            # The sha256 of what is sent is part of every signature; newer checksums not all stores know.
            s3={"payload_signing_enabled": True},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return session.client("s3", endpoint_url=spec.endpoint, config=config)


@contextmanager
def _endpoint_failures(spec: ObjectStoreSpec) -> Iterator[None]:
    """Tell of an endpoint that boto3 takes for none, such as a host with an underscore."""
    try:
        yield
    except ValueError as error:
        raise ObjectStoreError(
            f"boto3 cannot use the endpoint: {_open(error)}", where=spec.place, hint=_UNREACHED
        ) from error


@contextmanager
def _failures(spec: ObjectStoreSpec) -> Iterator[None]:
    """Turn what boto3 raises into errors of ours."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        raise _refused(spec, _code(error)) from error
    except (Boto3Error, BotoCoreError) as error:
        cause = error.__context__  # that of an upload is told with its file only
        if isinstance(cause, ClientError):
            raise _refused(spec, _code(cause)) from error
        raise ObjectStoreError(
            f"the object store cannot be reached: {_open(error)}", where=spec.place, hint=_UNREACHED
        ) from error


def _open(error: Exception) -> str:
    """Give what an error says, without the credentials of an endpoint or a proxy."""
    return re.sub(r"//[^/\s@]*@", "//", str(error))


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) or "no reason"


def _refused(spec: ObjectStoreSpec, code: str) -> ObjectStoreError:
    """Tell a refusal by its code alone, for its text may name an access key."""
    return ObjectStoreError(
        f"the object store refuses: {code}", where=spec.place, hint=_HINTS.get(code, _UNREACHED)
    )
