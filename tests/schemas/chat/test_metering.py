import threading
import time

import pytest

from oddsmill.schemas.chat import metering
from oddsmill.schemas.chat.metering import TooCostly, charge, counted, depth, light, listed, measure, metered
from oddsmill.schemas.chat.sandbox import compile_template
from oddsmill.schemas.chat.template import ChatTemplate, TemplateFailed
from oddsmill.schemas.errors import Refused

MESSAGES = [{"role": "user", "content": "q"}]


def shared_many_times(times: int) -> list:
    value = ["x"]
    for _ in range(times):
        value = [value, value]
    return value


def test_a_value_counts_as_often_as_it_stands_in_another():
    with metered(None):
        assert measure("abc") < measure(["abc"]) < measure(["abc", "abc"])
        assert measure(shared_many_times(8)) > 2 * measure(shared_many_times(7)) - 100
        assert depth(shared_many_times(8)) == 10 and depth({"a": [1]}) == 3
        with pytest.raises(TooCostly, match="makes a value"):
            light(shared_many_times(60))
        with pytest.raises(TooCostly, match="number of more than 4,096 bits"):
            light(1 << 5000)
        with pytest.raises(TooCostly, match="writes or copies"):
            charge(1 << 40)


def test_what_is_rendered_may_be_large_itself():
    """A row of 20 MB is written by a template that only writes it, and by one that adds it to a text turn by turn."""
    messages = [{"role": "user", "content": "x" * 2_000_000} for _ in range(10)]
    plain = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    adding = (
        "{% set ns = namespace(t='') %}{% for m in messages %}{% set ns.t = ns.t + m.content %}{% endfor %}{{ ns.t }}"
    )
    assert len(compile_template(plain).render(messages=messages)) == 10 * 2_000_007
    assert len(compile_template(adding).render(messages=messages)) == 20_000_000


def test_loops_keep_what_they_know_of_themselves():
    long = "{% for i in range(5000) %}{% if loop.last %}{{ loop.length }} {{ loop.index }}{% endif %}{% endfor %}"
    assert compile_template(long).render() == "5000 5000"
    of_filter = "{% for i in range(300)|select('odd') %}{{ i if loop.last }}{% endfor %}{% for x in none %}{% endfor %}"
    with pytest.raises(TypeError, match="'NoneType' object is not iterable"):
        compile_template(of_filter).render()
    with metered(None):
        assert counted([1, 2], 0) == [1, 2] and listed(iter("ab")) == ["a", "b"]


def test_threads_have_meters_of_their_own():
    template = compile_template("{% for i in range(9999) %}{% for j in range(9) %}{{ 'x' }}{% endfor %}{% endfor %}")
    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(len(template.render()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [89991, 89991]


def test_the_clock_ends_what_the_count_does_not_see(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metering, "_SECONDS", 0.2)
    slow = "{% set s = 'x' * 4000000 %}{% for i in range(99999) %}{% if 'y' in s %}{% endif %}{% endfor %}"
    started = time.monotonic()
    with pytest.raises(Refused, match="did not come to its end on the messages of a row") as caught:
        ChatTemplate(slow, {}).render(MESSAGES)
    assert not isinstance(caught.value, TemplateFailed)  # no drop: it depends on the machine
    assert time.monotonic() - started < 20


def test_a_template_that_costs_too_much_fails_on_the_row():
    with pytest.raises(TemplateFailed, match="the chat template would cost too much: it makes a value of"):
        ChatTemplate("{{ 'x' * 10 ** 9 }}", {}).render(MESSAGES)
