"""What the original says of a sequence, kept on disk: of each token its likeliest next ones, all others together.

`BONDWISE_HOME/teacher/<key>/` holds a safetensors file a sequence, named by what the sequence is: whatever run, batch or number of
processes meets it again need not ask the model. The key is over the original's weights, the number of tokens kept and the temperature. Two
runs may use one folder at once. A token takes 6 bytes for each of them: with 64 and sequences of 512 tokens 0.2 MB a sequence.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from bondwise import atomic
from bondwise.kept import make_room
from bondwise.queue import bondwise_home

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from bondwise.packing import Packed

LEAST = -1e4
"""A log-probability that is none; half precision holds it."""
AT_ONCE = 64 << 20
"""Bytes that room is made for at a time."""


class Likeliest(NamedTuple):
    """Of each token the likeliest next ones at one temperature, and all others together."""

    log_probabilities: Tensor  # float16 [tokens, kept + 1], the largest first, that of all others last
    ids: Tensor  # int32 [tokens, kept]


def likeliest(logits: Tensor, kept: int, temperature: float) -> Likeliest:
    """Of logits [tokens, vocabulary]."""
    scores = logits.float() / temperature
    total = scores.logsumexp(-1, keepdim=True)  # [tokens, 1]
    values, ids = scores.topk(min(kept, scores.shape[1]), -1)
    # Not what is left to 1: where that is little it would be the rounding of the others.
    others = scores.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True).clamp(min=LEAST)
    return Likeliest((torch.cat([values, others], -1) - total).clamp(min=LEAST).half(), ids.int())


class TeacherStore:
    """What is kept of one original. `warn` is told once when the disk has no more room for it."""

    def __init__(self, key: str, warn: Callable[[str], None]) -> None:
        self.folder = bondwise_home() / "teacher" / key
        self._warn = warn
        self._room = 0
        self._full = False
        with suppress(FileNotFoundError):
            os.utime(self.folder)

    def read(self, pack: Packed) -> Likeliest | None:
        """None where it is not kept, or its file is damaged."""
        try:
            tensors = load((self.folder / _name(pack)).read_bytes())
            return Likeliest(tensors["log_probabilities"], tensors["ids"])
        except (OSError, SafetensorError, KeyError):
            return None

    def write(self, pack: Packed, found: Likeliest) -> None:
        """Keeps it, where there is room."""
        if self._full:
            return
        data = save({name: tensor.cpu() for name, tensor in found._asdict().items()})
        try:
            if self._room < len(data):
                if not make_room(self.folder, AT_ONCE):
                    raise OSError("there is no room for it")
                self._room = AT_ONCE
            self.folder.mkdir(parents=True, exist_ok=True)
            atomic.write_bytes(self.folder / _name(pack), data, durable=False)
            self._room -= len(data)
        except OSError as failure:
            self._full = True
            self._warn(f"No more of what the original says is kept in {self.folder}: {failure}.")


def _name(pack: Packed) -> str:
    """By the sequence and the places in it where something is learnt."""
    digest = hashlib.blake2b(digest_size=20)
    for tensor in (pack.input_ids, pack.position_ids, pack.labels >= 0):
        digest.update(tensor.numpy().tobytes())
    return f"{digest.hexdigest()}.safetensors"


def teacher_key(weights: str, kept: int, temperature: float, device: str) -> str:
    """`weights` identifies the original's weights; of the device the kind counts, which decides the precision."""
    told = f"1 {weights} {kept} {temperature!r} {device.partition(':')[0]} {torch.__version__}"
    return hashlib.sha256(told.encode()).hexdigest()
