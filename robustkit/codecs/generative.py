"""Generative codecs through their authors' own code: a checkout and weights that the user points to.

Each adapter calls the published functions, and writes what they return into robustkit's length-checked frame, where
the authors pickle it or leave it open. What they raise at a damaged stream is theirs: it is an outcome, not a refusal.
Their dependencies clash with one another's and with newer ones, so a worker may run under another interpreter:
``python`` in a codec file.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import logging
import math
import pickle
import sys
import types
import zlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustkit.codec import Codec, DecodeError, EncodeError, Image, Layout
from robustkit.codecs.frame import IDENTITY_BYTES, Frame, check_fits, layout
from robustkit.codecs.learned import GuardedCoder, quietly
from robustkit.registry import CodecUnavailable

#: Files of weights are told apart by this much of each end: hashing gigabytes would take longer than loading them.
_ENDS = 1 << 20


class OfficialCode(Codec):
    """A codec whose code is a checkout of its authors' repository.

    Args:
        checkout: the folder that holds the checkout.
        weights: file of weights; what and where from is in the message that asks for it.
        device: a torch device.
        max_pixels: largest image, in pixels, that is encoded or decoded.
        trust_weights: unpickle whatever the file of weights holds, which may run code, where tensors alone don't load.

    Raises:
        CodecUnavailable: the checkout, a file, or a package that it imports is missing, or it does not load.
    """

    needs: ClassVar[str] = "a checkout, weights, and what it imports"
    family: ClassVar[str] = "generative"
    #: Address of the repository, and the commit that its signatures were read at.
    repository: ClassVar[str]
    commit: ClassVar[str]
    #: What files ``weights`` may be, and where they are found.
    files: ClassVar[str]
    #: Settings that must name a file or folder, with what belongs there; ``files`` for ``weights``.
    places: ClassVar[Mapping[str, str]] = {}
    #: Packages, by the name they are imported by, that the coding functions use beyond torch and NumPy.
    packages: ClassVar[tuple[str, ...]] = ()
    #: Folders within the checkout that its modules are imported from.
    roots: ClassVar[tuple[str, ...]] = ("",)
    parts: ClassVar[tuple[str, ...]]
    #: Shortest side that the network takes, in pixels.
    smallest_side: ClassVar[int] = 1

    def __init__(
        self,
        *,
        checkout: str | None = None,
        weights: str | None = None,
        device: str = "cpu",
        max_pixels: int = 1 << 22,
        trust_weights: bool = False,
        **places: str,
    ) -> None:
        if lacking := self.missing(checkout=checkout, weights=weights, **places):
            raise CodecUnavailable(f"codec {self.name!r} can't run here: {lacking}")
        assert checkout is not None
        assert weights is not None
        self.checkout, self.weights = Path(checkout).expanduser().absolute(), Path(weights).expanduser().absolute()
        self.others = {name: Path(path).expanduser().absolute() for name, path in places.items()}
        self.device, self.max_pixels, self.trusting = torch.device(device), max_pixels, trust_weights
        self.identity = hashlib.sha256(self.name.encode() + _ends(self.weights)).digest()[:IDENTITY_BYTES]
        sys.path[:0] = [str(self.checkout / root) for root in self.roots]
        try:
            with contextlib.redirect_stdout(sys.stderr):
                self._load()
        except CodecUnavailable:
            raise
        except Exception as error:  # whatever other people's code raises
            raise CodecUnavailable(
                f"codec {self.name!r} can't be loaded from {self.checkout} with {self.weights}: "
                f"{type(error).__name__}: {error} (its signatures were read at {self.repository} {self.commit}; "
                "a worker of another interpreter: python = PATH in a codec file)"
            ) from error

    @classmethod
    def missing(cls, **settings: Any) -> str | None:
        """The checkout, the weights, then the packages that are not there."""
        checkout = settings.get("checkout")
        if checkout is None:
            return f"git clone {cls.repository}, give it with --set checkout=FOLDER; and {cls._wanted('weights')}"
        folder = Path(checkout).expanduser()
        if not folder.is_dir():
            return f"checkout = {checkout!r} is no folder: git clone {cls.repository}"
        for place in ("weights", *cls.places):
            given = settings.get(place)
            if given is None:
                return cls._wanted(place)
            if not Path(given).expanduser().exists():
                return f"{place} = {given!r} is not there: {cls._wanted(place)}"
        absent = [name for name in cls.packages if importlib.util.find_spec(name) is None]
        return f"the checkout imports {', '.join(absent)}: install them" if absent else None

    @classmethod
    def _wanted(cls, place: str) -> str:
        what = cls.files if place == "weights" else cls.places[place]
        return f"give {what}, --set {place}=PATH"

    def _saved(self) -> Any:
        """What the file of weights holds.

        Raises:
            CodecUnavailable: more than tensors and plain values, and it is not trusted.
        """
        try:
            return torch.load(self.weights, map_location="cpu", weights_only=not self.trusting)
        except pickle.UnpicklingError as error:
            raise CodecUnavailable(
                f"{self.weights} holds more than tensors and plain values; if you trust it, --set trust_weights=true: "
                f"{str(error).splitlines()[0]}"
            ) from error

    # -- what each codec does -----------------------------------------------------------------------------------

    @abstractmethod
    def _load(self) -> None:
        """Import from the checkout and build the model."""

    @abstractmethod
    def _compress(self, pixels: Tensor) -> Sequence[bytes]:
        """The parts of ``pixels``, float32 ``(1, 3, H, W)`` in [0, 1]."""

    @abstractmethod
    def _decompress(self, frame: Frame) -> Tensor:
        """Float ``(1, 3, >= H, >= W)`` in [0, 1].

        Raises:
            DecodeError: a part has a length that can't be.
        """

    # -- coding -------------------------------------------------------------------------------------------------

    def encode(self, image: Image) -> bytes:
        """Compress ``image`` (uint8, H x W x 3).

        Raises:
            EncodeError: another dtype or shape, too large, or a side too short for the network.
        """
        check_fits(image, self.max_pixels)
        height, width = image.shape[:2]
        if min(height, width) < self.smallest_side:
            raise EncodeError(f"{width}x{height}: {self.name} takes sides of {self.smallest_side} pixels or more")
        pixels = torch.tensor(image, device=self.device).permute(2, 0, 1)[None].to(torch.float32) / 255
        with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
            parts = tuple(bytes(part) for part in self._compress(pixels))
        return Frame(self.identity, height, width, parts).pack()

    def decode(self, bitstream: bytes) -> Image:
        """Reconstruct an image, uint8, H x W x 3.

        Raises:
            DecodeError: a damaged header, other weights, wrong lengths, or values that are not finite.
        """
        writer = f"{self.name} with {self.weights.name}"
        frame = Frame.unpack(bitstream, identity=self.identity, writer=writer, max_pixels=self.max_pixels)
        if len(frame.parts) != len(self.parts):
            raise DecodeError(f"{len(frame.parts)} parts, {self.name} writes {len(self.parts)}")
        with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
            decoded = self._decompress(frame)[0, :, : frame.height, : frame.width].float()
        if not bool(torch.isfinite(decoded).all()):
            raise DecodeError("the decoded image is not finite")
        pixels = decoded.clamp(0, 1).mul(255).round().to(torch.uint8)
        image: Image = pixels.permute(1, 2, 0).contiguous().cpu().numpy()
        return image

    def layout(self, bitstream: bytes) -> Layout:
        """Name the frame's fields and the parts. Takes any bytes."""
        return layout(bitstream, self.parts)

    def describe(self) -> Mapping[str, str]:
        """The checkout and weights, torch, and the device."""
        where = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        return {
            "checkout": str(self.checkout),
            "weights": f"{self.weights.name} {self.identity.hex()}",
            "torch": torch.__version__,
            "device": f"{where} ({torch.get_num_threads()} threads)" if self.device.type == "cpu" else where,
        }


class MsIllm(OfficialCode):
    """MS-ILLM (Muckley et al. 2023, arXiv 2301.11189): ``HiFiCAutoencoder`` of NeuralCompression.

    compressai's coder is beneath, so damage may crash it: see :class:`robustkit.codecs.learned.CompressAI`.
    """

    name: ClassVar[str] = "ms-illm"
    repository: ClassVar[str] = "https://github.com/facebookresearch/NeuralCompression"
    commit: ClassVar[str] = "3f122808"
    files: ClassVar[str] = (
        "msillm_target_{R}bpp.ckpt (about 726 MB) from "
        "https://dl.fbaipublicfiles.com/NeuralCompression/2023-muckley-msillm/, R one of 0.035, 0.07, 0.14, 0.3, 0.45, "
        "0.9 (torch.hub's msillm_quality_1 to _6), 0.00218, 0.00438 (_vlo1, _vlo2)"
    )
    packages: ClassVar[tuple[str, ...]] = ("compressai",)
    parts: ClassVar[tuple[str, ...]] = ("latents", "hyper-latents")
    smallest_side: ClassVar[int] = 33

    def _load(self) -> None:
        # Imported by the package for training and counting, and by no function called here.
        _stub("fvcore", "fvcore.nn", "fvcore.nn.jit_handles", "lpips")
        models = importlib.import_module("neuralcompression.models")
        self.output: Any = importlib.import_module("neuralcompression").HyperpriorCompressedOutput
        self.model: Any = models.HiFiCAutoencoder()
        self.model.load_state_dict(self._saved())
        self.model.to(self.device).eval()
        self.model.update()
        self.on_cpu = self.device.type == "cpu"
        if not self.on_cpu:
            self.model.update_tensor_devices("compress")

    def _compress(self, pixels: Tensor) -> Sequence[bytes]:
        compressed = self.model.compress(pixels, force_cpu=self.on_cpu)
        return compressed.latent_strings[0], compressed.hyper_latent_strings[0]

    def _decompress(self, frame: Frame) -> Tensor:
        latents, hyper_latents = frame.parts
        size = (frame.height, frame.width)
        compressed = self.output(
            latent_strings=[latents],
            hyper_latent_strings=[hyper_latents],
            image_size=size,
            padded_size=tuple(_up(side, 64) for side in size),
        )
        decoded: Tensor = self.model.decompress(compressed, force_cpu=self.on_cpu)
        return decoded


class HiFiC(OfficialCode):
    """HiFiC (Mentzer et al. 2020, arXiv 2006.09965) in its PyTorch port.

    Its vectorised rANS coder flushes 64 bits a channel, 4,320 bytes an image; they count.
    """

    name: ClassVar[str] = "hific"
    repository: ClassVar[str] = "https://github.com/Justin-Tan/high-fidelity-generative-compression"
    commit: ClassVar[str] = "7d4e9e78"
    files: ClassVar[str] = (
        "hific_low.pt, hific_med.pt or hific_hi.pt (1.5 to 2 GB) from https://zenodo.org/records/4026003"
    )
    packages: ClassVar[tuple[str, ...]] = ("autograd", "skimage")
    parts: ClassVar[tuple[str, ...]] = ("hyper-latents", "latents")
    smallest_side: ClassVar[int] = 65

    def _load(self) -> None:
        # The perceptual loss would download a network that no function called here uses.
        loss = types.ModuleType("src.loss.perceptual_similarity.perceptual_loss")
        loss.PerceptualLoss = _Unused  # type: ignore[attr-defined]
        package = importlib.import_module("src.loss.perceptual_similarity")
        package.perceptual_loss = loss  # type: ignore[attr-defined]
        sys.modules[loss.__name__] = loss
        # And a module of metrics imports a name that scikit-image dropped.
        measure = importlib.import_module("skimage.measure")
        if not hasattr(measure, "compare_ssim"):
            measure.compare_ssim = None  # type: ignore[attr-defined]
        # Its coder mixes 32-bit arrays with a larger Python number, which NumPy 2 refuses.
        coder: Any = importlib.import_module("src.compression.ans")
        push = coder.push

        def wide(message: Any, starts: Any, frequencies: Any, precision: Any) -> Any:
            given = (np.asarray(part).astype(np.uint64) for part in (starts, frequencies))
            return push(message, *given, precision)

        coder.push = wide
        utils: Any = importlib.import_module("src.helpers.utils")
        saved = self._saved()
        arguments = utils.Struct(**saved["args"])
        arguments.ignore_schedule = True
        for name, value in (("use_latent_mixture_model", False), ("sample_noise", False), ("noise_dim", 0)):
            if not hasattr(arguments, name):
                setattr(arguments, name, value)
        model_module: Any = importlib.import_module("src.model")
        self.model: Any = model_module.Model(
            arguments, logging.getLogger("hific"), model_mode="evaluation", model_type=arguments.model_type
        )
        self.model.load_state_dict(saved["model_state_dict"], strict=False)
        self.model.to(self.device).eval()
        self.model.Hyperprior.hyperprior_entropy_model.build_tables()
        self.signed = bool(arguments.normalize_input_image)
        self.output: Any = importlib.import_module("src.compression.compression_utils").CompressionOutput
        with torch.no_grad():
            # What the coder is told of its channels does not depend on the image.
            self.example = self.model.compress(torch.zeros(1, 3, 128, 128, device=self.device), silent=True)

    def _compress(self, pixels: Tensor) -> Sequence[bytes]:
        given = pixels * 2 - 1 if self.signed else pixels
        compressed = self.model.compress(given, silent=True)
        words = (compressed.hyperlatents_encoded, compressed.latents_encoded)
        return [np.ascontiguousarray(part, dtype="<u4").tobytes() for part in words]

    def _decompress(self, frame: Frame) -> Tensor:
        if any(len(part) % 4 for part in frame.parts):
            raise DecodeError("the coder's parts are whole words of 32 bits")
        hyper_latents, latents = (np.frombuffer(part, "<u4").astype(np.uint32) for part in frame.parts)
        rows, columns = (_up(side, 64) // 64 for side in (frame.height, frame.width))
        decoded: Tensor = self.model.decompress(
            self.output(
                hyperlatents_encoded=hyper_latents,
                latents_encoded=latents,
                hyperlatent_spatial_shape=torch.Size((rows, columns)),
                batch_shape=1,
                spatial_shape=(frame.height, frame.width),
                hyper_coding_shape=self.example.hyper_coding_shape,
                latent_coding_shape=self.example.latent_coding_shape,
            )
        )
        return decoded


class StableCodec(OfficialCode):
    """StableCodec (Zhang et al. 2025, arXiv 2506.21977): one step of SD-Turbo. Its code runs on CUDA alone."""

    name: ClassVar[str] = "stablecodec"
    repository: ClassVar[str] = "https://github.com/LuizScarlet/StableCodec"
    commit: ClassVar[str] = "e7994cf5"
    files: ClassVar[str] = "stablecodec_ft{2,3,4,6,8,12,16,24,32}.pkl, from the repository's README"
    places: ClassVar[Mapping[str, str]] = {
        "elic": "elic_official.pth, from the repository's README",
        "sd_turbo": "the folder of stabilityai/sd-turbo, from the Hugging Face hub",
    }
    packages: ClassVar[tuple[str, ...]] = ("compressai", "diffusers", "einops", "peft", "transformers")
    roots: ClassVar[tuple[str, ...]] = ("src", "")
    parts: ClassVar[tuple[str, ...]] = ("y", "z")
    smallest_side: ClassVar[int] = 129
    #: The decoder needs the encoder's own words; they are not in the stream.
    prompt: ClassVar[str] = (
        "A high-resolution, 8K, ultra-realistic image with sharp focus, vibrant colors, and natural lighting."
    )

    def _load(self) -> None:
        arguments = types.SimpleNamespace(
            elic_path=str(self.others["elic"]),
            codec_path=str(self.weights),
            lora_rank_unet=32,
            lora_rank_vae=16,
            vae_decoder_tiled_size=160,
            vae_encoder_tiled_size=1024,
            latent_tiled_size=96,
            latent_tiled_overlap=32,
            lambda_rate=0.5,
            pos_prompt=self.prompt,
        )
        module: Any = importlib.import_module("StableCodec")
        self.model: Any = module.StableCodec(sd_path=str(self.others["sd_turbo"]), args=arguments)
        self.model.to(self.device).eval()
        self.model.codec.update(force=True)
        # Another release of compressai renames them, and the loader then leaves them out without a word.
        if not any("entropy_bottleneck._matrix0" in key for key in self.model.codec.state_dict()):
            raise CodecUnavailable("StableCodec's entropy model does not load with this compressai: install 1.2.6")

    def _compress(self, pixels: Tensor) -> Sequence[bytes]:
        height, width = pixels.shape[2:]
        padded = F.pad(pixels * 2 - 1, (0, -width % 256, 0, -height % 256), mode="reflect")
        strings = self.model.compress(padded)["strings"]
        return strings[0][0], strings[1][0]

    def _decompress(self, frame: Frame) -> Tensor:
        y, z = frame.parts
        shape = torch.Size([_up(side, 256) // 256 for side in (frame.height, frame.width)])
        decoded: Tensor = self.model.decompress([[y], [z]], shape, [1])
        return decoded * 0.5 + 0.5


class PerCo(OfficialCode):
    """PerCo (SD) (Koerber et al. 2024, arXiv 2409.20255): vector-quantised latents and a caption.

    Args:
        weights: the pipeline's folder.
        caption: for every image, in place of BLIP-2's, which is not run.
        rate: target_rate that the weights were trained for.
        steps: of the sampler.
    """

    name: ClassVar[str] = "perco"
    repository: ClassVar[str] = "https://github.com/Nikolai10/PerCo"
    commit: ClassVar[str] = "da3be394"
    files: ClassVar[str] = "the pipeline's folder (model_index.json and all its parts), from the repository's README"
    packages: ClassVar[tuple[str, ...]] = ("diffusers", "torchac", "transformers", "vector_quantize_pytorch")
    roots: ClassVar[tuple[str, ...]] = ("src",)
    parts: ClassVar[tuple[str, ...]] = ("caption", "latents")
    multiple: ClassVar[int] = 64

    def __init__(self, *, caption: str = "", rate: float = 0.1250, steps: int = 20, **settings: Any) -> None:
        self.caption, self.rate, self.steps = caption, rate, steps
        super().__init__(**settings)

    def _load(self) -> None:
        _stub("absl", "absl.app", "absl.flags", "cleanfid", "torchmetrics", "torchmetrics.image")
        self.config: Any = importlib.import_module("config").ConfigPerco
        self.config.global_path = str(self.checkout / "src")
        self.config.target_rate = self.rate
        # The pipeline's parts are found by these modules' names, so they come first.
        importlib.import_module("hyper_encoder")
        importlib.import_module("unet_2d_perco")
        pipeline: Any = importlib.import_module("pipeline_sd_perco").StableDiffusionPipelinePerco
        self.model: Any = pipeline.from_pretrained(
            str(self.weights), safety_checker=None, requires_safety_checker=False, low_cpu_mem_usage=False
        ).to(self.device)
        self.model.hyper_enc.quantizer.eval()
        self.coder: Any = importlib.import_module("compression_utils")

    def _compress(self, pixels: Tensor) -> Sequence[bytes]:
        height, width = pixels.shape[2:]
        padded = F.pad(pixels * 2 - 1, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        # Upstream samples the latent unseeded; its mode makes the encoder deterministic.
        latents = self.model.vae.encode(padded).latent_dist.mode() * self.model.vae.config.scaling_factor
        indices = self.model.hyper_enc(latents).indices
        return zlib.compress(self.caption.encode(), 9), self.coder.compress_hyper_latent(indices)

    def _decompress(self, frame: Frame) -> Tensor:
        packed, latents = frame.parts
        unzip = zlib.decompressobj()
        try:
            # A damaged caption may unpack to gigabytes.
            caption = unzip.decompress(packed, _LONGEST_CAPTION).decode()
        except (zlib.error, UnicodeDecodeError) as error:
            raise DecodeError(f"the caption is damaged: {error}") from error
        height, width = (_up(side, self.multiple) for side in (frame.height, frame.width))
        indices = self.coder.decompress_hyper_latent(latents, (height, width)).to(self.device)
        features = self.model.hyper_enc.quantizer.get_output_from_indices(indices.long()).permute(0, 3, 1, 2)
        image = self.model(
            caption,
            features,
            height=height,
            width=width,
            num_inference_steps=self.steps,
            guidance_scale=self.config.guidance_scale,
            generator=torch.Generator(device=self.device).manual_seed(self.config.random_seed),
        ).images[0]
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


class CDC(OfficialCode):
    """CDC (Yang and Mandt 2023, arXiv 2209.06950), x-parametrisation. Its authors wrote no bitstream.

    They report the rate that their entropy model promises. The coder is ours: compressai's rANS, guarded, under
    that entropy model's tables.

    Args:
        steps: of the sampler.
        seed: of the sampler's first noise.
    """

    name: ClassVar[str] = "cdc"
    repository: ClassVar[str] = "https://github.com/buggyyang/CDC_compression"
    commit: ClassVar[str] = "00b10de9"
    files: ClassVar[str] = (
        "x_param/image-l2-use_weight5-vimeo-d64-t8193-b{...}-x-cosine-01-float32-aux{...}_2.pt of "
        "https://huggingface.co/rhyang/CDC_params"
    )
    packages: ClassVar[tuple[str, ...]] = ("compressai", "einops", "lpips")
    roots: ClassVar[tuple[str, ...]] = ("xparam",)
    parts: ClassVar[tuple[str, ...]] = ("y", "z")
    multiple: ClassVar[int] = 64

    def __init__(self, *, steps: int = 65, seed: int = 0, **settings: Any) -> None:
        self.steps, self.seed = steps, seed
        super().__init__(**settings)

    def _load(self) -> None:
        diffusion: Any = importlib.import_module("modules.denoising_diffusion").GaussianDiffusion
        network: Any = importlib.import_module("modules.unet").Unet
        compressor: Any = importlib.import_module("modules.compress_modules").ResnetCompressor
        self.model: Any = diffusion(
            denoise_fn=network(
                dim=64,
                channels=3,
                context_channels=64,
                dim_mults=[1, 2, 3, 4, 5, 6],
                context_dim_mults=[1, 2, 3, 4],
                embd_type="01",
            ),
            context_fn=compressor(
                dim=64,
                dim_mults=[1, 2, 3, 4],
                reverse_dim_mults=[4, 3, 2, 1],
                hyper_dims_mults=[4, 4, 4],
                channels=3,
                out_channels=64,
            ),
            ae_fn=None,
            num_timesteps=8193,
            loss_type="l2",
            lagrangian=0.0032,
            pred_mode="x",
            # Above zero it downloads the perceptual loss's network, which coding does not call.
            aux_loss_weight=0,
            aux_loss_type="lpips",
            var_schedule="cosine",
            use_loss_weight=True,
            loss_weight_min=5,
            use_aux_loss_weight_schedule=False,
        )
        saved = self._saved()["ema"]
        weights = {name.removeprefix("ema_model."): value for name, value in saved.items() if "ema_model." in name}
        self.model.load_state_dict({n: v for n, v in weights.items() if not n.startswith("loss_fn_vgg.")})
        self.model.to(self.device).eval()
        self.hyper = self.model.context_fn
        with torch.no_grad():
            self.z_tables = _tables(*self._z_likelihoods())
            self.y_tables = _tables(*_normal_likelihoods(_SCALES))

    def _z_likelihoods(self) -> tuple[Tensor, Tensor]:
        """Probabilities of the hyper-latent's values around its medians, ``(channels, values)``; the first value."""
        values = torch.arange(-_Z_RANGE, _Z_RANGE + 1, device=self.device, dtype=torch.float32)
        medians = self.hyper.prior.medians
        channels = medians.shape[1]
        grid = values.view(1, 1, 1, -1).expand(1, channels, 1, -1) + medians
        likelihoods = self.hyper.prior.likelihood(grid)[0, :, 0]
        return likelihoods, torch.full((channels,), -_Z_RANGE)

    def _compress(self, pixels: Tensor) -> Sequence[bytes]:
        height, width = pixels.shape[2:]
        padded = F.pad(pixels * 2 - 1, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        q, q_hyper, state = self.hyper.encode(padded)
        means, scales = state["latent_distribution"].mean, state["latent_distribution"].scale
        y, z = (q - means).round(), (q_hyper - self.hyper.prior.medians).round()
        return _rans(y, _scale_index(scales), self.y_tables), _rans(z, _channel_index(z.shape), self.z_tables)

    def _decompress(self, frame: Frame) -> Tensor:
        y_part, z_part = frame.parts
        rows, columns = (_up(side, self.multiple) // self.multiple for side in (frame.height, frame.width))
        medians = self.hyper.prior.medians
        z_index = _channel_index((1, medians.shape[1], rows, columns))
        hyper = _unrans(z_part, z_index, self.z_tables).to(self.device) + medians
        for convolution, activation in self.hyper.hyper_dec:
            hyper = activation(convolution(hyper))
        means, scales = hyper.chunk(2, 1)
        y = _unrans(y_part, _scale_index(scales.clamp(min=0.1)), self.y_tables).to(self.device) + means
        context = self.hyper.decode(y)
        self.model.set_sample_schedule(self.steps, self.device)
        shape = (1, 3, rows * self.multiple, columns * self.multiple)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(self.seed)).to(self.device) * 0.8
        decoded: Tensor = self.model.p_sample_loop(shape, context, clip_denoised=True, init=noise)
        return decoded.clamp(-1, 1) / 2 + 0.5


class PSCOfficial(OfficialCode):
    """PSC (Elata et al. 2024, arXiv 2407.09896) in the latents of Stable Diffusion 2.1. Its code runs on CUDA alone.

    One byte a measurement, with no entropy coding: a real number in eight bits (e4m3). Images of 512x512 alone.

    Args:
        weights: a folder that holds ``stabilityai/stable-diffusion-2-1-base``.
        measurements: N, steps of r measurements.
        rank: r.
        prompt: that the sampler is given, on both sides.
        seed: of encoder and decoder.
    """

    name: ClassVar[str] = "psc-official"
    repository: ClassVar[str] = "https://github.com/noamelata/PSC"
    commit: ClassVar[str] = "ce777297"
    files: ClassVar[str] = "a folder that holds stabilityai/stable-diffusion-2-1-base (about 5 GB)"
    packages: ClassVar[tuple[str, ...]] = ("diffusers", "transformers")
    parts: ClassVar[tuple[str, ...]] = ("measurements",)
    side: ClassVar[int] = 512

    def __init__(
        self, *, measurements: int = 256, rank: int = 12, prompt: str = "", seed: int = 0, **settings: Any
    ) -> None:
        self.measurements, self.rank, self.prompt, self.seed = measurements, rank, prompt, seed
        super().__init__(**settings)

    def _load(self) -> None:
        # It loads its pipeline as it is imported, by a name that is a folder here too.
        with contextlib.chdir(self.weights):
            self.model: Any = importlib.import_module("psc")

    def encode(self, image: Image) -> bytes:
        if image.shape[:2] != (self.side, self.side):
            raise EncodeError(f"{self.name} takes images of {self.side}x{self.side} alone: crop this one")
        return super().encode(image)

    def _compress(self, pixels: Tensor) -> Sequence[bytes]:
        self.model.set_seed(self.seed)
        codes = self.model.Latent_PSC_compress(pixels[0] * 2 - 1, self.prompt, self.measurements, self.rank, None)
        return [codes.numpy().tobytes()]

    def _decompress(self, frame: Frame) -> Tensor:
        (codes,) = frame.parts
        if (frame.height, frame.width) != (self.side, self.side) or len(codes) != self.measurements * self.rank:
            raise DecodeError(f"{self.name} takes {self.measurements * self.rank} measurements of 512x512 pixels")
        given = torch.frombuffer(bytearray(codes), dtype=torch.uint8).reshape(-1, 1)
        self.model.set_seed(self.seed)
        decoded: Tensor = self.model.Latent_PSC_decompress(given, self.prompt, self.measurements, self.rank, None)
        return decoded.float()[None] * 0.5 + 0.5


#: Bytes of a caption that are unpacked.
_LONGEST_CAPTION = 4096
#: Largest magnitude of a hyper-latent with a code of its own; larger ones are escaped.
_Z_RANGE = 64
#: Scales that have a table, as compressai spaces its own.
_SCALES = torch.exp(torch.linspace(math.log(0.1), math.log(256), 64))


@dataclass(frozen=True)
class _Tables:
    """Cumulative frequencies as compressai's coder takes them: rows of up to 2**16, their lengths, first values."""

    frequencies: list[list[int]]
    lengths: list[int]
    offsets: list[int]


def _tables(likelihoods: Tensor, offsets: Tensor) -> _Tables:
    """Tables of rows of probabilities; what they leave of 1 goes to an escape."""
    quantised = quietly("compressai._CXX").pmf_to_quantized_cdf
    rows = []
    for row in likelihoods.double().cpu():
        escape = max(1e-9, 1 - float(row.sum()))
        rows.append(quantised([*row.tolist(), escape], 16))
    return _Tables(rows, [len(row) for row in rows], offsets.tolist())


def _normal_likelihoods(scales: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities of whole numbers under normal distributions, over a range that the widest still fits."""
    reach = 512
    values = torch.arange(-reach, reach + 1, dtype=torch.float64)
    edges = torch.cat([values - 0.5, values[-1:] + 0.5]) / scales.double().view(-1, 1)
    likelihoods = torch.special.ndtr(edges).diff(dim=1)
    return likelihoods.clamp(min=1e-9), torch.full((len(scales),), -reach)


def _scale_index(scales: Tensor) -> Tensor:
    return torch.bucketize(scales.cpu(), _SCALES).clamp(max=len(_SCALES) - 1)


def _channel_index(shape: Sequence[int]) -> Tensor:
    return torch.arange(shape[1]).view(1, -1, 1, 1).expand(*shape)


def _rans(symbols: Tensor, index: Tensor, tables: _Tables) -> bytes:
    coder = GuardedCoder(quietly("compressai.ans").RansEncoder())
    written: bytes = coder.encode_with_indexes(
        symbols.int().flatten().tolist(), index.flatten().tolist(), tables.frequencies, tables.lengths, tables.offsets
    )
    return written


def _unrans(part: bytes, index: Tensor, tables: _Tables) -> Tensor:
    coder = GuardedCoder(quietly("compressai.ans").RansDecoder())
    found = coder.decode_with_indexes(
        part, index.flatten().tolist(), tables.frequencies, tables.lengths, tables.offsets
    )
    return torch.tensor(found, dtype=torch.float32).view(index.shape)


class _Unused(torch.nn.Module):
    """Stands where the authors' code builds something that coding never calls."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__()


class _Stub(types.ModuleType):
    """A module that has every name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unused


def _stub(*names: str) -> None:
    """Modules that may be imported and are not used, where they are not installed."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = module = _Stub(name)
            module.__path__ = []


def _up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple


def _ends(path: Path) -> bytes:
    """A digest of a file's size and ends, or of the files in a folder."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path.parent)} {size}".encode() if path.is_dir() else str(size).encode())
        with file.open("rb") as opened:
            digest.update(opened.read(_ENDS))
            opened.seek(max(0, size - _ENDS))
            digest.update(opened.read(_ENDS))
    return digest.digest()
