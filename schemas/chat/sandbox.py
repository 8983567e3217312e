"""The Jinja environment of chat templates: immutable, sandboxed, metered, with what transformers gives a template."""

import json
from collections.abc import Callable, Mapping
from types import BuiltinMethodType
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from oddsmill.schemas.chat.limited import joined, limit_filters, limited_format, limited_method, modulo, power, times
from oddsmill.schemas.chat.metering import MAX_TEMPLATE, counted, counted_call, light, metered, written
from oddsmill.schemas.errors import Refused, one_line

# What stands in a compiled template in place of the parts that could cost much.
_OF_BOUNDS = {
    "_light": light,
    "_counted": counted,
    "_times": times,
    "_power": power,
    "_modulo": modulo,
    "_joined": joined,
}
_MOST_TERMS = 16  # of a sum, until it is looked at
# Attributes that Jinja's sandbox allows, after a search through all kinds of objects that takes longer than the rest.
_OF_LOOPS = frozenset({"depth", "depth0", "first", "index", "index0", "last", "length", "revindex", "revindex0"})
_OF_TEXTS = frozenset(name for name in dir(str) if not name.startswith("_")) - {"format", "format_map"}
_OF_OBJECTS = frozenset(dir(dict))


def compile_template(text: str, kind: "type[SandboxEnvironment] | None" = None) -> jinja2.Template:
    """Compiles the text of a chat template.

    Args:
      kind: the environment that it runs in, where it is another than the sandbox itself.

    Raises:
      Refused: it does not compile.
    """
    if len(text) > MAX_TEMPLATE:
        raise Refused(f"the chat template has {len(text):,} characters, more than {MAX_TEMPLATE:,}")
    environment = (kind or SandboxEnvironment)(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    try:
        with metered(None):  # parts that never change are computed now
            return environment.from_string(text)
    except Exception as error:  # where it is nested too deeply for Python, for example, not Jinja's own
        raise Refused(f"the chat template does not compile: {one_line(error)}") from error


class _Template(jinja2.Template):
    """A template that is metered while it renders."""

    def render(self, *args: Any, **variables: Any) -> str:
        with metered((args, variables)):
            return super().render(*args, **variables)


class SandboxEnvironment(ImmutableSandboxedEnvironment):
    """Looks at everything that could cost much before it is done: see metering.py."""

    template_class = _Template

    def __init__(self, **options: Any):
        super().__init__(finalize=written, **options)
        self.filters = limit_filters(self.filters | {"tojson": _to_json}) | _OF_BOUNDS
        del self.filters["random"], self.globals["lipsum"]  # the same input makes the same texts
        self.globals |= {"raise_exception": _raise, "dict": _Dict(), "namespace": _Namespace}

    def make_globals(self, d: Mapping[str, Any] | None) -> dict[str, Any]:
        return {**self.globals, **(d or {})}  # each rendering copies it, which takes long of Jinja's chain of mappings

    def getattr(self, obj: Any, attribute: str) -> Any:
        kind = type(obj)
        if kind is dict and attribute not in _OF_OBJECTS:
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        if kind is str and attribute in _OF_TEXTS:
            return getattr(obj, attribute)
        if (kind is LoopContext and attribute in _OF_LOOPS) or (kind is _Namespace and not attribute.startswith("_")):
            try:
                value = getattr(obj, attribute)
            except AttributeError:
                return self.undefined(obj=obj, name=attribute)
            return self.wrap_str_format(value) or value
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if type(obj) is not dict or type(argument) is not str:
            return super().getitem(obj, argument)
        try:
            return obj[argument]
        except KeyError:
            return self.getattr(obj, argument)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        parsed: nodes.Template = _Bounds().visit(super()._parse(source, name, filename))
        return parsed

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  (as Jinja has it)
        if type(__obj) is BuiltinMethodType:
            if type(__obj.__self__) is str:  # no method of a text does anything but compute
                for name in ("_loop_vars", "_block_vars"):  # Jinja's own, for functions that ask for its context
                    kwargs.pop(name, None)
                method = limited_method(__obj)
                return __obj(*args, **kwargs) if method is None else method(*args, **kwargs)
            __obj = limited_method(__obj) or __obj
        elif isinstance(__obj, Macro | LoopContext):
            if isinstance(__obj, Macro) and (__obj.catch_varargs or __obj.catch_kwargs):
                light((args, kwargs))
            return counted_call(super().call, __context, __obj, *args, **kwargs)
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        function = super().wrap_str_format(value)
        return None if function is None else limited_format(str(value.__self__), function)


class _Bounds(NodeTransformer):
    """Puts a look at their results, or at what goes into them, around the parts of a template that could cost much."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        text = sum(len(data.data) for part in node.body for data in part.find_all(nodes.TemplateData))
        node.iter = _filtered("_counted", cast(nodes.Expr, node.iter), nodes.Const(text, lineno=node.lineno))
        return node

    def visit_Add(self, node: nodes.Add) -> nodes.Expr:
        return _filtered("_light", self._sum(node))

    def _sum(self, node: nodes.Expr) -> nodes.Expr:
        """Visits the terms of a sum, which is looked at as a whole, and every few terms."""
        terms = []
        while type(node) is nodes.Add:
            terms.append(self.visit(node.right))
            node = node.left
        total: nodes.Expr = self.visit(node)
        for number, term in enumerate(reversed(terms), 1):
            total = nodes.Add(total, term, lineno=term.lineno)
            if number % _MOST_TERMS == 0:
                total = _filtered("_light", total)
        return total

    def visit_Mul(self, node: nodes.Mul) -> nodes.Node:
        return self._operator("_times", node)

    def visit_Pow(self, node: nodes.Pow) -> nodes.Node:
        return self._operator("_power", node)

    def visit_Mod(self, node: nodes.Mod) -> nodes.Node:
        return self._operator("_modulo", node)

    def _operator(self, name: str, node: nodes.BinExpr) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(name, node.left, node.right)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered("_joined", *node.nodes)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return self._container(node, node.items)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self._container(node, node.items if node.ctx == "load" else [])

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return self._container(node, [part for pair in node.items for part in (pair.key, pair.value)])

    def _container(self, node: nodes.Expr, parts: list[nodes.Expr]) -> nodes.Node:
        is_constant = all(isinstance(part, nodes.Const) for part in parts)
        self.generic_visit(node)
        return node if is_constant else _filtered("_light", node)


def _filtered(name: str, value: nodes.Expr, *arguments: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(value, name, list(arguments), [], None, None, lineno=value.lineno)


class _Generation(Extension):
    """`{% generation %}`: marks what the assistant said. Here it renders what is inside."""

    tags = {"generation"}  # noqa: RUF012  (the interface of Jinja)

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

    def _inside(self, caller: Callable[[], str]) -> str:
        return caller()


class _Namespace(jinja2.utils.Namespace):
    """A namespace that refuses names which begin with an underscore, as transformers does."""

    def __init__(*args: Any, **kwargs: Any):
        self, args = args[0], args[1:]
        values = dict(*args, **kwargs)
        for name in values:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    def __repr__(self) -> str:
        return "<Namespace>"  # what it holds may stand in it many times over


class _Dict:
    """`dict` in a template, without the attributes of the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return light(dict(*args, **kwargs))

    def fromkeys(self, *args: Any) -> Any:
        return light(dict.fromkeys(*args))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as people read it; Jinja's own filter escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot store {name!r}")
