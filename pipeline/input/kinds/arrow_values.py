"""Values of Arrow's types as JSON has them: texts, numbers, lists, objects."""

import decimal
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.types as types

_PLAIN = (
    types.is_string,
    types.is_large_string,
    types.is_string_view,
    types.is_integer,
    types.is_float32,
    types.is_float64,
    types.is_boolean,
    types.is_null,
)
_LISTS = (types.is_list, types.is_large_list, types.is_list_view, types.is_large_list_view, types.is_fixed_size_list)
_LISTS_OF = (
    (types.is_list, pa.list_),
    (types.is_large_list, pa.large_list),
    (types.is_list_view, pa.list_view),
    (types.is_large_list_view, pa.large_list_view),
)
_BYTES_OF_TEXTS = (
    (types.is_string, pa.binary()),
    (types.is_large_string, pa.large_binary()),
    (types.is_string_view, pa.binary_view()),
)
_TIMES = (types.is_timestamp, types.is_date, types.is_time)


def is_plain(kind: pa.DataType) -> bool:
    """Tells whether all values of a type are such as JSON has when Arrow makes Python values of them."""
    if any(check(kind) for check in _LISTS) or types.is_dictionary(kind):
        return is_plain(kind.value_type)
    if types.is_struct(kind):
        return all(is_plain(kind.field(index).type) for index in range(kind.num_fields))
    return any(check(kind) for check in _PLAIN)


def check_memory(batch: pa.RecordBatch) -> None:
    """Checks that no value of a batch lies outside of its memory: a damaged file would be read past its end.

    Arrow ends its check at the first text that is not UTF-8, which is a matter of its row alone, and would not see what
    is wrong behind it: then texts are looked at as bytes. Only then: the view of a list of nulls loses their number.

    Raises:
      pa.ArrowInvalid: One does.
    """
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            if "UTF8" not in str(error):
                raise pa.ArrowInvalid(f"column {name!r}: {error}") from error
            column.view(_with_bytes(column.type)).validate(full=True)


def with_text_times(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Returns a batch whose times are texts: Python's own times end at microseconds and the year 9999."""
    for index, column in enumerate(batch.schema):
        kind = _with_texts(column.type)
        if kind != column.type:
            batch = batch.set_column(index, column.name, batch.column(index).cast(kind))
    return batch


def _with_bytes(kind: pa.DataType) -> pa.DataType:
    """Returns a type of the same layout with bytes where it has texts."""
    for check, of_bytes in _BYTES_OF_TEXTS:
        if check(kind):
            return of_bytes
    if isinstance(kind, pa.BaseExtensionType):
        return _with_bytes(kind.storage_type)
    if types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _with_bytes(kind.value_type), kind.ordered)
    if types.is_struct(kind):
        return pa.struct([field.with_type(_with_bytes(field.type)) for field in kind])
    if types.is_map(kind):
        return pa.map_(
            kind.key_field.with_type(_with_bytes(kind.key_type)), kind.item_field.with_type(_with_bytes(kind.item_type))
        )
    if types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_with_bytes(kind.value_type)), kind.list_size)
    for check, list_of in _LISTS_OF:
        if check(kind):
            return list_of(kind.value_field.with_type(_with_bytes(kind.value_type)))
    return kind


def _with_texts(kind: pa.DataType) -> pa.DataType:
    """Returns a type with texts where it has times; numbers where it has durations."""
    if types.is_struct(kind):
        return pa.struct([field.with_type(_with_texts(field.type)) for field in kind])
    if types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_with_texts(kind.value_type)))
    if types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_with_texts(kind.value_type)))
    if types.is_duration(kind):
        return pa.int64()
    return pa.string() if any(check(kind) for check in _TIMES) else kind


def as_plain(value: Any) -> Any:
    """Returns a value as JSON has it: bytes that are UTF-8 as a text, a decimal as a number, a time as a text.

    Bytes that are no text stay bytes: a picture beside a text costs nothing, and a format that wants a text says so.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value
    if isinstance(value, Mapping):
        return {str(as_plain(key)): as_plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(part) for part in value]
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value)
