"""A YAML file read into a pydantic model; every mistake is shown with its file, line and key."""

import difflib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cluster.errors import UserError

Model = TypeVar("Model", bound=BaseModel)
_Path = tuple[str | int, ...]


def load_yaml_model(source: Path | str, model: type[Model], overrides: Sequence[str] = ()) -> Model:
    """Read a YAML file into ``model``.

    Args:
        source: A path, or the YAML text itself when the string holds a newline.
        model: A pydantic model.
        overrides: ``key.sub=value`` each; the value is read as YAML, a list is indexed by number
            (``workers.0.max=4``), and a key that is absent is added.

    Raises:
        UserError: The file cannot be read, is not YAML, or does not fit ``model``; the first mistake is told
            in full, the others by their keys.
    """
    name, text = _read(source)
    document, lines = _parse(name, text)
    origin: dict[_Path, str] = {path: f"{name}:{line}" for path, line in lines.items()}
    for override in overrides:
        path = _override(document, override)
        origin = {key: place for key, place in origin.items() if key[: len(path)] != path}
        origin[path] = f"--set {override}"
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise _explain(error, model, document, origin, name) from error


def _read(source: Path | str) -> tuple[str, str]:
    if isinstance(source, str) and "\n" in source:
        return "<text>", source
    path = Path(source).expanduser()
    try:
        return str(path), path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            "cannot read the file", where=str(path), got=str(error), expected="a YAML file"
        ) from error


def _parse(name: str, text: str) -> tuple[dict[str, Any], dict[_Path, int]]:
    lines: dict[_Path, int] = {}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            _collect_lines(node, (), lines, name)
        document = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError("not valid YAML", where=f"{name}:{line}", got=str(error.problem)) from error
    except yaml.YAMLError as error:
        raise UserError("not valid YAML", where=name, got=" ".join(str(error).split())) from error
    if document is None:
        return {}, lines
    if not isinstance(document, dict):
        raise UserError(
            "not a mapping", where=f"{name}:1", got=type(document).__name__, expected="keys and values"
        )
    return document, lines


def _collect_lines(
    node: yaml.Node, path: _Path, lines: dict[_Path, int], name: str, above: tuple[yaml.Node, ...] = ()
) -> None:
    """Note the line of every key and item; refuse a key given twice, of which YAML would keep the last."""
    if any(node is each for each in above):
        raise UserError("an alias stands within what it names", where=f"{name}: {_dotted(path)}")
    above = (*above, node)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise UserError("a key is a word", where=f"{name}:{line}", got="a list or a mapping")
            inner = (*path, key.value)
            if inner in lines:
                raise UserError(
                    "the key is given twice",
                    where=f"{name}:{line}: {_dotted(inner)}",
                    got=f"first on line {lines[inner]}",
                    fix="keep one of the two",
                )
            lines[inner] = line
            _collect_lines(value, inner, lines, name, above)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
            _collect_lines(item, (*path, index), lines, name, above)


def _override(document: dict[str, Any], override: str) -> _Path:
    key, equals, value = override.partition("=")
    if not equals or not key.strip("."):
        raise UserError("not an override", where=f"--set {override}", expected="key.sub=value")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError("the value is not YAML", where=f"--set {override}", got=value) from error
    place: Any = document
    path: list[str | int] = []
    steps = key.strip().split(".")
    for position, step in enumerate(steps):
        last = position == len(steps) - 1
        if isinstance(place, list):
            if not step.isdigit() or int(step) >= len(place):
                raise UserError(
                    "no such item", where=f"--set {override}", got=step, expected=f"0 to {len(place) - 1}"
                )
            path.append(int(step))
            if last:
                place[int(step)] = parsed
            else:
                place = place[int(step)]
        elif isinstance(place, dict):
            path.append(step)
            if last:
                place[step] = parsed
            else:
                if place.get(step) is None:
                    place[step] = {}
                place = place[step]
        else:
            raise UserError(
                f"{_dotted(path)} has no keys of its own", where=f"--set {override}", got=repr(place)
            )
    return tuple(path)


def _explain(
    error: ValidationError,
    model: type[BaseModel],
    document: dict[str, Any],
    origin: Mapping[_Path, str],
    name: str,
) -> UserError:
    # An unknown key is told first: it is the likeliest cause of what else is missing.
    details = sorted(error.errors(include_url=False), key=lambda detail: detail["type"] != "extra_forbidden")
    path = _visible(details[0]["loc"], document)
    same = [detail for detail in details if _visible(detail["loc"], document) == path]
    what, got, expected, fix = _words(same, path, model)
    rest = {_dotted(_visible(detail["loc"], document)) for detail in details} - {_dotted(path), "", fix[6:]}
    if rest:
        fix = f"{fix}; then see also {', '.join(sorted(rest))}".removeprefix("; then ")
    if not path:
        # A cross-field check begins with the key it speaks of.
        key, colon, rest_of_what = what.partition(": ")
        if colon and " " not in key:
            path, what = tuple(int(step) if step.isdigit() else step for step in key.split(".")), rest_of_what
    place = next((origin[path[:end]] for end in range(len(path), 0, -1) if path[:end] in origin), name)
    where = f"{place}: {_dotted(path)}" if path else place
    return UserError(what, where=where, got=got, expected=expected, fix=fix)


def _words(details: list[ErrorDetails], path: _Path, model: type[BaseModel]) -> tuple[str, str, str, str]:
    """Return what, got, expected, fix for pydantic's findings at one place (a union has several)."""
    detail = details[0]
    kind, message = detail["type"], detail["msg"]
    if kind == "extra_forbidden":
        known = sorted(_keys_at(model, detail["loc"][:-1]))
        near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
        fix = f"write {_dotted((*path[:-1], near[0]))}" if near else "remove it"
        return "unknown key", str(path[-1]), ", ".join(known), fix
    if kind == "missing":
        return "a required key is missing", "", "", f"add {_dotted(path)}"
    got = repr(detail["input"]) if isinstance(detail["input"], str | int | float | bool | None) else ""
    if kind in ("value_error", "assertion_error"):
        return message.split(", ", 1)[-1], got, "", ""
    context = detail.get("ctx", {})
    if kind == "union_tag_invalid":
        return f"unknown {context['discriminator']}", repr(context["tag"]), str(context["expected_tags"]), ""
    if kind == "union_tag_not_found":
        return f"the key {context['discriminator']} is missing", got, "", ""
    wanted = dict.fromkeys(_lower(each["msg"].removeprefix("Input should be ")) for each in details)
    return "the value does not fit", got, " or ".join(wanted), ""


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _dotted(path: Sequence[str | int]) -> str:
    return ".".join(str(step) for step in path)


def _visible(loc: Sequence[str | int], document: Any) -> _Path:
    """Drop what pydantic adds to a location (tags and names of union members) and the file does not hold."""
    path: list[str | int] = []
    place = document
    for position, step in enumerate(loc):
        if isinstance(place, dict):
            if step in place:
                path.append(step)
                place = place[step]
            elif position == len(loc) - 1 and isinstance(step, str) and step.isidentifier():
                path.append(step)
        elif isinstance(place, list) and isinstance(step, int):
            path.append(step)
            place = place[step] if step < len(place) else None
    return tuple(path)


def _keys_at(model: type[BaseModel], loc: Sequence[str | int]) -> set[str]:
    """Return the keys that ``model`` knows in the mapping at pydantic's location ``loc``."""
    kinds: list[Any] = [model]
    for step in loc:
        inner: list[Any] = []
        for kind in kinds:
            if _is_model(kind) and step in kind.model_fields:
                inner += _members(kind.model_fields[str(step)].annotation)
            elif get_origin(kind) in (list, tuple, dict):
                inner += [inside for member in get_args(kind) for inside in _members(member)]
        # A step that is no key names the member of a union that pydantic tried.
        kinds = inner or [kind for kind in kinds if _is_model(kind) and _is_tagged(kind, step)]
    return {name for kind in kinds if _is_model(kind) for name in kind.model_fields}


def _is_tagged(kind: type[BaseModel], tag: str | int) -> bool:
    return tag == kind.__name__ or any(
        tag in get_args(field.annotation) for field in kind.model_fields.values()
    )


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _members(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for member in get_args(annotation) for kind in _members(member)]
    return [annotation]
