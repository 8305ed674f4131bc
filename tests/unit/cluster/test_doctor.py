"""The doctor finds what is wrong and says what to do."""

import pytest
from typer.testing import CliRunner

from cluster import doctor
from stope import app


def test_a_good_installation_passes():
    assert doctor.check_python().ok and doctor.check_first_party().ok and doctor.check_ray().ok


def test_a_package_that_owns_our_name_is_found(monkeypatch):
    monkeypatch.setattr(doctor, "packages_distributions", lambda: {"models": ["stope", "stranger"]})
    check = doctor.check_first_party()
    assert not check.ok and "stranger owns models" in check.detail and check.fix


@pytest.mark.parametrize(("free", "ok"), [(2**30, False), (2**34, True)])
def test_memory_and_disk(monkeypatch, tmp_path, free, ok):
    monkeypatch.setattr(doctor, "available_memory_bytes", lambda: free)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: doctor.shutil._ntuple_diskusage(0, 0, free))
    for check in (doctor.check_memory(), doctor.check_disk(str(tmp_path / "not" / "yet"))):
        assert check.ok is ok and bool(check.fix) is not ok


def test_every_check_is_named_once(tmp_path):
    names = [check.name for check in doctor.run_checks(str(tmp_path))]
    assert len(set(names)) == len(names) == len(doctor.CHECKS) + 1


def test_what_is_to_be_typed_comes_out_whole(monkeypatch):
    check = doctor.Check("faiss", False, "no [faiss]", "pip install -e '.[cpu]'")
    monkeypatch.setattr(doctor, "run_checks", lambda _storage: [check])
    told = CliRunner().invoke(app, ["doctor", "--storage", "here"])
    assert told.exit_code == 1 and "no [faiss]" in told.output and "pip install -e '.[cpu]'" in told.output
