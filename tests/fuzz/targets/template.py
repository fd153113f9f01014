"""Templates of plugins: parsed in bounded time, filled within the limit, and what they name is what they need."""

from __future__ import annotations

from coredeno.errors import InvalidArgument, LimitExceeded
from coredeno.services.template import fill, keys_of, missing, parse
from tests.fuzz.shape import require, require_equal, value_of

LIMIT = 10_000
SEEDS = [
    b'Dear {{ .name }}, {{ index . "any key" }} {{ "{{" }} {{ `raw \\ text` }}\n{{.a}}{{ .b_1 }}',
    b'{{ "\\u00e9\\U0001F600\\n\\"" }}{{ index . `k` }}',
    b"{{ range . }}{{ end }}{{",
]


def target(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    template = value_of(lambda: parse(text), InvalidArgument, LimitExceeded)
    if template is None:
        return
    keys = keys_of(template)
    require(missing(template, "g", keys) is None, "needs no more than its keys")
    require(not keys or missing(template, "g", keys[1:]) is not None, "needs each of its keys")
    filled = value_of(lambda: fill(template, dict.fromkeys(keys, "v" * 50), limit_bytes=LIMIT), LimitExceeded)
    if filled is None:
        return
    require(len(filled.encode()) <= LIMIT, "no larger than the limit")
    if "{{" not in text:
        require_equal(filled, text, "text without actions stays as it is")
