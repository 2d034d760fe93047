"""The judge of the second story finds each way in which a promise to a customer can be broken."""

from __future__ import annotations

from threefold.demo.customers import FILED, TAKEN, Question
from threefold.demo.questions import judged


def question(who: str, number: int, told: int = FILED) -> Question:
    return Question(who, number, asked=0.0, told=told)


ASKED = [question("Ada", 1), question("Ada", 2, TAKEN), question("Bo", 1), question("Bo", 2, told=0)]
ADA_1, ADA_2, BO_1, BO_2 = (each.subject for each in ASKED)


def test_what_was_promised_is_there_once_in_order() -> None:
    assert judged(ASKED, [BO_1, ADA_1, ADA_2]).exact
    assert judged(ASKED, [ADA_1, BO_1, BO_2, ADA_2]).exact  # promised to nobody, and there all the same


def test_each_broken_promise_is_named() -> None:
    assert judged(ASKED, [ADA_1, BO_1]).lost == (ADA_2,)
    assert judged(ASKED, [ADA_1, ADA_2, ADA_2, BO_1]).twice == (ADA_2,)
    assert judged(ASKED, [ADA_2, ADA_1, BO_1]).disordered == (ADA_2,)
    assert "1 questions" in judged(ASKED, [ADA_1, BO_1]).sentence
