"""What a model is healed on, from what the request names: sequences to train on, without end, and others to validate on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from bondwise.checkpoint import open_checkpoint
from bondwise.conversations import Encoder
from bondwise.documents import open_source, own_source
from bondwise.evaluate import check_fits
from bondwise.own_text import written_text
from bondwise.packing import Feed, Packed, Packing, Weighted, keeps_documents_apart, validation_sequences
from bondwise.schema import CalibrationOptions
from bondwise.text import OWN_TEXT

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bondwise.documents import Source
    from bondwise.run import Run
    from bondwise.schema import HealOptions
    from bondwise.team import Team
    from bondwise.told import Told

OWN_SEQUENCES = 64
"""How many sequences the original model writes where a source is `self`."""


class HealingData(NamedTuple):
    feed: Feed
    validation: list[Packed]
    epoch: int | None
    """Sequences in an epoch of the first source, about; None where only reading it would tell."""


def open_data(  # noqa: PLR0917
    run: Run, options: HealOptions, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, original: Path, told: Told, team: Team
) -> HealingData:
    """`original` is the folder of the model that writes text where a source is `self`.

    Raises UserError where a source cannot be read or used, and where the model takes no sequences of that length.
    """
    encoder = Encoder(tokenizer, original.name)
    run.phase("Reading the data")

    def opened(data: str) -> Source:
        if data != OWN_TEXT:
            return open_source(data, encoder, team.check_alone)
        asked = CalibrationOptions(data=OWN_TEXT, length=options.length, sequences=OWN_SEQUENCES)
        return own_source(written_text(run, open_checkpoint(original, allow_code=run.request.allow_code), asked, told.warn))

    sources = [Weighted(opened(one.data), one.weight) for one in options.data]
    packing = Packing(options.length, encoder.beginning, encoder.padding, together=keeps_documents_apart(model))
    feed = Feed(sources, packing, seed=run.request.seed, rank=team.rank, world=team.world)
    validation = validation_sequences(sources, packing, options.validation_sequences)
    check_fits(model, torch.stack([pack.input_ids for pack in validation]))  # [sequences, length]
    for warning in (*(warning for source, _ in sources for warning in source.warnings()), *encoder.warnings()):
        told.warn(warning)
    tokens = sources[0].source.facts.tokens
    return HealingData(feed, validation, None if tokens is None else max(round(tokens / options.length), 1))
