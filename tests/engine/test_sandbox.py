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
    LONG,
]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """No template has long."""
    monkeypatch.setattr(sandbox, "RENDER_S", 0.1)


@pytest.mark.parametrize("source", HOSTILE, ids=lambda source: source[:20])
def test_hostile_template_refuses(source: str) -> None:
    """By an error that is the template's own, soon."""
    began_s = time.perf_counter()
    with pytest.raises(SecurityError):
        BoundedEnvironment().from_string(source).render(message="x" * 1_000_000)

    assert time.perf_counter() - began_s < 1.5


@pytest.mark.parametrize(
    ("source", "expected"),
    [
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
