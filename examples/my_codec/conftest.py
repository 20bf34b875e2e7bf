"""What robustkit asks a package's conftest: codecs beside the one that the package registers itself."""

from my_codec import MyCodec


class Candidate(MyCodec):
    """Where a change is tried before it becomes the codec: `--codec candidate`."""

    name = "candidate"


def pytest_robustkit_codecs(registry):
    registry.register(Candidate)
