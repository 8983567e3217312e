"""YAML that people and other machines wrote, read so that nothing in it is lost or grows without bound.

The library takes the last of two equal keys in silence, and gives aliases no bound. JSON: see schemas/typed_json.py.
"""

from typing import Any

import yaml

_MOST_NODES = 1_000_000  # the settings of a run over 100,000 listed files have 100,000
_DEEPEST = 100
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class NotYaml(ValueError):
    """A text is no YAML at all; the message says where."""


def parse_yaml(text: str) -> Any:
    """Returns the value of a YAML text, of which JSON is a part. Aliases are values like others, within bounds.

    Raises:
      NotYaml: it is none.
      ValueError: a key stands twice in a mapping, it is nested beyond 100 levels, or its aliases stand
        for more than a million values; the message says where.
    """
    try:
        _check_depth(text)
        root = yaml.compose(text, Loader=_Loader)
        if root is not None:
            _measure(root, {})
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise NotYaml(" ".join(str(error).split()).replace(' in "<unicode string>",', ",")) from error


def _check_depth(text: str) -> None:
    """Refuses deep nesting before anything calls itself for each level."""
    depth = 0
    event: Any
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST:
            raise ValueError(f"line {event.start_mark.line + 1}: it is nested beyond {_DEEPEST} levels")


def _measure(node: Any, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Returns the number of values that a node stands for, and its height; refuses keys that stand twice in it."""
    if id(node) in known:
        measured = known[id(node)]
        if measured is None:
            raise ValueError(f"line {node.start_mark.line + 1}: an alias stands inside what it names")
        return measured
    known[id(node)] = None
    children: list[Any] = []
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        children = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    measures = [_measure(child, known) for child in children]
    size, height = 1 + sum(size for size, _ in measures), 1 + max((height for _, height in measures), default=0)
    if size > _MOST_NODES or height > _DEEPEST + 1:
        raise ValueError(f"line {node.start_mark.line + 1}: its aliases stand for too many values")
    known[id(node)] = size, height
    return size, height


def _check_keys(node: yaml.MappingNode) -> None:
    constructor = yaml.constructor.SafeConstructor()
    seen: dict[Any, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"line {line}: a key is no text or number")
        is_merge = key.tag == "tag:yaml.org,2002:merge"  # `<<: *alias`, which the mapping's own keys override
        name = key.value if is_merge else constructor.construct_object(key)
        if name in seen:
            raise ValueError(f"line {line}: the key {name!r} stands twice, first in line {seen[name]}")
        seen[name] = line
