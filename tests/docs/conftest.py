"""What a document installs goes to a folder of the test's own, from what is at hand, and not into this environment."""

import pytest


@pytest.fixture(autouse=True)
def packages_apart(tmp_path_factory, monkeypatch):
    packages = str(tmp_path_factory.mktemp("packages"))
    monkeypatch.setenv("PIP_TARGET", packages)
    monkeypatch.setenv("PYTHONPATH", packages)
    for setting in ("PIP_NO_INDEX", "PIP_NO_DEPS", "PIP_DISABLE_PIP_VERSION_CHECK"):
        monkeypatch.setenv(setting, "1")
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # pip's way to say --no-build-isolation
