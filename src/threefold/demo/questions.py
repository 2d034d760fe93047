"""Compares what customers were told with what the database has: each promised question once, in its author's order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import psycopg

from threefold.demo.customers import Question


@dataclass(frozen=True, slots=True)
class QuestionsVerdict:
    promised: int
    unpromised: int  # asked, never answered: promised to nobody
    lost: tuple[str, ...]  # promised, and not there
    twice: tuple[str, ...]
    disordered: tuple[str, ...]  # filed before an earlier one of the same author

    @property
    def exact(self) -> bool:
        return not (self.lost or self.twice or self.disordered)

    @property
    def sentence(self) -> str:
        if self.exact:
            return f"{self.promised:,} questions were promised to be kept: 0 are lost, 0 are there twice, all in order"
        wrong = [*self.lost, *self.twice, *self.disordered]
        return f"the promise is broken: {len(wrong)} questions, the first: {wrong[0]}"


def judge_questions(conninfo: str, questions: Sequence[Question]) -> QuestionsVerdict:
    """Of the whole day, in the order in which the data log has them."""
    with psycopg.connect(conninfo) as connection:
        rows = connection.execute(
            "SELECT subject FROM crm.queries WHERE subject LIKE 'Question %' ORDER BY created_at, id"
        ).fetchall()
    return judged(questions, [row[0] for row in rows])


def judged(questions: Sequence[Question], filed: Sequence[str]) -> QuestionsVerdict:
    """``filed``: subjects, as the database has them. Pure."""
    times, place = Counter(filed), {subject: at for at, subject in enumerate(filed)}
    by_author: dict[str, list[str]] = {}
    for each in sorted(questions, key=lambda question: question.number):
        if each.subject in place:
            by_author.setdefault(each.who, []).append(each.subject)
    return QuestionsVerdict(
        promised=sum(each.told != 0 for each in questions),
        unpromised=sum(each.told == 0 for each in questions),
        lost=tuple(each.subject for each in questions if each.told and each.subject not in times),
        twice=tuple(subject for subject, count in times.items() if count > 1),
        disordered=tuple(
            later for mine in by_author.values() for one, later in pairwise(mine) if place[later] < place[one]
        ),
    )
