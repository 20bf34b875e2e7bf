"""Workers get what decoders need of the environment, and no secrets."""

from __future__ import annotations

from pathlib import Path

import hostile
import pytest

from robustkit import CodecSpec
from robustkit.isolation import CodecWorkers
from robustkit.isolation.environment import PASS, clean
from robustkit.registry import Target

SECRETS = (
    *("GITHUB_TOKEN", "CI_JOB_TOKEN", "ACTIONS_RUNTIME_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "AWS_PROFILE"),
    *("AWS_SECRET_ACCESS_KEY", "NPM_AUTH_TOKEN", "TWINE_USERNAME", "PYPI_PASSWORD", "DB_PASSWD", "API_KEY", "APIKEY"),
    *("MY_APIKEY", "SSH_PRIVATE_KEY_PATH", "GOOGLE_APPLICATION_CREDENTIALS", "DOCKER_AUTH_CONFIG", "SSH_AUTH_SOCK"),
    *("client_secret", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "CODECOV_TOKEN", "GH_PAT", "MYSQL_PWD", "SENTRY_DSN"),
    *("CI_JOB_JWT", "ACCESSKEY_ID", "PRIVATEKEY", "SECRETS", "GITHUBTOKEN", "GPG_PASSPHRASE"),
)
NEEDED = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "OMP_NUM_THREADS", "PWD"),
    *("MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUDA_CACHE_PATH", "NVIDIA_VISIBLE_DEVICES", "HF_HOME", "TORCH_HOME"),
    *("TORCHINDUCTOR_CACHE_DIR", "PYTORCH_CUDA_ALLOC_CONF", "XDG_CACHE_HOME", "VIRTUAL_ENV", "PYTHONPATH", "CI"),
    *("PYTHONHASHSEED", "TOKENIZERS_PARALLELISM", "KEYBOARD", "KMP_AFFINITY", "PYTEST_XDIST_WORKER_COUNT", "USER"),
    *("HF_HUB_CACHE", "MALLOC_PERTURB_", "GITHUB_WORKSPACE", "OLDPWD", "COMPASS", "AUTHOR", "MONKEYS", "BYPASSED"),
)


class Tells(hostile.Thumbnail):
    """Its description is its environment."""

    name = "hostile-tells"

    def describe(self) -> dict[str, str]:
        import os

        return dict(os.environ)


def seen(directory: Path) -> dict[str, str]:
    spec = CodecSpec(Tells.name, Target(Path(__file__).stem, "Tells", __file__))
    with CodecWorkers(spec, directory=directory) as workers:
        return workers.describe()


def test_a_worker_sees_no_secret_and_all_that_decoders_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(hostile.__file__).parent)
    for name in ("AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "ACTIONS_RUNTIME_URL", "MY_API_KEY", "DB_PASSWORD"):
        monkeypatch.setenv(name, "s3cr3t")
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:s3cr3t@example.org/simple")
    kept = {"CUDA_CACHE_PATH": "/gpu", "TORCH_HOME": "/torch", "HF_HOME": "/hf", "XDG_CACHE_HOME": "/xdg"}
    for name, value in kept.items():
        monkeypatch.setenv(name, value)
    found = seen(tmp_path)
    assert [name for name, value in found.items() if "s3cr3t" in value] == []
    assert kept.items() <= found.items()
    assert {"PATH", "HOME"} <= set(found)


def test_a_variable_that_is_named_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(hostile.__file__).parent)
    for name in ("HF_TOKEN", "MINE_KEY", "MINE_TOKEN", "OTHER_TOKEN"):
        monkeypatch.setenv(name, "s3cr3t")
    monkeypatch.setenv(PASS, "HF_TOKEN, MINE_*")
    assert {name for name, value in seen(tmp_path).items() if value == "s3cr3t"} == {
        "HF_TOKEN",
        "MINE_KEY",
        "MINE_TOKEN",
    }


@pytest.mark.parametrize("name", SECRETS)
def test_names_of_secrets(name: str) -> None:
    assert clean({name: "x"}) == {}


@pytest.mark.parametrize("name", NEEDED)
def test_names_of_what_is_needed(name: str) -> None:
    assert clean({name: "x"}) == {name: "x"}


def test_a_password_in_an_address_is_a_secret() -> None:
    assert clean({"HTTPS_PROXY": "http://me:pw@proxy:3128", "HTTP_PROXY": "http://proxy:3128"}) == {
        "HTTP_PROXY": "http://proxy:3128"
    }


def test_a_pool_gets_variables_and_a_working_directory_of_its_own(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    spec = CodecSpec(hostile.Tells.name, Target("hostile", "Tells", hostile.__file__))
    more = {"MALLOC_PERTURB_": "165", "PYTHONHASHSEED": "7", "MY_TOKEN": "given"}
    with CodecWorkers(spec, directory=tmp_path / "streams", environment=more, directory_of_work=work) as workers:
        found = workers.describe()
    assert more.items() <= found.items()
    assert found["directory"] == str(work)
    with CodecWorkers(spec, directory=tmp_path / "streams") as workers:
        found = workers.describe()
    assert found["directory"] == str(Path.cwd())
    assert "MY_TOKEN" not in found
