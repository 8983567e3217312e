"""`explain`: shows every decision on one source row, from its bytes to its place in a row of the dataset."""

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from oddsmill.pipeline.commands.data_console import DataConsole
from oddsmill.pipeline.commands.inspect import BRANCH_STYLES, side_text
from oddsmill.pipeline.config import DatasetSettings
from oddsmill.pipeline.formats import keys
from oddsmill.pipeline.formats.layouts import describe_source
from oddsmill.pipeline.formats.pairs import NOTE_MEANINGS, ChatPair, PairIds
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.pipeline.input.sampling import find_row
from oddsmill.pipeline.output.folder import shard_name
from oddsmill.pipeline.resolved_run import ResolvedRun, resolve_run
from oddsmill.pipeline.tokens.differences import note_differences
from oddsmill.pipeline.tokens.tokenization import encode_pairs
from oddsmill.pipeline.tokens.tokenizer import load_for_run
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.drops import Dropped
from oddsmill.schemas.errors import require
from oddsmill.schemas.layout import SIDE_OF_BRANCH, derive
from oddsmill.schemas.record import Pair, make_row
from oddsmill.schemas.settings import setting, settings
from oddsmill.schemas.text.printable import printable_line

if TYPE_CHECKING:
    from oddsmill.pipeline.formats.pairs import Pair as SourcePair

_RAW_CHARACTERS = 2000
_LAYOUT_ENDS = 4  # positions shown at each end of a branch


@settings()
class ExplainConfig(DatasetSettings):
    """Settings of `oddsmill pipeline explain`: those of `run`, of which output is not needed, and these."""

    row: str = setting("The row's number in its file, from 0, as rejects/ and inspect give it; or FILE:NUMBER.")
    file: int | None = setting(
        "The file's number in the list of inputs, from 0. It is needed where there are several and row names none.",
        default=None,
    )

    def check(self) -> None:
        number = self.row.rpartition(":")[2]
        require(number.isdigit(), "row", self.row, "give the number of a row, from 0, or FILE:NUMBER")
        require(self.file is None or ":" not in self.row, "file", self.file, f"--row={self.row} names the file already")


def print_explanation(config: ExplainConfig, console: DataConsole | None = None) -> None:
    """Prints all that happens to one row.

    Raises:
      Refused: as `run` refuses settings and input; no such file or row.
    """
    resolved = resolve_run(config)
    tokenizer = load_for_run(resolved.tokenizer_folder, config)
    raw = find_row(resolved.inputs, config.row, config.file)
    console = console or DataConsole()
    if not console.is_terminal:
        console.width = 140  # a pipe has no width of its own, and a rule's name is to stay in one line
    Explainer(resolved, tokenizer, console).explain(raw)


class Explainer:
    """Runs one row through the functions that a run uses, and prints what each of them decides."""

    def __init__(self, resolved: ResolvedRun, tokenizer: Tokenizer, console: DataConsole):
        self._resolved, self._config, self._tokenizer, self._console = resolved, resolved.config, tokenizer, console

    def explain(self, raw: RawRow) -> None:
        """Prints the whole way of a row, or the way to where it is dropped."""
        self._head(f"row {raw.origin.row} of {self._resolved.paths[raw.origin.file]}")
        text = raw.as_text()
        self._say("raw", text[:_RAW_CHARACTERS] + (f" … ({len(text):,} characters)" if text[_RAW_CHARACTERS:] else ""))
        source = self._resolved.sources[raw.origin.file]
        given = self._config.sources[self._resolved.inputs[raw.origin.file].source]
        self._say("format", describe_source(source, given))
        not_read = Counter[str]()
        try:
            pairs = self._resolved.rules.parse_row(raw, source=source, not_read=not_read)
        except Dropped as dropped:
            return self._dropped("when parsed", dropped)
        if not_read:
            self._say("not read", ", ".join(not_read))
        for index, pair in enumerate(pairs):
            if len(pairs) > 1:
                self._head(f"pair {index + 1} of {len(pairs)}")
            self._explain_pair(pair, raw)
        return None

    def _explain_pair(self, pair: "SourcePair", raw: RawRow) -> None:
        for side in BRANCH_STYLES:
            self._say(side, repr(getattr(pair, side)))
        (encoded,) = encode_pairs([pair], self._tokenizer, self._resolved.rules, self._config)
        if isinstance(encoded, Dropped):
            return self._dropped("when rendered by the chat template", encoded)
        if isinstance(pair, ChatPair):
            self._head("rendered by the chat template")
            for side in BRANCH_STYLES:
                self._say(side, repr(getattr(encoded.rendered.texts, side)))
            for part in encoded.rendered.left_out:
                self._say("left out", f"the {part}: the chat template does not write it")
        for note in encoded.rendered.notes | note_differences(encoded.rendered.texts):
            self._say("counted", f"among the {NOTE_MEANINGS[note]}")
        self._head("tokens")
        prompt, with_chosen, with_rejected = encoded.sides
        self._say(
            "encoded",
            f"prompt {len(prompt)}, prompt + chosen {len(with_chosen)}, prompt + rejected {len(with_rejected)}",
        )
        try:
            before, lines = self._resolved.rules.explain_boundary(encoded, self._tokenizer)
            for name, text in lines:
                self._say(name, text)
            ids = self._resolved.rules.make_ids(encoded, self._tokenizer, self._config)
        except Dropped as dropped:
            return self._dropped("by the rules for tokens and lengths", dropped)
        self._explain_lengths(before, ids)
        self._explain_place(pair, ids, raw)
        return None

    def _explain_lengths(self, before: PairIds, after: PairIds) -> None:
        self._head(f"length rules (max_length {self._config.max_length})")
        steps = self._resolved.rules.explain_lengths(before, after, self._config)
        table = Table(box=None, pad_edge=False)
        table.add_column("rule")
        for side in BRANCH_STYLES:
            table.add_column(side, justify="right")
        for number, (rule, lengths) in enumerate(steps):
            changed = number and lengths != steps[number - 1][1]
            table.add_row(rule, *map(str, lengths), style="bold" if changed else None)
        self._console.print(table)
        self._say("cut", ", ".join(after.truncated.names()) or "nothing")

    def _explain_place(self, pair: "SourcePair", ids: PairIds, raw: RawRow) -> None:
        config, resolved = self._config, self._resolved
        places = keys.place_pairs([pair], [raw.origin], config, resolved.num_shards)
        identity, rank, (split, shard) = int(places.ids[0]), int(places.ranks[0]), places.shard(0)
        self._head("place")
        self._say("id", f"{identity:016x}")
        why = "by the prompt's hash" if config.shuffle else "shuffle is off: one split, source order"
        self._say("split", f"{split} ({why})")
        self._say("shard", shard_name(split, shard, resolved.num_shards[split]))
        self._say("rank", f"{rank:016x}: its place in the order there")
        if config.dedup == "exact":
            self._say("dedup", "exact: kept if no other row has its texts, which only a run can tell")
        slots = sum(ids.lengths)
        self._say("slots", f"{slots} of a row's {config.slots}{'' if config.packing else ', alone in its row'}")
        stored = Pair(
            prompt=ids.prompt.tolist(), chosen=ids.chosen.tolist(), rejected=ids.rejected.tolist(),
            id=identity, truncated=ids.truncated,
            unscored_chosen=ids.unscored_chosen, unscored_rejected=ids.unscored_rejected,
        )  # fmt: skip
        self._head("layout")
        for side in BRANCH_STYLES:
            self._console.print(side_text(stored, side, self._tokenizer))
        for side, spans in (("chosen", stored.unscored_chosen), ("rejected", stored.unscored_rejected)):
            for start, end in spans:
                text = self._tokenizer.decode(getattr(stored, side)[start:end])
                self._say("no loss", f"{side}, tokens {start} to {end - 1}: {text!r}")
        self._print_layout(stored, slots)

    def _print_layout(self, pair: Pair, slots: int) -> None:
        """Prints inputs and labels by position; a long branch is shown by its two ends."""
        row = make_row(
            [pair],
            row_length=slots,
            pad_id=self._resolved.tokenizer.pad_id,
            vocab_size=self._resolved.tokenizer.vocab_size,
        )
        arrays = derive(row)
        table = Table(box=None, pad_edge=False)
        for heading in ("slot", "branch", "position", "input", "label", "end"):
            table.add_column(heading, justify="left" if heading in ("branch", "input", "label") else "right")
        sizes = (len(pair.prompt) - 1, len(pair.chosen), len(pair.rejected))
        ends = [0, sizes[0], sizes[0] + sizes[1], sum(sizes)]
        for (name, (style, _)), (start, end) in zip(BRANCH_STYLES.items(), pairwise(ends), strict=True):
            for slot in range(start, end):
                if start + _LAYOUT_ENDS <= slot < end - _LAYOUT_ENDS:
                    if slot == start + _LAYOUT_ENDS:
                        table.add_row("…", name, style=style)
                    continue
                tokens = (
                    self._tokenizer.quote([int(arrays.inputs[slot])]),
                    self._tokenizer.quote([int(arrays.labels[slot])]),
                )
                scored = arrays.branch[slot] == SIDE_OF_BRANCH[arrays.branch[slot]]
                table.add_row(
                    str(slot),
                    name if scored else f"{name}, no loss",
                    str(arrays.position[slot]),
                    *map(Text, tokens),
                    str(arrays.end[slot]),
                    style=style,
                )
        self._console.print(table)

    def _head(self, text: str) -> None:
        self._console.print(Text(f"\n{printable_line(text)}", style="bold"))

    def _say(self, name: str, text: str) -> None:
        self._console.print(Text(f"{name:<10} ", style="dim").append(printable_line(text), style="not dim"))

    def _dropped(self, where: str, dropped: Dropped) -> None:
        self._console.print(
            Text(
                f"dropped {where}: {dropped.reason} ({dropped.reason.meaning}): {printable_line(dropped.detail)}",
                style="bold red",
            )
        )
