"""The golden check: a codec's reconstructions beside those that somebody looked at, or recorded anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

import robustkit
from robustkit import images
from robustkit.codec import Image
from robustkit.isolation import CodecWorkers, Decoded
from robustkit.judging import golden_files
from robustkit.judging.subject import CleanRoundTripFailed, Subject, slug
from robustkit.plugin.claim import Claim
from robustkit.registry import registry
from robustkit.spelling import place

#: robustkit's own golden files, in the wheel as in a checkout.
SHIPPED = Path(robustkit.__file__).parent / "golden"
#: Codecs whose files nobody has recorded on a device yet, for want of one.
UNRECORDED = frozenset({("robust-turbo-ddcm", "cuda")})


class GoldenCheck:
    """The golden reconstructions of one codec, on one device class.

    Args:
        codec: under test.
        given: the folder that the user named, if any.
        command: the command that records its golden files.
        updating: whether to record them anew.
        report_dir: where pictures of what differs go.
    """

    def __init__(self, codec: Subject, *, given: Path | None, command: str, updating: bool, report_dir: Path) -> None:
        self.codec = codec
        self.command = command
        self.updating = updating
        self.report_dir = Path(place(report_dir))
        self.given = given
        self.path = golden_files.folder(Path(place(given or SHIPPED)), codec.own_name, codec.device)
        self.settings = {k: v for k, v in codec.spec.settings.items() if k != "device"}
        # Decided by where the class is: a codec of somebody else's may have the same name.
        self.shipped = any(
            e.name == codec.own_name and e.origin == "robustkit" and e.target.same_as(codec.spec.target)
            for e in registry
        )
        # Of its own codecs robustkit keeps files of those that make promises and always decode alike.
        self.kept = self.shipped and codec.workers.profile() is not None and not codec.known_defects
        self._pools: list[CodecWorkers] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in self._pools:
            pool.close()

    def check(self, claim: Claim) -> None:
        """Compare with the golden files; while updating, record them and fail."""
        photographs = images.photographs(golden_files.CROP)
        if self.updating:
            self._record(photographs)
        manifest = self._manifest()
        coder = self._coder()
        with ThreadPoolExecutor(len(self.codec.workers.pids)) as executor:
            streams = {id(photo): executor.submit(coder.encode, photo) for photo in photographs.values()}
            coder = replace(coder, encode=lambda photo: streams[id(photo)].result())
            mismatches = golden_files.compare(self.path, manifest, coder, photographs)
        count = sum(len(p.reconstructions) for p in manifest.photographs)
        numbers = {
            "photographs": float(len(manifest.photographs)),
            "reconstructions": float(count),
            "mismatches": float(len(mismatches)),
        }
        recorded = manifest.facts.get("device", "another device")
        if not mismatches:
            claim.kept(
                f"{len(manifest.photographs)} bitstreams, {count} reconstructions",
                (
                    "same bits"
                    if golden_files.same_device_class(manifest, coder)
                    else f"recorded on {recorded}: same length"
                )
                + f"; pixels within {manifest.tolerance.maximum:g}, {manifest.tolerance.mean:.3g} on average",
                numbers=numbers,
            )
            return
        report = self.report_dir / "golden" / slug(self.codec.name) / self.codec.device
        try:
            page = f"{golden_files.write_report(report, mismatches, codec=self.codec.name, device=self.codec.device)}"
        except OSError as error:
            page = f"no page could be written: {error}"
        why = []
        for mismatch in mismatches[:10]:
            shown = golden_files.picture(report, mismatch)
            why.append(f"{mismatch.file} {mismatch.what}" + (f"  {shown}" if shown.is_file() else ""))
        if len(mismatches) > 10:
            why.append(f"and {len(mismatches) - 10} more")
        why += self._changes(manifest)
        why += [f"all of them: {page}", f"if the change is meant: {self.command}"]
        last = self._replay(claim, mismatches[0], photographs)
        claim.broken(f"{len(mismatches)} golden files differ", "none", why=why, last=last, numbers=numbers)

    def check_orphans(self, claim: Claim) -> None:
        """Fail for files that the manifest does not name, and folders of no device."""
        manifest = self._manifest()
        stray = golden_files.orphans(self.path, manifest)
        stray += sorted(p for p in self.path.parent.iterdir() if p.name not in ("cpu", "cuda"))
        numbers = {"files": float(len(manifest.files())), "orphans": float(len(stray))}
        if stray:
            named = [str(p) for p in stray]
            said = f"{len(stray)} files that nothing compares"
            claim.broken(said, "none", why=[*named, "remove them"], numbers=numbers)
        else:
            claim.kept(f"{len(manifest.files())} files, all named in the manifest", "no orphan", numbers=numbers)

    def check_place(self) -> None:
        """Fail where nobody has said into which folder to record."""
        if not self.kept and self.given is None:
            pytest.fail(
                f"{self.codec.name}: say where its golden files live: --robustkit-golden-dir DIR", pytrace=False
            )

    def _record(self, photographs: Mapping[str, Image]) -> None:
        self.check_place()
        try:
            golden_files.record(self.path, self._coder(repeats=True), photographs)
        except golden_files.GoldenError as error:
            pytest.fail(f"{self.codec.name}: nothing recorded: {error}", pytrace=False)
        pytest.fail(f"golden rewritten in {self.path}: review and run again", pytrace=False)

    def _manifest(self) -> golden_files.Manifest:
        if not self.path.is_dir() or not (self.shipped or self.given):
            name, device = self.codec.own_name, self.codec.device
            if self.kept and self.given is None and (name, device) in UNRECORDED:
                pytest.skip(f"no golden reconstructions of {name} on {device} yet; record them here: {self.command}")
            if self.kept:
                pytest.fail(f"missing golden: {self.path} is not there; record it: {self.command}", pytrace=False)
            where = "" if self.given else " --robustkit-golden-dir DIR"
            pytest.skip(f"no golden reconstructions of {self.codec.own_name}; record them: {self.command}{where}")
        try:
            manifest = golden_files.read(self.path)
        except golden_files.GoldenError as error:
            pytest.fail(f"missing golden: {error}; record it: {self.command}", pytrace=False)
        if manifest.settings != self.settings:
            given = ", ".join(f"{k}={v!r}" for k, v in manifest.settings.items()) or "the default settings"
            pytest.skip(f"the golden reconstructions are of {given}")
        return manifest

    def _coder(self, *, repeats: bool = False) -> golden_files.Coder:
        def batched(pool: CodecWorkers) -> golden_files.Decode:
            def decode(bitstreams: Sequence[bytes], *, shape: tuple[int, int]) -> list[Decoded]:
                return pool.decode_many(bitstreams, shape=shape)

            return decode

        def singly(pool: CodecWorkers) -> golden_files.Decode:
            def decode(bitstreams: Sequence[bytes], *, shape: tuple[int, int]) -> list[Decoded]:
                return [pool.decode(b, shape=shape) for b in bitstreams]

            return decode

        workers = self.codec.workers
        again: list[golden_files.Decode] = []
        if repeats:
            # Two workers share the cores, so that this pool's native threads split their sums another way.
            self._pools.append(self.codec.fresh_workers(workers=2))
            again = [singly(workers), singly(self._pools[-1]), batched(self._pools[-1])]
        return golden_files.Coder(
            codec=self.codec.own_name,
            device=self.codec.device,
            settings=self.settings,
            facts=dict(workers.describe()),
            encode=workers.encode,
            layout=workers.layout,
            decode=batched(workers),
            repeats=again,
        )

    def _changes(self, manifest: golden_files.Manifest) -> list[str]:
        """What the codec says of itself now, and did not when the files were recorded."""
        now = self.codec.workers.describe()
        return [
            f"recorded with {key} {manifest.facts.get(key, 'unknown')}, now {now.get(key, 'unknown')}"
            for key in sorted(manifest.facts.keys() | now.keys())
            if manifest.facts.get(key) != now.get(key)
        ]

    def _replay(self, claim: Claim, mismatch: golden_files.Mismatch, photographs: Mapping[str, Image]) -> str | None:
        if mismatch.photograph not in photographs:
            return None
        try:
            clean = self.codec.round_trip(mismatch.photograph, photographs[mismatch.photograph], measure=False)
            if mismatch.reconstruction is None:
                return claim.replay_clean(clean)
            return claim.replay_clean(clean, mismatch.reconstruction.error_pattern(clean.bits))
        except (CleanRoundTripFailed, ValueError):
            # The encoder has changed so much that the golden pattern fits its streams no longer.
            return None
