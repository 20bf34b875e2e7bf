"""robustkit: what happens to an image codec when bits flip? A conformance kit for pytest.

Importing this package imports neither torch nor any codec.
"""

from robustkit.codec import Codec, DecodeError, DecoderFailed, EncodeError, Image, Layout, Region
from robustkit.errors import RobustkitError
from robustkit.outcome import Outcome
from robustkit.patterns import ErrorPattern
from robustkit.profile import Profile, ProfileError, Promise
from robustkit.registry import (
    CodecSpec,
    CodecUnavailable,
    DuplicateCodec,
    Registry,
    UnknownCodec,
    load_codec,
    register,
    registry,
)

__version__ = "0.1.0"

__all__ = [
    "Codec",
    "CodecSpec",
    "CodecUnavailable",
    "DecodeError",
    "DecoderFailed",
    "DuplicateCodec",
    "EncodeError",
    "ErrorPattern",
    "Image",
    "Layout",
    "Outcome",
    "Profile",
    "ProfileError",
    "Promise",
    "Region",
    "Registry",
    "RobustkitError",
    "UnknownCodec",
    "__version__",
    "load_codec",
    "register",
    "registry",
]
