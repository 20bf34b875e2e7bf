"""Codecs are found by every way in, loaded late, and never confused with one another; layouts name bits."""

import importlib.metadata
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import robustkit
from robustkit import (
    Codec,
    CodecSpec,
    CodecUnavailable,
    DecodeError,
    DuplicateCodec,
    Layout,
    Region,
    Registry,
    UnknownCodec,
)
from robustkit.registry import Target

ROW = np.zeros((1, 1, 3), dtype=np.uint8)


class Echo(Codec):
    name = "echo"
    family = "test"

    def __init__(self, *, side: int = 1) -> None:
        self.side = side

    def encode(self, image):
        return b"x" * self.side

    def decode(self, bitstream):
        if bitstream != b"x" * self.side:
            raise DecodeError("not an echo")
        return ROW

    class Inner(Codec):
        name = "inner"
        family = "test"

        def encode(self, image):
            return b""

        def decode(self, bitstream):
            return ROW


class Absent(Echo):
    name = "absent"

    @classmethod
    def missing(cls):
        return "pip install absent"


class Duck:
    """Not a Codec, only like one."""

    def encode(self, image):
        return b"quack"

    def decode(self, bitstream):
        return ROW


class RichDuck(Duck):
    name = "rich"
    family = "ducks"
    profile = robustkit.Profile(bpp=1, quality=2)

    def decode_batch(self, bitstreams):
        return [ROW] * len(bitstreams)

    def layout(self, bitstream):
        return Layout((Region("bill", 0, 1),), 8 * len(bitstream))

    def describe(self):
        return {"pond": "small"}


DUCK = Duck()


def factory(*, side: int = 2) -> Echo:
    return Echo(side=side)


def fresh() -> Registry:
    return Registry(entry_points=False)


def test_a_registered_class_is_found_with_its_settings():
    registry = fresh()
    assert registry.register(Echo, side=3) is Echo
    entry = registry.get("echo")
    assert [e.name for e in registry] == ["echo"]
    assert entry.origin == __file__
    assert entry.spec().load().side == 3
    assert entry.spec(side=5).load().encode(ROW) == b"xxxxx"


def test_registering_again_is_fine_and_another_class_of_that_name_is_not():
    registry = fresh()
    registry.register(Echo)
    registry.register(Echo)
    registry.add("echo", Target(Echo.__module__, "Echo"), "elsewhere")
    with pytest.raises(DuplicateCodec, match=r"codec 'echo' is registered by elsewhere .* again by other \(m:Echo\)"):
        registry.add("echo", Target("m", "Echo"), "other")


def test_two_modules_of_one_name_are_two_codecs(tmp_path):
    registry = fresh()
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "conftest.py")
        paths[-1].write_text(f"def whoami(): return {folder!r}\n")
    targets = [Target("conftest", "whoami", str(path)) for path in paths]
    assert [target.resolve()() for target in targets] == ["a", "b"]
    registry.add("c", targets[0], "a")
    with pytest.raises(DuplicateCodec):
        registry.add("c", targets[1], "b")


def test_a_module_that_no_path_leads_to_is_loaded_once_from_its_file(tmp_path):
    path = tmp_path / "robustkit_test_lonely.py"
    path.write_text("class Codec: pass\n")
    target = Target("robustkit_test_lonely", "Codec", str(path))
    assert target.resolve() is target.resolve()
    assert sys.modules.pop("robustkit_test_lonely").Codec


def test_a_module_that_fails_to_load_leaves_nothing_behind(tmp_path):
    path = tmp_path / "robustkit_test_broken.py"
    path.write_text("half = 1\nimport robustkit_no_such_module\n")
    spec = CodecSpec("broken", Target("robustkit_test_broken", "half", str(path)))
    for _ in range(2):
        with pytest.raises(CodecUnavailable, match="robustkit_no_such_module"):
            spec.load()
    assert "robustkit_test_broken" not in sys.modules


def test_any_importable_attribute_is_a_codec():
    registry = fresh()
    here = __name__
    assert registry.get(f"{here}:Echo").spec(side=4).load().side == 4
    assert registry.get(f"{here}:Echo.Inner").spec().load().name == "inner"
    assert registry.get(f"{here}:factory").spec().load().side == 2
    assert registry.get(f"{here}:DUCK").spec().load().encode(ROW) == b"quack"


def test_an_object_with_the_two_members_gets_the_rest_by_default():
    codec = fresh().get(f"{__name__}:Duck").spec().load()
    assert isinstance(codec, Codec)
    assert (codec.name, codec.family, codec.profile) == (f"{__name__}:Duck", "unknown", None)
    assert codec.decode_batch([b"a", b"b"]) == [ROW, ROW]
    assert codec.layout(b"ab") == Layout((Region("payload", 0, 16),), 16)
    assert codec.describe() == {}
    assert type(codec).decode_batch is Codec.decode_batch


def test_an_object_with_more_members_keeps_them():
    codec = fresh().get(f"{__name__}:RichDuck").spec().load()
    assert (codec.name, codec.family, codec.profile.bpp) == ("rich", "ducks", 1)
    assert codec.decode_batch([b""]) == [ROW]
    assert codec.layout(b"ab").at(0).name == "bill"
    assert codec.describe() == {"pond": "small"}


def test_what_is_no_codec_is_refused():
    with pytest.raises(TypeError, match=r"has no encode\(\)"):
        CodecSpec("dict", Target("builtins", "dict")).load()
    with pytest.raises(TypeError, match="built already: it takes no side"):
        fresh().get(f"{__name__}:DUCK").spec(side=3).load()


def test_a_codec_without_a_constructor_takes_no_settings():
    with pytest.raises(TypeError, match=r"Inner\(\) takes no settings"):
        fresh().get(f"{__name__}:Echo.Inner").spec(side=3).load()


def test_promises_are_void_where_a_setting_is_changed_that_is_not_neutral():
    promises = robustkit.Profile(bpp=1, quality=2)

    class Careful(Echo):
        neutral_settings = frozenset({"threads"})

        def __init__(self, *, threads: int = 1, **settings) -> None:
            super().__init__(**settings)
            self.profile = self.promised(promises)

    class Derived(Careful):
        def __init__(self, **settings) -> None:
            super().__init__(**{"side": 3, **settings})

    for kind in (Careful, Derived):
        for settings in ({}, {"threads": 4}, {"side": 1, "threads": 1}):
            assert kind(**settings).profile is promises
        assert kind(side=2, threads=4).profile is None


@pytest.mark.parametrize("attribute", ["NoSuch", "Echo.NoSuch"])
def test_a_codec_that_cannot_be_imported_says_why(attribute):
    with pytest.raises(CodecUnavailable, match="NoSuch"):
        fresh().get(f"{__name__}:{attribute}").spec().load()
    with pytest.raises(CodecUnavailable, match="No module named 'no_such_module'"):
        fresh().get(f"no_such_module:{attribute}").spec().load()


def test_a_codec_that_lacks_something_says_what_to_install():
    registry = fresh()
    registry.register(Absent)
    with pytest.raises(CodecUnavailable, match="'absent' can't run here: pip install absent"):
        registry.get("absent").spec().load()


@pytest.mark.parametrize("name", ["jpg", "ehco", "", ":", "x:", ":y"])
def test_an_unknown_name_lists_what_there_is(name):
    registry = fresh()
    registry.register(Echo)
    with pytest.raises(UnknownCodec, match="echo"):
        registry.get(name)


def test_a_class_that_workers_could_not_import_is_refused():
    class Local(Echo):
        name = "local"

    with pytest.raises(TypeError, match="defined inside a function"):
        fresh().register(Local)
    with pytest.raises(TypeError, match="has no name"):
        fresh().register(Duck)


@pytest.fixture
def points(monkeypatch):
    found: list[importlib.metadata.EntryPoint] = []

    def entry_points(*, group):
        assert group == "robustkit.codecs"
        return found

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    return lambda *pairs: found.extend(importlib.metadata.EntryPoint(n, v, "robustkit.codecs") for n, v in pairs)


def test_entry_points_are_read_at_the_first_look_up_and_not_imported(points):
    registry = Registry()
    points(("lazy", "no_such_module:Codec"))
    assert [(e.name, str(e.target)) for e in registry] == [("lazy", "no_such_module:Codec")]
    with pytest.raises(CodecUnavailable, match="no_such_module"):
        registry.get("lazy").spec().load()


def test_an_entry_point_and_the_decorator_may_name_one_class(points):
    points(("echo", f"{__name__}:Echo"))
    registry = Registry()
    registry.register(Echo)
    assert len(list(registry)) == 1


def test_two_entry_points_of_one_name_fail_at_every_look_up(points):
    points(("twice", "one:Codec"), ("twice", "two:Codec"), ("third", "three:Codec"))
    registry = Registry()
    for _ in range(2):
        with pytest.raises(DuplicateCodec, match="'twice'"):
            registry.get("third")


def test_importing_the_package_loads_neither_torch_nor_a_codec_nor_hypothesis():
    heavy = "'torch', 'hypothesis', 'PIL', 'scipy', 'diffusers', 'skimage', 'robustkit.codecs'"
    script = f"import sys, robustkit; print([m for m in ({heavy}) if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_robustkit_register_is_a_decorator_with_or_without_settings(monkeypatch):
    # By its module's name in sys.modules: as an attribute of the package, that name is the registry itself.
    monkeypatch.setattr(sys.modules["robustkit.registry"], "registry", fresh())
    assert robustkit.register(Echo) is Echo
    assert robustkit.register(side=7)(Echo) is Echo
    assert robustkit.load_codec("echo").side == 7
    assert robustkit.load_codec("echo", side=8).side == 8


def test_a_batch_holds_each_refusal_in_its_place():
    first, second = Echo().decode_batch([b"?", b"x"])
    assert isinstance(first, DecodeError)
    assert second is ROW


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    bits = draw(st.integers(0, 60))
    spans = st.tuples(st.integers(0, bits), st.integers(0, bits), st.booleans()).map(
        lambda s: Region(f"{s}", min(s[:2]), max(s[:2]), header=s[2])
    )
    return Layout(tuple(draw(st.lists(spans, max_size=5))), bits)


@given(layouts())
def test_header_and_payload_share_out_the_stream(layout):
    header, payload = layout.bits_of(header=True), layout.bits_of(header=False)
    assert sorted([*header, *payload]) == list(range(layout.bits))
    assert all(any(r.header and r.start <= b < r.stop for r in layout) for b in header)
    assert header.dtype == np.int64


@given(layouts(), st.integers(-1, 61))
def test_the_innermost_region_names_a_bit(layout, bit):
    found = layout.at(bit)
    holding = [r for r in layout if r.start <= bit < r.stop]
    assert (found is None) == (not holding)
    if found is not None:
        assert found in holding
        assert found.stop - found.start == min(r.stop - r.start for r in holding)


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 2), (0, 9)])
def test_a_region_outside_the_stream_is_refused(start, stop):
    with pytest.raises(ValueError, match="lies outside the stream's 8 bits"):
        Layout((Region("x", start, stop),), 8)


def test_a_codec_s_threads_are_patient_and_the_environment_stays_as_it_was(tmp_path):
    # OpenMP reads the variable as torch loads; a user's own value stays, and so does what torch has read already.
    (tmp_path / "torch.py").write_text("import os\nseen = os.environ.get('GOMP_SPINCOUNT')\n")
    (tmp_path / "asks.py").write_text("import torch\nclass Asks:\n    name = torch.seen\n")
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from robustkit.registry import registry\n"
        "if sys.argv[2:]: import torch\n"
        "print(registry.get('asks:Asks').spec().resolve().name, os.environ.get('GOMP_SPINCOUNT'))"
    )

    def seen(*more, **variables):
        kept = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path), *more],
            env={**kept, **variables}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.split()

    assert seen() == ["10000", "None"]
    assert seen(GOMP_SPINCOUNT="7") == ["7", "7"]
    assert seen("torch first") == ["None", "None"]
