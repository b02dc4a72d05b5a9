"""Templates in bounds: a hostile one refuses the chat, in no time and no memory."""

from __future__ import annotations

import time

import pytest
from jinja2.exceptions import SecurityError

from service.engine.text import sandbox
from service.engine.text.sandbox import BoundedEnvironment

LONG = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
HOSTILE = [
    "{{ 'x' * 10**10 }}",
    "{{ 10**10 * 'x' }}",
    "{{ ['x'] * 10**10 }}",
    "{% set n = namespace(x='x' * 1000000) %}{% for i in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{{ 9 ** 999999999 }}",
    "{{ 10 ** 4000 * 10 ** 4000 }}",
    "{{ '%99999999999d' % 1 }}",
    "{{ '%*d' % (99999999999, 1) }}",
    "{{ 'x'.ljust(10 ** 10) }}",
    "{{ 'x'.center(10 ** 10) }}",
    "{% for i in range(9999) %}{{ message }}{% endfor %}",
    "{% set n = namespace(x=message) %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{% set n = namespace(x=[]) %}{% for i in range(99) %}{% set n.x = n.x + [message * 60] %}{% endfor %}",
    "{{ message.replace('x', message) }}",
    "{{ message | replace('x', message) }}",
    "{{ message.join(range(1000) | map('string')) }}",
    "{{ range(1000) | join(message) }}",
    "{{ range(1000) | map('replace', 0, message) | map('string') | join(message) }}",
    "{{ [message] * 1000 }}",
    "{{ [[message] * 1000] | tojson }}",
    "{{ ([message] * 1000) | string | length }}",
    "{{ [1] | tojson(indent=99999999999) }}",
    "{{ '%s' * 1000 % ((message,) * 1000) }}",
    "{{ '{0}{0}{0}{0}{0}{0}{0}{0}{0}'.format(message * 30) }}",
    "{{ '{:999999999999}'.format(1) }}",
    "{{ '{:{}}'.format(1, 999999999999) }}",
    "{{ '%99999999999d' | format(1) }}",
    "{{ 'x' | center(99999999999) }}",
    "{{ 'x' | indent(99999999999, true) }}",
    "{{ 'x' | indent(width=99999999999, first=true) }}",
    "{{ message | wordwrap(1, wrapstring=message) }}",
    "{{ [1] | batch(99999999999, 0) | list }}",
    "{{ [1] | slice(99999999999, 0) | list }}",
    "{{ ([[message] * 9999] * 9999) | sum(start=[]) }}",
    "{{ (message * 40) | list | length }}",
    "{{ (message * 40).split() }}",
    "{{ message.translate({120: message}) }}",
    "{% macro m() %}{{ message }}{% endmacro %}{% for i in range(999) %}{% set x = m() ~ m() %}{% endfor %}",
    LONG,
]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """No template has long."""
    monkeypatch.setattr(sandbox, "RENDER_S", 0.1)


@pytest.mark.parametrize("source", HOSTILE, ids=lambda source: source[:20])
def test_hostile_template_refuses(source: str) -> None:
    """By an error that is the template's own, soon."""
    began_s = time.process_time()
    with pytest.raises(SecurityError):
        BoundedEnvironment().from_string(source).render(message="x" * 1_000_000)

    assert time.process_time() - began_s < 1.5


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ 'a' ~ 1 ~ none ~ [1] }}", "a1None[1]"),
        ("{{ [1, 'b'] | join(', ') }}{{ ['a'] | map('upper') | join }}", "1, bA"),
        (
            "{{ '-'.join(['a', 'b']) }}{{ 'aXb'.replace('X', 'y') }}{{ 'a b'.split()[1] }}",
            "a-bayb" + "b",
        ),
        ("{{ '{} {x}'.format(1, x=2) }}{{ '%s|%s' | format(1, 2) }}", "1 21|2"),
        (
            "{{ {'a': [1]} | tojson(indent=1) }}{{ 'a\\nb' | indent(2) }}",
            '{\n "a": [\n  1\n ]\n}a\n  b',
        ),
        (
            "{{ [1, 2, 3] | batch(2) | list }}{{ [[1], [2]] | sum(start=[]) }}",
            "[[1, 2], [3]][1, 2]",
        ),
        ("{{ missing }}{{ missing ~ 'x' }}", "x"),
        ("{{ 'ab' * 3 + 'c' }}", "abababc"),
        ("{{ 2 ** 10 * 3 % 7 }}", "6"),
        ("{{ '%5.1f|%s' % (1.25, 'a') }}", "  1.2|a"),
        ("{{ [1] + [2] }}{{ 'a' ~ 1 }}", "[1, 2]a1"),
        ("{% for i in range(3) %}{{ i }}{% endfor %}", "012"),
        ("{{ 'x' if a is defined else 'y' }}", "y"),
    ],
)
def test_what_templates_do_is_done(source: str, expected: str) -> None:
    """Within bounds it is Jinja as ever."""
    assert expected == BoundedEnvironment().from_string(source).render()


def test_time_is_each_rendering_s_own() -> None:
    """What came in time is not ended later, however often."""
    template = BoundedEnvironment().from_string("{% for i in range(99) %}{% endfor %}ok")
    with pytest.raises(SecurityError, match="too long"):
        BoundedEnvironment().from_string(LONG).render()
    end_s = time.perf_counter() + 0.3
    while time.perf_counter() < end_s:
        assert "ok" == template.render()
