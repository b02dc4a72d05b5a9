"""Conversations into batches of token ids."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np

from service.training.conversations import Teacher
from service.training.tokenizer import END_OF_TURN, PAD, START_OF_TURN


class Lessons:
    """
    Turns conversations into batches of token ids, about *n_tokens* a batch with the padding.

    Rows of a batch have about the same length; only answers and their end count for the loss.
    """

    def __init__(self, teacher: Teacher, tokenizer: Any, n_tokens: int, seed: int) -> None:
        self._teacher = teacher
        self._tokenizer = tokenizer
        self._n_tokens = n_tokens
        self._random = random.Random(seed)
        self._head = [START_OF_TURN, *tokenizer.encode("model\n", add_special_tokens=False)]

    def batches(self) -> Iterator[tuple[mx.array, mx.array, mx.array]]:
        """Yield inputs (rows, n), the flat places of answer tokens (m,) and these tokens (m,)."""
        while True:
            rows = sorted((self._row() for _ in range(512)), key=len)
            groups: list[list[list[int]]] = [[]]
            for row in rows:
                if len(row) * (len(groups[-1]) + 1) > self._n_tokens and groups[-1]:
                    groups.append([])
                groups[-1].append(row)
            self._random.shuffle(groups)
            yield from (self._batch(group) for group in groups)

    def _row(self) -> list[int]:
        talk = self._teacher.conversation()
        tools = [json.loads(tool) for tool in talk.tools] or None
        ids: list[int] = self._tokenizer.apply_chat_template(
            talk.messages(), tools=tools, return_dict=False
        )
        return ids

    def _batch(self, rows: list[list[int]]) -> tuple[mx.array, mx.array, mx.array]:
        width = max(map(len, rows)) - 1
        inputs = np.full((len(rows), width), PAD, dtype=np.int32)
        places: list[int] = []
        targets: list[int] = []
        for index, row in enumerate(rows):
            inputs[index, : len(row) - 1] = row[:-1]
            for place in self._answer_places(row):
                places.append(index * width + place - 1)
                targets.append(row[place])
        return mx.array(inputs), mx.array(places), mx.array(targets)

    def _answer_places(self, row: list[int]) -> Iterator[int]:
        """Yield where the tokens of the answers stand in *row*, each end of turn included."""
        in_answer = False
        for place, token in enumerate(row):
            if in_answer:
                yield place
            if row[place - len(self._head) + 1 : place + 1] == self._head:
                in_answer = True
            elif token == END_OF_TURN:
                in_answer = False
