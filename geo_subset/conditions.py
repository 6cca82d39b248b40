"""SQL conditions that users write: which of them are accepted.

A condition is one boolean expression over the columns of one row. DuckDB's own parser reads it; every node of what it
makes of it must be of a known kind, every function one of `FUNCTIONS`: those give the same for the same row, read
nothing but their arguments, and give no more than they get. What is checked here is run by `fitting`, in a database
without access to files (`storage.database`).
"""

from __future__ import annotations

import json
from typing import Any

import duckdb
import pyarrow as pa

from geo_subset import storage
from geo_subset.errors import SettingsError

#: Characters of a condition; a long list of domains belongs into a blocklist.
MAX_LENGTH = 20_000
#: Brackets within brackets, and expressions within expressions: parsing and binding deep ones takes minutes.
MAX_DEPTH = 100
#: Kinds of expressions. Not among them: SUBQUERY, WINDOW, LAMBDA, STAR, PARAMETER, POSITIONAL_REFERENCE, DEFAULT.
_KINDS = {
    "BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION", "OPERATOR",
    "TYPE",
}  # fmt: skip
#: What a condition may call, operators included. None repeats or replaces text, as nested ones would fill the memory.
_FUNCTIONS = (
    "+ - * / // % ^ ** & | ~ || ~~ !~~ ~~* !~~* ~~~ ^@ << >> @ && @> <@ abs acos array_contains array_has "
    "array_has_all array_has_any array_length array_position array_slice ascii asin atan atan2 bit_count "
    "cardinality cbrt ceil ceiling char_length character_length concat concat_ws constant_or_null contains cos cot "
    "degrees divide ends_with even exp floor fmod fdiv greatest ilike_escape instr isfinite isinf isnan jaccard "
    "lcase least left left_grapheme len length length_grapheme like_escape list_avg list_contains list_count "
    "list_distinct list_element list_extract list_has list_has_all list_has_any list_indexof list_intersect "
    "list_max list_median list_min list_position list_product list_slice list_sort list_sum list_unique "
    "list_value list_first list_last ln log log10 log2 lower ltrim md5 mod multiply nfc_normalize "
    "nextafter not_ilike_escape not_like_escape nullif ord pi position pow power prefix radians regexp_escape "
    "regexp_extract regexp_extract_all regexp_full_match regexp_matches regexp_split_to_array reverse right "
    "right_grapheme round round_even row rtrim sha256 sign signbit sin split split_part sqrt starts_with str_split "
    "str_split_regex string_split string_split_regex string_to_array strip_accents strlen strpos substr substring "
    "substring_grapheme subtract suffix tan trim trunc ucase unicode upper url_decode xor "
)
FUNCTIONS = frozenset(_FUNCTIONS.split())
_PLACES_IN_TEXT = ("query_location", "query_location_length")


def check(key: str, text: str, schema: pa.Schema, table: str) -> None:
    """Raises SettingsError unless `text`, the setting `key`, is a condition over the columns of `schema`.

    They may be written as those of `table`.
    """
    problem = _wrong_text(text) or _wrong_expression(text, schema, table)
    if problem:
        raise SettingsError(f"{key} = {shown(text)}: {problem}")


def shown(text: str) -> str:
    """A condition for one line."""
    return repr(text if len(text) <= 200 else f"{text[:200]}...")


def fitting(connection: duckdb.DuckDBPyConnection, key: str, text: str, rows: pa.Table, table: str) -> pa.Table:
    """The rows for which a checked condition is true, not NULL. Raises SettingsError: it fails for one of them."""
    connection.register(table, rows)
    try:
        fits = connection.sql(f"SELECT ({text}\n) IS true AS fits FROM {table}").to_arrow_table()["fits"]
    except duckdb.Error as error:
        raise SettingsError(f"{key} = {shown(text)}: {_first_line(error)}") from None
    finally:
        connection.unregister(table)
    return rows.filter(fits)


def _wrong_text(text: str) -> str:
    """What is wrong before any parser reads it; empty if nothing is."""
    if not text.strip():
        return "a condition is wanted, this is empty"
    if len(text) > MAX_LENGTH:
        return f"{len(text):,} characters are more than the {MAX_LENGTH:,} that a condition may have"
    if not text.isascii() and _is_broken(text):
        return "it is not UTF-8"
    if "\0" in text:
        return "it holds a NUL"
    depth = 0
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        if depth > MAX_DEPTH:
            return f"its brackets are nested more than {MAX_DEPTH} deep"
    return ""


def _is_broken(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _wrong_expression(text: str, schema: pa.Schema, table: str) -> str:
    with storage.database("256MB", max_expression_depth=MAX_DEPTH) as connection:
        try:
            # In brackets and without them it must be the same: what closes a bracket that it never opened is not.
            plain, bracketed = (_parsed(connection, sql) for sql in (f"SELECT {text}\n", f"SELECT ({text}\n)"))
        except (ValueError, RecursionError) as error:
            return str(error)
        if plain != bracketed or _expression(plain) is None:
            return "a condition is one expression over the columns of a row"
        problem = _wrong_node(_expression(plain), {name.lower() for name in schema.names}, table)
        if problem:
            return problem
        connection.execute("SET lock_configuration = true")
        connection.register(table, pa.Table.from_pylist([{}], schema))  # constants that make no sense fail even so
        try:
            tried = connection.sql(f"SELECT ({text}\n) FROM {table}")
            (kind,) = tried.types
            tried.fetchall()
        except duckdb.Error as error:
            return _first_line(error)
    return "" if str(kind) == "BOOLEAN" else f"a condition is wanted, this gives {kind}"


def _parsed(connection: duckdb.DuckDBPyConnection, sql: str) -> Any:
    """What DuckDB's parser makes of it, without places in the text. Raises ValueError, with what it says, for errors"""
    try:
        rows = connection.execute("SELECT json_serialize_sql($1::VARCHAR)", [sql]).fetchall()
    except duckdb.Error as error:
        raise ValueError(_first_line(error)) from None
    tree = json.loads(rows[0][0], object_hook=_without_places)
    if tree["error"]:
        said = str(tree.get("error_message", "it cannot be read"))
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep" if "max_expression_depth" in said else said)
    return tree


def _without_places(node: dict[str, Any]) -> dict[str, Any]:
    for name in _PLACES_IN_TEXT:
        node.pop(name, None)
    return node


def _expression(tree: Any) -> Any:
    """The one expression of `SELECT expression`; None if anything else is there."""
    statements = [statement["node"] for statement in tree["statements"]]
    if len(statements) != 1 or statements[0]["type"] != "SELECT_NODE":
        return None
    select = dict(statements[0])
    expressions, source, ctes = select.pop("select_list"), select.pop("from_table"), select.pop("cte_map")
    for name in ("type", "aggregate_handling"):
        select.pop(name)
    if len(expressions) != 1 or source["type"] != "EMPTY" or any(ctes.values()) or any(select.values()):
        return None
    return expressions[0]


def _wrong_node(node: Any, columns: set[str], table: str) -> str:
    """What is not allowed of a parsed expression; empty if nothing is."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting.extend(node)
        if not isinstance(node, dict):
            continue
        waiting.extend(node.values())
        kind = node.get("class")
        if kind is None:
            continue
        if kind not in _KINDS:
            return f"a condition over a row's columns has no {str(kind).lower().replace('_', ' ')}"
        if kind == "COLUMN_REF":
            *of, name = (part.lower() for part in node["column_names"])
            if of not in ([], [table]) or name not in columns:
                return f"there is no column {'.'.join(node['column_names'])} (there are {', '.join(sorted(columns))})"
        if kind == "FUNCTION":
            name = str(node["function_name"]).lower()
            if name not in FUNCTIONS or node.get("schema") not in (None, "", "main") or node.get("catalog"):
                return f"the function {name} may not be called in a condition"
            if node.get("distinct") or node.get("filter") or (node.get("order_bys") or {}).get("orders"):
                return f"the function {name} takes no DISTINCT, FILTER or ORDER BY in a condition"
    return ""


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
