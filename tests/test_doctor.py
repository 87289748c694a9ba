import pytest

from unireplknet import doctor
from unireplknet.ops import triton


def test_missing_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", {"no-such-package": "audio"})
    assert doctor.examine()["versions"][1] == 'no-such-package is missing: pip install "unireplknet[audio]"'


def test_compiler_is_looked_for_under_cxx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert doctor.examine()["torch.compile on the CPU"] == [
        "no C++ compiler (no-such-compiler): runs without compiling"
    ]


@pytest.mark.parametrize("found", [None, "/usr/bin/gcc"])
def test_fused_blocks_and_their_compiler_are_reported(found: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(triton.shutil, "which", lambda name: found)
    lines = doctor.examine()["depthwise convolution and blocks"]
    assert [line.split(":")[0] for line in lines[:-1]] == ["reference", "cpu", "triton", "fused blocks"]
    expected = f"C compiler for Triton: {found}" if found else "no C compiler (gcc or clang)"
    assert lines[-1].startswith(expected)
