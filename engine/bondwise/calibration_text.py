"""The token ids that a run learns from, of one text or of several by turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bondwise.errors import UserError
from bondwise.schema import HealData
from bondwise.text import OWN_TEXT, token_sequences

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from bondwise.schema import CalibrationOptions


class CalibrationText:
    """What `options` ask for. What the model writes itself is not there until `ids`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: CalibrationOptions, seed: int) -> None:
        """Reads every text but the model's own. Raises UserError as `token_sequences` and `by_turns`."""
        self._options = options
        texts = [HealData(data=options.data), *options.also]
        self._turns = by_turns([text.weight for text in texts], options.sequences)
        self._own = {number: self._turns.count(number) for number, text in enumerate(texts) if text.data == OWN_TEXT}
        self._read = {
            number: token_sequences(
                tokenizer, text.data, "calibration", length=options.length, sequences=self._turns.count(number), seed=seed
            )
            for number, text in enumerate(texts)
            if number not in self._own
        }

    def ids(self, write: Callable[[CalibrationOptions], Tensor]) -> Tensor:
        """Token ids [sequences, length] int64; `write` gives those that the model writes."""
        import torch

        written = {
            number: write(self._options.model_copy(update={"data": OWN_TEXT, "also": [], "sequences": count}))
            for number, count in self._own.items()
        }
        rows = {number: iter(found) for number, found in (self._read | written).items()}
        return torch.stack([next(rows[number]) for number in self._turns])


def by_turns(weights: Sequence[float], sequences: int) -> list[int]:
    """Which text each sequence is of: always the one that lacks most of its share, so that both halves have the same mixture.

    Raises UserError where there are too few sequences for one of each.
    """
    total = sum(weights)
    turns: list[int] = []
    for done in range(1, sequences + 1):
        lacks = [weight / total * done - turns.count(number) for number, weight in enumerate(weights)]
        turns.append(lacks.index(max(lacks)))
    if (without := next((number for number in range(len(weights)) if number not in turns), None)) is not None:
        raise UserError(
            f"{sequences} sequences hold none of calibration text {without + 1} of {len(weights)}.",
            "Ask for more sequences (--sequences), for a larger share of it, or for fewer texts.",
        )
    return turns
