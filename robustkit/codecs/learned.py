"""compressai's learned codecs through their real rANS coder, as they are and hardened against damage."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch
import torch
import torch.nn.functional as F

from robustkit import extras
from robustkit.codec import Codec, DecodeError, EncodeError, Image, Layout
from robustkit.codecs.frame import IDENTITY_BYTES, Frame, check_fits, layout
from robustkit.profile import Profile, Promise
from robustkit.registry import CodecUnavailable

#: The weights that come with robustkit, trained by ``python -m robustkit.priors.train_hyperprior``.
SMALL = Path(__file__).parent.parent / "priors" / "hyperprior" / "model.safetensors"

#: Pixels that a step of the hyper-latent's grid spans, and steps of the latent's grid in it.
MULTIPLE = 64
LATENTS = 4
#: Largest magnitude of a quantised latent that hardened codecs code or believe. Those of photographs stay below 200.
LARGEST_LATENT = 1 << 12
#: A symbol takes at most 16 bits from the coder's state, and its escape code at most 16 nibbles of ones and the 240
#: that they announce: the state has 64 bits, and past a stream's end only zeros follow.
BYTES_A_SYMBOL = 2 + (16 + 240) // 2

#: How reading beyond a stream shows: a crash, or whatever lies there.
READS_BEYOND = ("crashed", "unstable", "decode.deterministic", "decode.batch-equals-single")
ISSUE = "https://github.com/InterDigitalInc/CompressAI/issues/300"
#: How a coder whose tables are chosen by floats shows, where another machine rounds them otherwise.
OUT_OF_STEP = ("decode.cross-platform", "decode.jitter")
OUT_OF_STEP_ISSUE = "https://github.com/InterDigitalInc/CompressAI/issues/279"
#: The parts of a model that choose the tables from side information.
_HYPER = ("h_s", "h_mean_s", "h_scale_s")


class CompressAI(Codec):
    """A model of compressai with its rANS coder, in a length-checked frame.

    compressai's coder has no end pointer: from a damaged stream it may read beyond its buffer and kill the process.
    With ``hardened`` zeros follow each stream, as many as all symbols can take; latents beyond ``LARGEST_LATENT`` are
    refused before the coder and clamped after it; and an image that is not finite is refused. What chooses the coder's
    tables from side information computes in float64, so that machines agree on them; an autoregressive model's context
    still does not.

    Args:
        quality: the zoo's, 1 to 8 (cheng2020: 1 to 6); 3 by default.
        metric: what the zoo's model was trained for, ``"mse"`` or ``"ms-ssim"``.
        weights: a file of weights (``.pth.tar``, ``.pth``, ``.safetensors``), or ``"hub"``, which downloads the
            zoo's. By default the zoo's file where torch's hub keeps it, and nothing is downloaded.
        hardened: guard the coder.
        max_pixels: largest image, in pixels, that is encoded or decoded.
        device: a torch device.

    Raises:
        ValueError: a setting is out of range.
        CodecUnavailable: the weights are not there, or are not this model's; the message says where they go.
    """

    needs: ClassVar[str] = "the extra `learned`, and compressai's weights"
    family: ClassVar[str] = "learned"
    #: compressai's name of the model.
    architecture: ClassVar[str]
    qualities: ClassVar[range] = range(1, 9)
    #: Of float32 weights, for quality 3, in MB.
    megabytes: ClassVar[int]
    default_quality: ClassVar[int | None] = 3
    always_hardened: ClassVar[bool] = False
    #: Whether an autoregressive context chooses the coder's tables.
    chosen_by_context: ClassVar[bool] = False
    promises: ClassVar[Profile | None] = None
    #: The guard changes no image that an undamaged stream gives.
    neutral_settings: ClassVar[frozenset[str]] = frozenset({"hardened", "max_pixels", "device"})
    known_defects: Mapping[str, str]  # type: ignore[misc]

    def __init__(
        self,
        *,
        quality: int | None = None,
        metric: str = "mse",
        weights: str | None = None,
        hardened: bool = False,
        max_pixels: int = 1 << 22,
        device: str = "cpu",
    ) -> None:
        self.profile = self.promised(self.promises)
        self.hardened = hardened or self.always_hardened
        known = {} if self.hardened else dict.fromkeys(READS_BEYOND, ISSUE)
        if self.chosen_by_context or not self.hardened:
            known |= dict.fromkeys(OUT_OF_STEP, OUT_OF_STEP_ISSUE)
        self.known_defects = known
        self.max_pixels = max_pixels
        self.device = torch.device(device)
        self.quality = self.default_quality if quality is None else quality
        self.metric = metric
        self._check_choice(self.quality, metric)
        path = self._find(self.quality, metric, weights)
        self.weights = path.name
        self.weight_files = (path,)
        state = _read(path)
        self.identity = hashlib.sha256(self.architecture.encode() + _digest(path)).digest()[:IDENTITY_BYTES]
        try:
            self.model: Any = _models()[self.architecture].from_state_dict(state)
        except (KeyError, RuntimeError, IndexError, ValueError) as error:
            raise CodecUnavailable(f"{path} does not hold weights of {self.architecture}: {error}") from error
        self.model.eval().requires_grad_(False)
        self.model.update()
        self.model.to(self.device)
        if self.hardened:
            for module in self.model.modules():
                if hasattr(module, "entropy_coder"):
                    module.entropy_coder = GuardedCoder(module.entropy_coder)
            for name in _HYPER:
                if hasattr(self.model, name):
                    medians = self.model.entropy_bottleneck._get_medians()
                    setattr(self.model, name, InDouble(getattr(self.model, name), medians))
        with torch.inference_mode(), self._coder(1):
            told = self.model.compress(torch.zeros(1, 3, MULTIPLE, MULTIPLE, device=self.device))
        #: The shape that ``decompress`` wants for an image of one step of the grid, and how many strings.
        self._shape, self._strings = told["shape"], len(told["strings"])

    # -- weights ----------------------------------------------------------------------------------------------

    @classmethod
    def _check_choice(cls, quality: int | None, metric: str) -> None:
        if quality not in cls.qualities:
            raise ValueError(
                f"quality = {quality!r}: give a whole number from {cls.qualities[0]} to {cls.qualities[-1]}"
            )
        if metric not in ("mse", "ms-ssim"):
            raise ValueError(f"metric = {metric!r}: give mse or ms-ssim")

    @classmethod
    def _address(cls, quality: int | None, metric: str) -> str | None:
        """Where the zoo's weights are on the net, or ``None`` where the zoo has none."""
        address: str | None = (
            quietly("compressai.zoo.image").model_urls.get(cls.architecture, {}).get(metric, {}).get(quality)
        )
        return address

    @classmethod
    def _cached(cls, address: str) -> Path:
        return Path(torch.hub.get_dir()) / "checkpoints" / address.rpartition("/")[2]

    @classmethod
    def _find(cls, quality: int | None, metric: str, weights: str | None) -> Path:
        address = cls._address(quality, metric)
        if weights not in (None, "hub"):
            path = Path(str(weights)).expanduser()
        elif address is None:
            raise CodecUnavailable(cls._where(quality, metric))
        else:
            path = cls._cached(address)
            if weights == "hub" and not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(address, str(path), progress=True)
        if not path.is_file():
            raise CodecUnavailable(f"{path} is not there: {cls._where(quality, metric)}")
        return path

    @classmethod
    def _where(cls, quality: int | None, metric: str) -> str:
        """How to get the weights."""
        address = cls._address(quality, metric)
        if address is None:
            return (
                f"compressai's zoo has no weights of {cls.architecture}: give a file of about {cls.megabytes} MB, "
                "--set weights=PATH"
            )
        path = cls._cached(address)
        return (
            f"put {path.name} (about {cls.megabytes} MB, from {address}) into {path.parent}, or give a file, "
            "--set weights=PATH, or let it be downloaded, --set weights=hub"
        )

    @classmethod
    def missing(cls, **settings: Any) -> str | None:
        """compressai is an extra, and the zoo's weights are not part of it."""
        if lacking := extras.missing("compressai"):
            return lacking
        if settings.get("weights") is not None:
            return None
        quality, metric = settings.get("quality", cls.default_quality), settings.get("metric", "mse")
        address = cls._address(quality, metric)
        return None if address is not None and cls._cached(address).is_file() else cls._where(quality, metric)

    # -- coding -----------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode(self, image: Image) -> bytes:
        """Compress ``image`` (uint8, H x W x 3), padded by repetition of its edge to multiples of 64.

        Raises:
            EncodeError: another dtype or shape, a side above 65535, or more than ``max_pixels``.
        """
        check_fits(image, self.max_pixels)
        height, width = image.shape[:2]
        pixels = torch.tensor(image, device=self.device).permute(2, 0, 1)[None].to(torch.float32) / 255
        padded = F.pad(pixels, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
        with self._coder(padded.shape[2] * padded.shape[3] // MULTIPLE**2):
            strings = self.model.compress(padded)["strings"]
        return Frame(self.identity, height, width, tuple(parts[0] for parts in strings)).pack()

    @torch.inference_mode()
    def decode(self, bitstream: bytes) -> Image:
        """Reconstruct an image, uint8, H x W x 3.

        Raises:
            DecodeError: a damaged header, other weights, wrong lengths; if ``hardened``, values that are not finite.
        """
        writer = f"{self.name} with {self.weights}"
        frame = Frame.unpack(bitstream, identity=self.identity, writer=writer, max_pixels=self.max_pixels)
        if len(frame.parts) != self._strings:
            raise DecodeError(f"{len(frame.parts)} parts, {self.name} writes {self._strings}")
        rows, columns = -(-frame.height // MULTIPLE), -(-frame.width // MULTIPLE)
        with self._coder(rows * columns):
            strings = [[part] for part in frame.parts]
            decoded = self.model.decompress(strings, _scaled(self._shape, rows, columns))["x_hat"]
        if self.hardened and not bool(torch.isfinite(decoded).all()):
            raise DecodeError("the decoded image is not finite: the stream is damaged")
        pixels = decoded[0, :, : frame.height, : frame.width].clamp(0, 1).mul(255).round().to(torch.uint8)
        image: Image = pixels.permute(1, 2, 0).contiguous().cpu().numpy()
        return image

    @contextmanager
    def _coder(self, squares: int) -> Iterator[None]:
        """compressai's warnings off and, if hardened, its autoregressive models' coder guarded.

        Args:
            squares: of 64x64 pixels in the image.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not self.hardened:
                yield
                return
            # These models make their coders themselves; all others have them in their entropy models.
            google = quietly("compressai.models.google")
            before = google.RansDecoder, google.BufferedRansEncoder
            symbols = squares * LATENTS**2 * int(getattr(self.model, "M", 0))
            google.RansDecoder = lambda: GuardedCoder(before[0](), symbols)
            google.BufferedRansEncoder = lambda: GuardedCoder(before[1]())
            try:
                yield
            finally:
                google.RansDecoder, google.BufferedRansEncoder = before

    def layout(self, bitstream: bytes) -> Layout:
        """Name the frame's fields and the strings of the latent and the hyper-latent. Takes any bytes."""
        names = ("y", "z") if self._strings == 2 else tuple(f"string {i}" for i in range(self._strings))
        return layout(bitstream, names)

    def describe(self) -> Mapping[str, str]:
        """Versions of compressai and torch, the device, the weights and the settings."""
        where = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        if self.device.type == "cpu":
            # Both decide in which order sums are added up, and so, now and then, how a latent is rounded.
            where += f" ({torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads)"
        chosen = "" if self.default_quality is None else f"quality={self.quality} metric={self.metric} "
        return {
            "compressai": importlib.metadata.version("compressai"),
            "torch": torch.__version__,
            "device": where,
            "weights": f"{self.weights} {self.identity.hex()}",
            "settings": f"{chosen}hardened={str(self.hardened).lower()}",
        }


class InDouble(torch.nn.Module):
    """A module that takes and gives float32, and computes in float64.

    Machines differ there by a billionth of what they do in float32, and so give the same float32, but for one value in
    some ten million. What it takes are whole numbers beside the medians of their channels, and is made so again: a sum
    in float32 that is off in its last place would move float64 by far more than that.

    Args:
        module: of float32; it is changed.
        medians: of the entropy bottleneck, channels x 1 x 1.
    """

    medians: torch.Tensor

    def __init__(self, module: torch.nn.Module, medians: torch.Tensor) -> None:
        super().__init__()
        self.module = module.double()
        self.register_buffer("medians", medians.detach().double(), persistent=False)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        exact = (numbers.double() - self.medians).round() + self.medians
        found: torch.Tensor = self.module(exact)
        return found.float()


class GuardedCoder:
    """compressai's rANS coder with room to read behind a stream, and with bounded symbols.

    Args:
        coder: what it guards.
        symbols: how many are decoded from one stream, where ``decode_stream`` takes it in pieces.
    """

    def __init__(self, coder: Any, symbols: int = 0) -> None:
        self._coder, self._symbols = coder, symbols

    def encode_with_indexes(self, symbols: Any, *tables: Any) -> Any:
        if symbols and not max(map(abs, symbols)) <= LARGEST_LATENT:
            raise EncodeError(f"a latent of this image exceeds {LARGEST_LATENT}, which hardened codecs don't code")
        return self._coder.encode_with_indexes(symbols, *tables)

    def flush(self) -> Any:
        return self._coder.flush()

    def decode_with_indexes(self, stream: bytes, indexes: Any, *tables: Any) -> list[int]:
        return _bounded(self._coder.decode_with_indexes(_with_room(stream, len(indexes)), indexes, *tables))

    def set_stream(self, stream: bytes) -> None:
        self._coder.set_stream(_with_room(stream, self._symbols))

    def decode_stream(self, *tables: Any) -> list[int]:
        return _bounded(self._coder.decode_stream(*tables))


def _with_room(stream: bytes, symbols: int) -> bytes:
    # The first eight bytes start the coder's state.
    return stream + bytes(8 + symbols * BYTES_A_SYMBOL)


def _bounded(symbols: Iterable[int]) -> list[int]:
    return [max(-LARGEST_LATENT, min(LARGEST_LATENT, symbol)) for symbol in symbols]


def _scaled(shape: Any, rows: int, columns: int) -> Any:
    """What ``decompress`` is told of the latents' sizes, from that of an image of one square."""
    if isinstance(shape, Mapping):
        return {name: _scaled(inner, rows, columns) for name, inner in shape.items()}
    if isinstance(shape, list):
        return [_scaled(inner, rows, columns) for inner in shape]
    *channels, height, width = shape
    return torch.Size([*channels, rows * height, columns * width])


def _models() -> Mapping[str, Any]:
    """compressai's models by their names."""
    quietly("compressai.models")
    found: Mapping[str, Any] = quietly("compressai.registry").MODELS
    return found


def quietly(module: str) -> Any:
    """Import a module of compressai's without its warnings, which are about torch's future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)


def _read(path: Path) -> dict[str, torch.Tensor]:
    """A model's weights, in float32.

    Raises:
        CodecUnavailable: the file can't be read, or holds no weights. Pickled code in it is refused, not run.
    """
    try:
        if path.suffix == ".safetensors":
            found = safetensors.torch.load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
            found = found.get("state_dict", found)
        state: dict[str, torch.Tensor] = quietly("compressai.zoo.pretrained").load_pretrained(found)
        return {name: v.float() if v.is_floating_point() else v for name, v in state.items()}
    except Exception as error:  # whatever a damaged archive makes torch or safetensors raise
        raise CodecUnavailable(f"{path} holds no weights that can be read: {type(error).__name__}: {error}") from error


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


class FactorizedPrior(CompressAI):
    """The factorised prior of Ballé et al. 2018 (arXiv 1802.01436)."""

    name: ClassVar[str] = "bmshj2018-factorized"
    architecture: ClassVar[str] = "bmshj2018-factorized"
    megabytes: ClassVar[int] = 12


class ScaleHyperprior(CompressAI):
    """The scale hyperprior of Ballé et al. 2018 (arXiv 1802.01436)."""

    name: ClassVar[str] = "bmshj2018-hyperprior"
    architecture: ClassVar[str] = "bmshj2018-hyperprior"
    megabytes: ClassVar[int] = 20


class MeanScaleHyperprior(CompressAI):
    """The mean-and-scale hyperprior of Minnen et al. 2018 (arXiv 1809.02736)."""

    name: ClassVar[str] = "mbt2018-mean"
    architecture: ClassVar[str] = "mbt2018-mean"
    megabytes: ClassVar[int] = 28


class JointAutoregressive(CompressAI):
    """The autoregressive and hierarchical prior of Minnen et al. 2018 (arXiv 1809.02736)."""

    name: ClassVar[str] = "mbt2018"
    chosen_by_context: ClassVar[bool] = True
    architecture: ClassVar[str] = "mbt2018"
    megabytes: ClassVar[int] = 57


class Cheng2020Anchor(CompressAI):
    """Cheng et al. 2020 (arXiv 2001.01568), without attention."""

    name: ClassVar[str] = "cheng2020-anchor"
    chosen_by_context: ClassVar[bool] = True
    architecture: ClassVar[str] = "cheng2020-anchor"
    qualities: ClassVar[range] = range(1, 7)
    megabytes: ClassVar[int] = 47


class Cheng2020Attention(CompressAI):
    """Cheng et al. 2020 (arXiv 2001.01568), with attention."""

    name: ClassVar[str] = "cheng2020-attn"
    chosen_by_context: ClassVar[bool] = True
    architecture: ClassVar[str] = "cheng2020-attn"
    qualities: ClassVar[range] = range(1, 7)
    megabytes: ClassVar[int] = 53


class Elic2022(CompressAI):
    """ELIC, He et al. 2022 (arXiv 2203.10886), as compressai has it. Its zoo has no weights."""

    name: ClassVar[str] = "elic2022"
    chosen_by_context: ClassVar[bool] = True
    architecture: ClassVar[str] = "elic2022-official"
    megabytes: ClassVar[int] = 142


class SmallHyperprior(CompressAI):
    """A small mean-and-scale hyperprior (arXiv 1809.02736), trained by robustkit: a learned codec without a download.

    Args:
        weights: another file of ``python -m robustkit.priors.train_hyperprior``.
        hardened, max_pixels, device: as :class:`CompressAI`.
    """

    needs: ClassVar[str] = "the extra `learned`"
    name: ClassVar[str] = "hyperprior-small"
    architecture: ClassVar[str] = "mbt2018-mean"
    default_quality: ClassVar[int | None] = None
    megabytes: ClassVar[int] = 4
    #: Measured with ``robustkit measure --codec hyperprior-small --seed 2 --trials 100``; the loss no tighter than the
    #: hardened one's, since it is another in each process.
    promises: ClassVar[Profile | None] = Profile(
        bpp=0.452,
        quality=29.6,
        refused=0.185,
        expected_refused=0.00333,
        # From more damage, nine images of ten are what lay in memory behind the stream: of those nothing is promised.
        promises=(
            Promise(
                "bsc(ber=1e-05)",
                mean_drop=8.5,
                p5_drop=28.5,
                corrupted=0.535,
                expected_mean_drop=0.00208,
                expected_corrupted=0.24,
            ),
        ),
    )

    def __init__(
        self,
        *,
        weights: str | None = None,
        hardened: bool = False,
        max_pixels: int = 1 << 22,
        device: str = "cpu",
    ) -> None:
        super().__init__(weights=weights, hardened=hardened, max_pixels=max_pixels, device=device)

    @classmethod
    def _check_choice(cls, quality: int | None, metric: str) -> None:
        """There is one quality."""

    @classmethod
    def _find(cls, quality: int | None, metric: str, weights: str | None) -> Path:
        path = SMALL if weights is None else Path(weights).expanduser()
        if not path.is_file():
            raise CodecUnavailable(f"{path} is not there: give a file of robustkit.priors.train_hyperprior")
        return path

    @classmethod
    def missing(cls, **settings: Any) -> str | None:
        """compressai is an extra."""
        return extras.missing("compressai")


class HardenedSmallHyperprior(SmallHyperprior):
    """The small hyperprior with compressai's coder guarded: damage ends in an image or a refusal."""

    name: ClassVar[str] = "hyperprior-small-hardened"
    always_hardened: ClassVar[bool] = True
    #: Measured with ``robustkit measure --codec hyperprior-small-hardened --seed 2 --trials 100``, and slackened
    #: where other trials would miss a limit in one of a hundred runs.
    promises: ClassVar[Profile | None] = Profile(
        bpp=0.452,
        quality=29.6,
        refused=0.14,
        expected_refused=0.0517,
        promises=(
            Promise(
                "bsc(ber=1e-05)",
                mean_drop=8.5,
                p5_drop=28.5,
                corrupted=0.085,
                expected_mean_drop=3.71,
                expected_p5_drop=18.0,
                expected_corrupted=0.0,
            ),
            Promise(
                "bsc(ber=0.0001)",
                mean_drop=18.0,
                p5_drop=22.5,
                corrupted=0.15,
                expected_mean_drop=14.5,
                expected_p5_drop=20.6,
                expected_corrupted=0.02,
            ),
            Promise(
                "bsc(ber=0.001)",
                mean_drop=22.0,
                p5_drop=27.5,
                corrupted=0.48,
                expected_mean_drop=19.2,
                expected_corrupted=0.175,
            ),
            Promise(
                "burst(length=32)",
                mean_drop=16.0,
                p5_drop=21.5,
                corrupted=0.145,
                expected_mean_drop=13.1,
                expected_p5_drop=19.6,
                expected_corrupted=0.0117,
            ),
        ),
    )
