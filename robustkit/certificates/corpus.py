"""The corpus of a certificate: which images, channels and seeds were tried, fixed before anything runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from robustkit.certificates.model import Corpus
from robustkit.isolation import fingerprint
from robustkit.judging.subject import Subject


def definition(images: Mapping[str, str], channels: Sequence[str], seed: int, rounds: int) -> dict[str, object]:
    """What a corpus is, and nothing that a run found: two runs of one corpus have one definition.

    Args:
        images: by name, the digests of their pixels.
        channels: canonical spellings, in the profile's order.
        seed: of the trials.
        rounds: trials of each image and channel, at the most.
    """
    return {"images": dict(sorted(images.items())), "channels": list(channels), "seed": seed, "rounds": rounds}


def digest(found: Mapping[str, object]) -> str:
    """SHA-256 of a definition, in hexadecimal. Its JSON is canonical, as it has text and whole numbers alone."""
    text = json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def of_subject(subject: Subject) -> dict[str, object]:
    """The definition of what a codec's run tries; nothing is encoded for this."""
    promises = () if subject.profile is None else subject.profile.promises
    images = {name: fingerprint(image) for name, image in subject.images.items()}
    return definition(images, [str(p.channel) for p in promises], subject.seed, subject.trials_per_image)


def digest_of(corpus: Corpus) -> str:
    """The digest that a certificate's corpus must have, by what it says of itself."""
    images = {image.name: image.sha256 for image in corpus.images}
    return digest(definition(images, corpus.channels, corpus.seed, corpus.rounds))
