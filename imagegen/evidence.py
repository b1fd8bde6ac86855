"""What is said of an image beside it: its bill of materials and its provenance, as artifacts about it."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from packageurl import PackageURL
from packaging.utils import parse_wheel_filename

from imagegen import debslock, dpkg, provenance, sbom
from imagegen.contents import Contents
from imagegen.debslock import Deb
from imagegen.licences import Licence, of_metadata
from imagegen.oci import Image
from imagegen.plan import ImagePlan
from imagegen.referrers import Referrer, make_referrer
from imagegen.rootfs import STATUS
from imagegen.sbom import Package
from imagegen.statements import CYCLONEDX, PREDICATE, PROVENANCE, STATEMENT
from mirror.config import BUILD_SUFFIX, TOOLS
from mirror.publish import metadata
from mirror.snapshot import Snapshot, Stocked, covers


def attest(
    plan: ImagePlan,
    snapshot: Snapshot,
    licences: Mapping[str, tuple[Licence, ...]],
    debs: Iterable[Deb],
    image: Image,
    contents: Contents,
) -> tuple[Referrer, ...]:
    """Give the evidence of an image that was made of a plan, unsigned. Equal input, equal bytes.

    `licences` are those of files by their sha256; `debs` are the packages of the base as debs.lock
    has them, none where nothing is locked.
    """
    packages = (*_stocked(plan, snapshot, licences, contents), *_seeds(contents), *_debian(debs, contents))
    bill = sbom.bill(plan, image.digest, packages)
    origin = provenance.provenance(plan, snapshot, image.digest, packages)
    return (
        make_referrer(image.subject, CYCLONEDX, bill, {}),
        make_referrer(image.subject, STATEMENT, origin, {PREDICATE: PROVENANCE}),
    )


def _stocked(
    plan: ImagePlan,
    snapshot: Snapshot,
    licences: Mapping[str, tuple[Licence, ...]],
    contents: Contents,
) -> Iterator[Package]:
    asked = _asked(plan, snapshot)
    for file in (*plan.present, *plan.npm):
        yield Package(
            purl=_purl(file),
            use=_use(plan, file),
            layer=contents.files[file.sha256],
            filename=file.filename,
            sha256=file.sha256,
            locks=asked.get(file.sha256, ()),
            licences=licences.get(file.sha256, ()),
        )


def _use(plan: ImagePlan, file: Stocked) -> str:
    if file in plan.npm:
        return "installed" if plan.node else "stocked"
    return "installed" if file in plan.install or not plan.wheels else "stocked"


def _asked(plan: ImagePlan, snapshot: Snapshot) -> Mapping[str, tuple[str, ...]]:
    """Say which locks chose a file for this image, by its sha256."""
    wanted = (*plan.locks, *(lock + BUILD_SUFFIX for lock in plan.locks), TOOLS)
    found: dict[str, tuple[str, ...]] = {}
    for selected in snapshot.selections:
        if selected.target == plan.target and any(covers(name, selected.lock) for name in wanted):
            for sha256 in selected.artifacts:
                found[sha256] = (*found.get(sha256, ()), selected.lock)
    return found


def _purl(file: Stocked) -> PackageURL:
    namespace, _, name = file.name.rpartition("/")
    return PackageURL(file.ecosystem, namespace or None, name, file.version)


def _seeds(contents: Contents) -> Iterator[Package]:
    """Give the wheels that the base's Python puts into every environment."""
    wheels = contents.root.wheels()
    with tempfile.TemporaryDirectory() as folder:
        for filename, layer in contents.seeds.items():
            name, version = parse_wheel_filename(filename)[:2]
            path = Path(folder, filename)
            path.write_bytes(wheels[filename])
            yield Package(
                purl=PackageURL("pypi", None, name, str(version)),
                use="installed",
                layer=layer,
                filename=filename,
                sha256=hashlib.sha256(wheels[filename]).hexdigest(),
                licences=of_metadata(metadata.read(path, filename) or {}),
            )


def _debian(debs: Iterable[Deb], contents: Contents) -> Iterator[Package]:
    locked = {(deb.name, deb.version, deb.architecture): deb for deb in debs}
    status = contents.root.files.get(STATUS)
    distribution, suite = contents.root.distribution
    for package in dpkg.installed(status.content.decode(errors="replace")) if status else ():
        qualifiers = {"arch": package.architecture, "distro": suite}
        deb = locked.get((package.name, package.version, package.architecture))
        yield Package(
            purl=PackageURL("deb", distribution, package.name, package.version, qualifiers),
            use="base",
            layer=contents.base,
            filename=deb.file if deb else "",
            sha256=deb.sha256 if deb else "",
            locks=(debslock.NAME,) if deb else (),
        )
