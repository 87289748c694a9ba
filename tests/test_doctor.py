import pytest

from unireplknet import doctor


def test_missing_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", {"no-such-package": "audio"})
    assert doctor.examine()["versions"][1] == 'no-such-package is missing: pip install "unireplknet[audio]"'


def test_compiler_is_looked_for_under_cxx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert doctor.examine()["torch.compile on the CPU"] == [
        "no C++ compiler (no-such-compiler): runs without compiling"
    ]
