"""The part of Arrow's format that pyarrow does not tell before it has acted on it.

A message begins with a mark and a length, four bytes each; then comes a flatbuffer. A table in it begins with the
distance back to the list of its fields' places, two bytes each after two others; a field without a place is absent.

Source: Message.fbs and File format of Apache Arrow; the internals of FlatBuffers.
"""

import struct

_INT32, _UINT32, _UINT16 = struct.Struct("<i"), struct.Struct("<I"), struct.Struct("<H")
_MESSAGE_HEADER, _BATCH_COMPRESSION = 2, 3  # the numbers of these fields in their tables


def declares_compression(content: bytes, begin: int) -> bool:
    """Says whether a record batch declares compressed columns, which a few bytes may make as large as they like.

    Args:
      content: a stream of messages.
      begin: where the message of the batch begins in it.

    Raises:
      struct.error: it is no such message.
    """
    start = begin + 8
    message = start + _UINT32.unpack_from(content, start)[0]
    batch = _field(content, message, _MESSAGE_HEADER)
    if not batch:
        return False
    return _field(content, batch + _UINT32.unpack_from(content, batch)[0], _BATCH_COMPRESSION) != 0


def _field(content: bytes, table: int, number: int) -> int:
    """Returns where a field of a table stands; 0 where it is absent."""
    places, at = table - _INT32.unpack_from(content, table)[0], 4 + 2 * number
    has_place = at < _UINT16.unpack_from(content, places)[0]
    place = _UINT16.unpack_from(content, places + at)[0] if has_place else 0
    return table + place if place else 0
