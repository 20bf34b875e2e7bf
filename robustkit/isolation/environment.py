"""The environment of a worker: what its decoder needs, and none of the secrets that a CI system hands to every step."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase

#: Names of variables that workers get although they look like secrets: separated by commas or spaces, ``*`` stands for
#: anything.
PASS = "ROBUSTKIT_PASS_ENV"

_PREFIXES = ("ACTIONS_", "AWS_", "AZURE_", "BUILDKITE_AGENT_", "GCP_", "TWINE_", "UV_PUBLISH_", "VAULT_")
_NAME = re.compile(
    # A whole word, alone or at the end of one: API_KEY and APIKEY, but neither KEYBOARD nor TOKENIZERS_PARALLELISM.
    r"(^|_)[A-Z0-9]*(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|APIKEY)S?(_|$)"
    r"|(^|_)(KEY|KEYS|AUTH|COOKIE|DSN|JWT|PASS|PAT|PWD)(_|$)|^[A-Z0-9]*(ACCESS|PRIVATE|SIGNING)KEY"
)
#: A password within an address: an index of packages, a proxy, a database.
_ADDRESS = re.compile(r"://[^/@\s]*:[^/@\s]+@")
_NO_SECRETS = frozenset({"PWD", "OLDPWD"})


def looks_secret(name: str, value: str) -> bool:
    """Whether a variable looks like something that a codec under test has no business with."""
    upper = name.upper()
    if upper in _NO_SECRETS:
        return False
    return upper.startswith(_PREFIXES) or _NAME.search(upper) is not None or _ADDRESS.search(value) is not None


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of ``environment`` that look like no secret, or that its ``ROBUSTKIT_PASS_ENV`` names."""
    passed = re.split(r"[\s,]+", environment.get(PASS, ""))
    return {
        name: value
        for name, value in environment.items()
        if name == PASS or not looks_secret(name, value) or any(fnmatchcase(name, p) for p in passed)
    }
