"""The ids of several texts in one array: what an engine makes, without a Python object for each id."""

from array import array
from collections.abc import Iterable
from typing import NamedTuple


class FlatIds(NamedTuple):
    """The ids of several texts, one text after another.

    Attributes:
      ids: all ids, int32.
      offsets: text i has ids[offsets[i]:offsets[i + 1]]; one more than there are texts.
    """

    ids: "array[int]"
    offsets: list[int]

    def of(self, text: int) -> list[int]:
        """Returns the ids of one text by its number."""
        return self.ids[self.offsets[text] : self.offsets[text + 1]].tolist()


def flatten(ids_of_texts: Iterable[list[int]]) -> FlatIds:
    """Joins the ids of texts."""
    ids, offsets = array("i"), [0]
    for text_ids in ids_of_texts:
        ids.extend(text_ids)
        offsets.append(len(ids))
    return FlatIds(ids, offsets)
