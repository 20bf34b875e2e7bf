"""Learned parameters on this machine: found in torch's and Hugging Face's caches, never downloaded unasked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import PurePath
from typing import Any
from unittest import mock

# Where a library took the downloading function into its own module, it must be stopped there.
_DOWNLOADERS = ("torch.hub", "pyiqa.utils.download_util")


class WeightsMissing(Exception):
    """A file of weights that a library wanted to download.

    Attributes:
        url: from where.
        target: to which path.
    """

    def __init__(self, url: str, target: str) -> None:
        self.url, self.target = url, target
        super().__init__(f"{PurePath(target).name}, from {url}, to {target}")


@contextmanager
def offline() -> Iterator[None]:
    """Within it libraries find weights in their caches alone, and print nothing.

    Raises:
        WeightsMissing: from within, where one would have been downloaded.
    """

    def refuse(url: str, destination: str, *_: Any, **__: Any) -> None:
        raise WeightsMissing(url, destination)

    with ExitStack() as stack:
        # Libraries announce a download before they begin it, some on stderr.
        said = StringIO()
        stack.enter_context(redirect_stdout(said))
        stack.enter_context(redirect_stderr(said))
        for module in _DOWNLOADERS:
            if find_spec(module.partition(".")[0]) is not None:
                stack.enter_context(mock.patch(f"{module}.download_url_to_file", refuse))
        if find_spec("huggingface_hub") is not None:
            import huggingface_hub.constants

            stack.enter_context(mock.patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", True))
        yield
