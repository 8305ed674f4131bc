"""What a session asks of Ray, and how it fits a machine; nothing is started."""

import pytest

from cluster import machine
from cluster.definition import DEFINITIONS, ClusterDefinition, load_definition
from cluster.errors import UserError
from cluster.session import Session
from cluster.yaml_model import load_yaml_model


def local(*overrides: str) -> Session:
    return Session(load_yaml_model(DEFINITIONS / "local.yaml", ClusterDefinition, overrides))


@pytest.mark.parametrize(("cores", "actors"), [(1, 1), (2, 2), (8, 8)])
def test_pools_leave_room_for_tokenising(monkeypatch, cores, actors):
    monkeypatch.setattr(machine, "num_cores", lambda: cores)
    assert local().pool("encode") == (actors, actors)
    assert local().pool("tokenize") == (actors, actors)


def test_pools_heed_memory_and_the_definition(monkeypatch):
    monkeypatch.setattr(machine, "num_cores", lambda: 8)
    monkeypatch.setattr(machine, "total_memory_bytes", lambda: 16 * 2**30)
    assert local("workers.0.memory=6Gi", "roles.encode.memory=2Gi").pool("encode") == (3, 3)
    assert local("roles.encode.pool=[1, 2]").pool("encode") == (2, 2)


def test_pools_of_a_cluster_are_the_definitions():
    session = Session(load_definition("h100x8"))
    assert session.pool("encode") == (1, 16)
    assert session.resources("encode") == {
        "num_cpus": 2,
        "num_gpus": 1,
        "memory": 24 * 2**30,
        "label_selector": {"ray.io/node-group": "gpu"},
    }


def test_resources_and_threads_of_a_local_role():
    session = local()
    assert session.resources("encode") == {"num_cpus": 0.75, "num_gpus": 0}
    assert session.resources("encode", alone=True) == {"num_cpus": 1, "num_gpus": 0}
    there = Session(load_definition("h100x8"))
    assert there.resources("tokenize", alone=True) == there.resources("tokenize")
    assert session.num_threads("encode", actors=10**6) == 1
    assert Session(load_definition("h100x8")).num_threads("train", actors=3) == 8


def test_more_than_the_machine_has_is_refused(monkeypatch):
    monkeypatch.setattr(machine, "num_cores", lambda: 2)
    with pytest.raises(UserError, match=r"workers.local.cpus: (.|\n)*at most 2(.|\n)*cpus: auto"):
        local("workers.0.cpus=3").pool("encode")


def test_a_role_that_is_left_out_is_named():
    with pytest.raises(UserError, match=r"add roles\.score"):
        local("roles.score=null").resources("score")


def test_the_object_store_fits(monkeypatch):
    monkeypatch.setattr(machine, "free_shared_memory_bytes", lambda: 2**40)
    assert machine.object_store_bytes(100 * 2**30) == 2 * 2**30
    assert machine.object_store_bytes(2**30) == int(0.3 * 2**30)
    monkeypatch.setattr(machine, "free_shared_memory_bytes", lambda: 200 * 2**20)
    assert machine.object_store_bytes(2**40) == 180 * 2**20
    monkeypatch.setattr(machine, "free_shared_memory_bytes", lambda: 64 * 2**20)
    assert machine.object_store_bytes(100 * 2**20) == 80 * 2**20


def test_a_local_role_runs_in_this_process_without_ray():
    session = local()
    assert session.run_on("score", lambda left, right: left + right, 1, right=2) == 3
    assert not session.started
    session.stop()


def test_session_directories_of_the_dead_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.tempfile, "gettempdir", lambda: str(tmp_path))
    # The folder of a test is too long for sockets: without this the real one would be used.
    monkeypatch.setattr(machine, "_SOCKET_TAIL", -1000)
    monkeypatch.setattr(machine, "_is_alive", lambda process: process != 999)
    mine = machine.make_session_directory()
    assert tmp_path in mine.parents
    dead, other = mine.parent / "999-abcd", mine.parent / "1-abcd"
    dead.mkdir()
    other.mkdir()
    machine.make_session_directory()
    assert not dead.exists() and other.exists() and mine.exists()
    mine.parent.chmod(0o755)
    with pytest.raises(UserError, match="is not private"):
        machine.make_session_directory()
