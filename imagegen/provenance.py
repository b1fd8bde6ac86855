"""Where an image comes from: an in-toto statement v1 with the provenance predicate of SLSA v1. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from imagegen.plan import ImagePlan
from imagegen.sbom import Package
from imagegen.statements import PROVENANCE, statement
from mirror.snapshot import Snapshot, covers

# They name what was done and who did it; nothing has to lie there.
BUILD_TYPE = "urn:lockstock:image:v1"
BUILDER = "urn:lockstock:imagegen"


def provenance(plan: ImagePlan, snapshot: Snapshot, digest: str, packages: Iterable[Package]) -> bytes:
    """State of which snapshot, locks, base and files the direct engine made an image.

    It tells no time: equal input, equal bytes.
    """
    return statement(
        plan.repository,
        digest,
        PROVENANCE,
        {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "image": plan.name,
                    "base": plan.base.name,
                    "locks": list(plan.locks),
                    "target": plan.target,
                    "user": plan.user,
                    "layers": plan.layers,
                    "compile": plan.compile,
                    "wheels": plan.wheels,
                },
                "internalParameters": {"plan": plan.digest},
                "resolvedDependencies": [
                    _resource("snapshot", snapshot.digest, "urn:lockstock:snapshot"),
                    _resource("base", plan.base.digest, plan.base.name),
                    *_locks(plan, snapshot),
                    *_files(packages),
                ],
            },
            "runDetails": {"builder": {"id": BUILDER, "version": {"lockstock": version("lockstock")}}},
        },
    )


def _locks(plan: ImagePlan, snapshot: Snapshot) -> list[dict[str, Any]]:
    return [
        _resource(f"lock:{lock.name}", lock.sha256, f"urn:lockstock:lock:{lock.name}")
        for lock in snapshot.locks
        if any(covers(name, lock.name) for name in plan.locks)
    ]


def _files(packages: Iterable[Package]) -> list[dict[str, Any]]:
    files = {(package.filename, package.sha256): str(package.purl) for package in packages if package.sha256}
    return [_resource(name, sha256, purl) for (name, sha256), purl in sorted(files.items())]


def _resource(name: str, digest: str, uri: str) -> dict[str, Any]:
    return {"name": name, "uri": uri, "digest": {"sha256": digest.removeprefix("sha256:")}}
