from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

import jinja2
import pytest
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from oddsmill.schemas.chat.sandbox import compile_template
from oddsmill.schemas.errors import Refused


def render(template: str, **variables: Any) -> str:
    return compile_template(template).render({"messages": [{"role": "user", "content": "q"}]} | variables)


def test_blocks_take_their_line_break_and_indentation_along():
    assert render("{% if true %}\n  {% if true %}\na\n  {% endif %}\n{% endif %}\nb") == "a\nb"


def test_a_loop_can_be_left():
    template = (
        "{% for x in range(9) %}{% if x == 1 %}{% continue %}{% elif x == 3 %}{% break %}{% endif %}{{ x }}{% endfor %}"
    )
    assert render(template) == "02"


def test_json_is_written_as_people_read_it():
    tools = [{"name": "<b>é & 'x'", "z": 1, "a": 2}]
    assert render("{{ tools | tojson }}", tools=tools) == """[{"name": "<b>é & 'x'", "z": 1, "a": 2}]"""
    assert render("{{ tools[0].z | tojson(indent=2) }}", tools=tools) == "1"


def test_what_the_assistant_said_may_be_marked():
    assert render("a{% generation %}b{{ messages[0].content }}{% endgeneration %}c") == "abqc"


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{% set ns = namespace(_x=1) %}",
        "{{ dict.__init__ }}{{ dict.mro() }}",
        "{{ cycler.__init__.__globals__ }}",
    ],
)
def test_the_sandbox_holds(template: str):
    with pytest.raises(jinja2.TemplateError):
        render(template)


def test_namespaces_and_dictionaries_work():
    template = (
        "{% set ns = namespace(n=0, self=2) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"
    )
    assert render(template + "{{ dict(a=1)['a'] }}{{ dict.fromkeys([1], 2)[1] }}") == "112"


def test_a_template_that_does_not_compile_is_refused():
    with pytest.raises(Refused, match=r"the chat template does not compile: .*endfor"):
        render("{% for m in messages %}")


@pytest.mark.parametrize("chance", ["{{ [1, 2] | random }}", "{{ lipsum() }}"])
def test_no_text_is_left_to_chance(chance):
    with pytest.raises((Refused, jinja2.UndefinedError), match=r"random|lipsum"):
        compile_template(chance).render()


class Marked:
    """A loop's item with an attribute."""

    format = "a field"


def test_short_ways_to_attributes_and_members_lead_where_jinjas_sandbox_does():
    environment = compile_template("").environment
    namespace = environment.globals["namespace"]
    objects = [
        "a text",
        {"role": "user", "items": 1, "_x": 2, "__class__": 3, "get": 4},
        {},
        namespace(n=1, self=2, format="{}".format, items="hidden"),
        LoopContext([1, "{}".format, 3], environment.undefined),
        [1],
        3,
        environment.undefined(name="nothing"),
        Marked(),
        str,
        dict,
    ]
    names = {name for each in objects for name in dir(each)} | {"role", "n", "_x", "absent", "mro", "format"}
    names |= set(dir(LoopContext)) | {"_Namespace__attrs", "self"}

    def told(way: str, kind: type, obj: Any, name: str) -> Any:
        try:
            value = getattr(kind, way)(environment, obj, name)
        except (jinja2.TemplateError, TypeError) as error:
            return type(error), str(error)
        if isinstance(value, jinja2.Undefined):
            return "undefined", value._undefined_message, value._undefined_exception
        # Each access makes a method anew; a wrapped one is a function.
        is_method = isinstance(value, FunctionType | MethodType | BuiltinMethodType)
        return (type(value), value.__name__) if is_method else (type(value), str(value)[:40])

    for obj in objects:
        if isinstance(obj, LoopContext):
            next(obj)
        for name in sorted(names):
            for way in ("getattr", "getitem"):
                short = told(way, type(environment), obj, name)
                assert short == told(way, ImmutableSandboxedEnvironment, obj, name), (way, obj, name)
