"""Files that several commands are tried on."""

from __future__ import annotations

import pytest
from PIL import Image as PillowImage

from robustkit.codecs.jpeg import Jpeg
from robustkit.images import photographs


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def photo(here):
    PillowImage.fromarray(photographs(crop=64)["coffee"]).save("photo.png")
    return photographs(crop=64)["coffee"]


@pytest.fixture
def stream(photo, here):
    data = Jpeg().encode(photo)
    (here / "photo.jpg").write_bytes(data)
    return data
