"""Definitions: the shipped ones are valid, mistakes are told with line, key and cure."""

import re

import pytest
from pydantic import BaseModel

from cluster.definition import DEFINITIONS, ClusterDefinition, load_definition, parse_memory
from cluster.errors import UserError
from cluster.yaml_model import load_yaml_model

LOCAL = (DEFINITIONS / "local.yaml").read_text()
H100 = (DEFINITIONS / "h100x8.yaml").read_text()


@pytest.mark.parametrize("name", sorted(file.stem for file in DEFINITIONS.glob("*.yaml")))
def test_shipped_definitions_are_complete(name):
    definition = load_definition(name)
    assert definition.name == name
    for role in ("tokenize", "encode", "search", "score", "generate", "train", "serve"):
        assert definition.group(definition.role(role).group)


def test_relative_storage_belongs_to_the_file(tmp_path):
    (tmp_path / "mine.yaml").write_text(LOCAL.replace("../../workspace", "work"))
    assert load_definition(str(tmp_path / "mine.yaml")).storage == str(tmp_path / "work")
    assert load_definition("local").storage == str(DEFINITIONS.parents[1] / "workspace")
    assert load_definition("h100x8").storage == "s3://team/stope"


def test_an_absent_definition_lists_the_known():
    with pytest.raises(UserError, match=r"one of: h100x8, local, spot"):
        load_definition("h200")


@pytest.mark.parametrize(
    ("text", "num_bytes"), [("64Gi", 64 * 2**30), ("1.5G", 1_500_000_000), ("512Mi", 2**29), ("7", 7)]
)
def test_memory_is_read_with_its_unit(text, num_bytes):
    assert parse_memory(text) == num_bytes


@pytest.mark.parametrize(
    ("text", "old", "new", "told"),
    [
        (
            LOCAL,
            "workers: 2",
            "wokers: 2",
            r":17: roles.train.wokers: unknown key\n(.|\n)*write roles.train.workers",
        ),
        (LOCAL, "storage:", "storag:", r":5: storag: unknown key\n(.|\n)*fix: write storage$"),
        (LOCAL, "memory: auto", "memory: 3XB", r":8: workers.0.memory: not an amount of memory"),
        (LOCAL, "cpus: auto", "cpus: many", r":8: workers.0.cpus: the value does not fit\n  got: 'many'"),
        (LOCAL, "local, cpus: 1,", "loca, cpus: 1,", r":18: roles.serve.group: no worker group 'loca'"),
        (LOCAL, "name: local\n", "name: local\nname: x\n", r":3: name: the key is given twice"),
        (LOCAL, "{kind: local}", "{kind: lokal}", r":3: provider: unknown 'kind'\n  got: 'lokal'"),
        (
            LOCAL,
            "{kind: local}",
            "{kind: local, host: x}",
            r":3: provider.host: unknown key\n.*\n  expected: kind",
        ),
        (LOCAL, "name: local\n", "name: local\n]", r":3: not valid YAML"),
        (LOCAL, "name: local\n", "name: local\n? [a, b]\n: 1\n", r":3: a key is a word"),
        (
            LOCAL,
            "name: local\n",
            "name: local\na: &a [1, *a]\n",
            r": a.1: an alias stands within what it names",
        ),
        (H100, "pool: [1, 64]", "pool: [9, 8]", r"roles.tokenize.pool: \[9, 8\] is not \[fewest, most\]"),
        (
            H100,
            "cpus: 4, gpus: 1, memory: 48Gi",
            "cpus: 4, gpus: 9, memory: 48Gi",
            r"roles.generate.gpus: .*|roles.generate.gpus is 9.0, more than .* 8",
        ),
        (H100, "min: 0\n", "min: 3\n", r"workers.gpu: min 3 is above max 2"),
        (H100, "memory: 1024Gi", "memory: auto", r"auto needs provider.kind local"),
        (H100, "head:", "#", r"head: missing"),
        (H100, "workers: 8", "replicas: 8", r"only roles.serve has replicas"),
        (H100, "name: cpu,", "name: gpu,", r"two groups have the same name"),
    ],
)
def test_a_mistake_is_told_where_it_stands(text, old, new, told):
    assert old in text
    with pytest.raises(UserError) as caught:
        load_yaml_model(text.replace(old, new), ClusterDefinition)
    assert re.search(told, str(caught.value)), str(caught.value)


class Inner(BaseModel, extra="forbid"):
    depth: int = 1
    names: list[str] = []


class Outer(BaseModel, extra="forbid"):
    inner: Inner = Inner()
    optional: Inner | None = None


def test_overrides_are_yaml_and_win(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("inner:\n  depth: 2\n")
    read = load_yaml_model(path, Outer, ["inner.depth=5", "inner.names=[a, b]", "optional.depth=7"])
    assert read == Outer(inner=Inner(depth=5, names=["a", "b"]), optional=Inner(depth=7))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("inner.dept=5", r"--set inner.dept=5: inner.dept: unknown key\n(.|\n)*write inner.depth"),
        ("inner.depth=x", r"--set inner.depth=x: inner.depth: the value does not fit\n  got: 'x'"),
        ("inner.depth.deeper=1", r"inner.depth has no keys of its own"),
        ("inner.names.3=x", r"no such item"),
        ("inner", r"expected: key.sub=value"),
        ("inner.names=[", r"the value is not YAML"),
    ],
)
def test_a_wrong_override_is_told(tmp_path, override, told):
    path = tmp_path / "recipe.yaml"
    path.write_text("inner:\n  depth: 2\n  names: [a]\n")
    with pytest.raises(UserError) as caught:
        load_yaml_model(path, Outer, [override])
    assert re.search(told, str(caught.value)), str(caught.value)


def test_the_other_mistakes_are_listed(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("inner:\n  depth: x\n  nams: [a]\n")
    with pytest.raises(UserError, match=r"(?s)recipe.yaml:3: inner.nams: unknown.*see also inner.depth"):
        load_yaml_model(path, Outer)
    with pytest.raises(UserError, match="cannot read the file"):
        load_yaml_model(tmp_path / "absent.yaml", Outer)
