"""Reads a PDP's answer (OpenID AuthZEN 1.0, section 5.5), strictly. Pure.

A permit is `"decision": true`, exactly, in a JSON object that can be read in one way only. What is not an answer at
all raises; it is never taken for a decision, whichever.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from sidecar.decision import obligations
from sidecar.decision.json_strict import JsonError, read_json
from sidecar.decision.permit import Denied, Verdict
from sidecar.errors import Code

_MAX_ID_CHARS: Final = 256
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)
_ESCAPE: Final = re.compile(r"~(?![01])")
_ABSENT: Final = object()


class AnswerError(ValueError):
    """What came is no AuthZEN answer. The text is for the operator."""


class SharedContextError(AnswerError):
    """A batch's answers cannot be told apart: Cerbos, for one, repeats all results in each answer's context."""


class JsonPointer:
    """A JSON pointer (RFC 6901)."""

    def __init__(self, text: str) -> None:
        """Raises ValueError where the text is none."""
        if (text and not text.startswith("/")) or _ESCAPE.search(text):
            raise ValueError(f"{text!r} is not a JSON pointer: write /name/0/name")
        self._tokens: Sequence[str] = [token.replace("~1", "/").replace("~0", "~") for token in text.split("/")[1:]]

    def find(self, document: Any) -> Any:
        """The value, or `_ABSENT` where a member or an item on the way is not there.

        Raises:
            ObligationError: where something on the way is neither object nor array, so that the PDP's answer is not
                of the shape that the pointer was written for.
        """
        for token in self._tokens:
            if type(document) is dict:
                if token not in document:
                    return _ABSENT
                document = document[token]
            elif type(document) is list and _INDEX.fullmatch(token):
                if int(token) >= len(document):
                    return _ABSENT
                document = document[int(token)]
            else:
                raise obligations.ObligationError("the answer's context has no place for obligations")
        return document

    def passes_by_others(self, document: Any) -> bool:
        """Whether an array on the way holds more than the item that the pointer names: what stands there obliges too,
        and would not be read."""
        for token in self._tokens:
            if type(document) is dict:
                document = document.get(token)
            elif type(document) is list and _INDEX.fullmatch(token):
                if len(document) > 1:
                    return True
                document = document[0] if document and token == "0" else None
            else:
                return False
        return False


def read_answer(raw: bytes, pointer: JsonPointer) -> Verdict:
    """The verdict. On a deny only a step-up and session terminations count of its obligations.

    Raises:
        AnswerError: where this is no answer.
        Denied: OBLIGATION_UNMET, where a permit's obligations cannot be read in exactly one way.
    """
    return _verdict(_object(raw), pointer)


def read_answers(raw: bytes, pointer: JsonPointer, asked: int) -> list[Verdict | Denied]:
    """The verdicts of a batch (section 7.2), in the order of its questions: exactly as many as were asked.

    Nothing in AuthZEN ties an answer to its question but its place, so that an answer which cannot be right in number
    or form is none for all of them.

    Raises:
        SharedContextError: where one context holds the obligations of several answers.
        AnswerError: where this is no answer.
    """
    items = _object(raw).get("evaluations")
    if type(items) is not list:
        raise AnswerError("the answer has no array of evaluations")
    if len(items) != asked:
        raise AnswerError(f"{len(items)} evaluations where {asked} were asked for")
    answers: list[Verdict | Denied] = []
    for item in items:
        if type(item) is not dict:
            raise AnswerError("an evaluation is no object")
        if item.get("decision") is True and pointer.passes_by_others(item.get("context")):
            raise SharedContextError("an evaluation's context holds the obligations of others")
        try:
            answers.append(_verdict(item, pointer))
        except Denied as denied:
            answers.append(denied)
    return answers


def _object(raw: bytes) -> dict[str, Any]:
    try:
        answer = read_json(raw)
    except JsonError as error:
        raise AnswerError(f"the answer cannot be read: {error}") from None
    if type(answer) is not dict:
        raise AnswerError("the answer is no object")
    return answer


def _verdict(answer: dict[str, Any], pointer: JsonPointer) -> Verdict:
    decision, context = answer.get("decision"), answer.get("context")
    if type(decision) is not bool:
        raise AnswerError("the answer has no boolean decision")
    if context is None:
        context = {}
    if type(context) is not dict:
        raise AnswerError("the answer's context is no object")
    decision_id, policy_version = _text(context, "decision_id"), _text(context, "policy_version")
    if "error" in context:
        # The PDP failed on this question (AuthZEN, section 7.2.3, says so in batches): a permit beside that is none.
        return Verdict(False, decision_id=decision_id, policy_version=policy_version, reason="the PDP reports an error")
    bare = Verdict(decision, decision_id=decision_id, policy_version=policy_version)
    try:
        found = pointer.find(context)
        if decision and pointer.passes_by_others(context):
            raise obligations.ObligationError("several obligations where the pointer names one of them")
        if found is _ABSENT:
            return bare
        parsed = obligations.parse(found)
    except obligations.ObligationError as error:
        if not decision:
            return bare
        raise Denied(
            Code.OBLIGATION_UNMET, "The permit's obligations cannot be met.", verdict=bare, detail=str(error)
        ) from error
    return Verdict(decision, parsed, decision_id, policy_version)


def _text(context: dict[str, Any], name: str) -> str:
    """A text for the record; what cannot be one is left out."""
    value = context.get(name)
    if type(value) is not str or len(value) > _MAX_ID_CHARS or not value.isprintable():
        return ""
    return value
