"""Strategies of hypothesis for damaged bytes, tables, JSON and YAML: mostly right, with something wrong."""

import copy
import json

from hypothesis import strategies as st

# What people and machines write where something else belongs.
ODD = st.sampled_from(
    [
        *("", " ", "NA", "nan", "inf", "-1", "0", "1e5", "1e999", "001", "1.0", "1.5", "TRUE", "null", "~"),
        *(
            "../x",
            "/x",
            "C:x",
            "a\\b",
            "a\0b",
            "=1+1",
            "<script>",
            "\ufeff",
            "é",
            "\u202e",
            "'",
            '"',
            ",",
            ";",
        ),
        *(
            "\n",
            "\r",
            "\t",
            "x" * 300,
            "9" * 30,
            "9" * 5000,
            "[" * 300,
            "{",
            "&a [*a]",
            "*a",
            "!!python/name:os",
        ),
    ]
)
WORDS = st.one_of(ODD, st.text(max_size=12))
NUMBERS = st.one_of(
    st.integers(-3, 20), st.integers(), st.floats(), st.sampled_from([2**31, 2**63, 2**64, -(2**63), 10**30])
)
FEW = st.sampled_from([0, 1, 1, 1, 2, 3])
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=6,
)


@st.composite
def damaged(draw, real):
    """The bytes `real` cut, flipped, filled in or left out in places; sometimes bytes of any kind."""
    kind = draw(st.sampled_from(["cut", "flip", "flip", "insert", "delete", "random"]))
    body = bytearray(real)
    at = draw(st.integers(0, max(len(body) - 1, 0)))
    if kind == "cut":
        return bytes(body[:at])
    if kind == "flip":
        for _ in range(draw(st.integers(1, 6))):
            body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
        return bytes(body)
    if kind == "insert":
        return bytes(body[:at] + draw(st.binary(max_size=12)) + body[at:])
    if kind == "delete":
        return bytes(body[:at] + body[at + draw(st.integers(1, 64)) :])
    return draw(st.binary(max_size=200))


def places(value, path=()):
    """Every path of keys and indices into a value of JSON."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield from places(inner, (*path, key))


@st.composite
def changed(draw, real, junk=JSON):
    """A value of JSON like `real` in which up to three places are replaced, removed or added to."""
    value = copy.deepcopy(real)
    for _ in range(draw(FEW)):
        path = draw(st.sampled_from(list(places(value))))
        if not path:
            if draw(st.integers(0, 9)) == 0:
                value = draw(junk)
            elif isinstance(value, dict):
                value[draw(WORDS)] = draw(junk)
            continue
        inner = value
        for key in path[:-1]:
            inner = inner[key]
        if isinstance(inner, dict) and draw(st.integers(0, 3)) == 0:
            del inner[path[-1]]
        else:
            inner[path[-1]] = draw(junk)
    return value


@st.composite
def as_json(draw, real):
    """The bytes of a changed value of JSON, damaged now and then."""
    body = json.dumps(draw(changed(real))).encode("utf-8", "surrogatepass")
    return draw(damaged(body)) if draw(st.integers(0, 7)) == 0 else body


@st.composite
def as_table(draw, header, rows):
    """The bytes of a csv table in which cells, names of columns, rows, the dialect or bytes are wrong."""
    cells = [list(map(str, row)) for row in (header, *rows)]
    for _ in range(draw(FEW)):
        row = draw(st.sampled_from(cells))
        kind = draw(st.sampled_from(["cell", "cell", "cell", "more", "fewer", "again"]))
        if kind == "cell" and row:
            row[draw(st.integers(0, len(row) - 1))] = draw(WORDS)
        elif kind == "more":
            row.append(draw(WORDS))
        elif kind == "fewer" and row:
            row.pop()
        elif kind == "again":
            cells.append(list(row))
    sign, end = draw(st.sampled_from([*",,,,,,;\t"])), draw(st.sampled_from(["\n", "\n", "\r\n"]))
    coding = draw(st.sampled_from([*["utf-8"] * 8, "utf-8-sig", "utf-16", "latin-1"]))
    body = end.join(map(sign.join, cells)).encode(coding, "replace")
    return draw(damaged(body)) if draw(st.integers(0, 7)) == 0 else body
