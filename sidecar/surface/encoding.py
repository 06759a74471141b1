"""Percent-encoding, one way: how a path's segments and a URI's fragment are written, and what is refused to be read.

OpenBao decodes a path once, as bytes, and then splits it at every slash, an encoded one included. So `%2f` moves the
borders of a path, and `%64ata` is `data`: spellings that no client needs and that only hide what is asked. They are
refused; what is left has one reading. RFC 3986, sections 2 and 3.3.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from sidecar.errors import Code, Refused

# RFC 3986, section 3.3: pchar without pct-encoded. Also what `quote` leaves alone below.
_PCHAR: Final = r"A-Za-z0-9\-._~!$&'()*+,;=:@"
_SUB_DELIMS: Final = "!$&'()*+,;=:@"

_plain_segment: Final = re.compile(f"[{_PCHAR}]*").fullmatch
_plain_path: Final = re.compile(f"[{_PCHAR}/]*").fullmatch
# What is no pchar and clients leave as it is all the same: `requests` sends brackets, browsers' URL libraries `|` and
# `^`, curl whatever it is given. OpenBao has one reading of it. Not the backslash, which URL libraries make a slash.
_LEFT_RAW: Final = r'"<>\[\]^`{|}'
_path_alphabet: Final = re.compile(f"[{_PCHAR}/%{_LEFT_RAW}]*").fullmatch
_fragment_alphabet: Final = re.compile(f"[{_PCHAR}/?%]*").fullmatch
_bad_percent: Final = re.compile(r"%(?![0-9A-Fa-f]{2})").search
# A letter, a digit, `-`, `.`, `_` or `~` (RFC 3986, section 2.3): clients encode none of them.
_encoded_unreserved: Final = re.compile(r"%(?:2[DdEe]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa]|5[Ff]|7[Ee])").search
_encoded_slash: Final = re.compile(r"%2[Ff]").search

_LONGEST_DOTS: Final = len("%2e%2e")
_NO_NAMES: Final = frozenset({"", ".", "..", "*"})


def encode_segment(segment: str) -> str:
    """A segment as it stands in a path: every byte that is no pchar as `%XX`, upper-case, nothing else."""
    return segment if _plain_segment(segment) else quote(segment, safe=_SUB_DELIMS)


def encode_path(segments: tuple[str, ...]) -> str:
    """Segments joined by slashes."""
    text = "/".join(segments)
    # Most paths need no encoding at all; a segment that holds a slash of its own does.
    if _plain_path(text) and text.count("/") == len(segments) - 1:
        return text
    return "/".join([encode_segment(segment) for segment in segments])


def split_path(text: str) -> tuple[tuple[str, ...], bool]:
    """A raw path without its leading slash → its decoded segments, and whether a slash ends it.

    Raises `Refused`: ILLEGAL_SEGMENT, ILLEGAL_ENCODING or INVALID_WILDCARD.
    """
    folder = text.endswith("/")
    segments = (text[:-1] if folder else text).split("/")
    if not _plain_path(text):
        if not _path_alphabet(text):
            raise Refused(
                Code.ILLEGAL_ENCODING, "a path holds a character that must be percent-encoded as UTF-8 (RFC 3986)"
            )
        segments = [_decoded_segment(segment) if "%" in segment else segment for segment in segments]
    if not _NO_NAMES.isdisjoint(segments):
        if "*" in segments:
            raise Refused(Code.INVALID_WILDCARD, "a path has no wildcards; name one secret")
        raise Refused(Code.ILLEGAL_SEGMENT, "a path has an empty, `.` or `..` segment")
    return tuple(segments), folder


def spell_out(text: str) -> str:
    """A path or fragment as a person writes it, in a command or in JSON → with its raw characters percent-encoded.

    Not for request targets: clients encode those. What is encoded already stays. Raises `Refused`: ILLEGAL_ENCODING.
    """
    if _plain_path(text):
        return text
    check_printable(text)
    return quote(text, safe=f"{_SUB_DELIMS}/?%#")


def decode_fragment(text: str) -> str:
    """The raw text behind `#`, decoded: one key, which may hold slashes, encoded or not (RFC 3986, section 3.5).

    Raises `Refused`: ILLEGAL_ENCODING.
    """
    if not _fragment_alphabet(text):
        raise Refused(
            Code.ILLEGAL_ENCODING, "a fragment holds a character that must be percent-encoded as UTF-8 (RFC 3986)"
        )
    return _decoded(text) if "%" in text else text


def _decoded_segment(text: str) -> str:
    # Dots, however they are spelt, are no name: said first, since it is the graver fault.
    if len(text) <= _LONGEST_DOTS and unquote_to_bytes(text) in (b".", b".."):
        raise Refused(Code.ILLEGAL_SEGMENT, "a path has an empty, `.` or `..` segment")
    if _encoded_slash(text):
        raise Refused(Code.ILLEGAL_ENCODING, "a path has an encoded slash")
    return _decoded(text)


def _decoded(text: str) -> str:
    if _bad_percent(text):
        raise Refused(Code.ILLEGAL_ENCODING, "`%` is not followed by two hexadecimal digits")
    if _encoded_unreserved(text):
        raise Refused(Code.ILLEGAL_ENCODING, "letters, digits, `-`, `.`, `_` and `~` are not percent-encoded")
    try:
        decoded = unquote_to_bytes(text).decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(Code.ILLEGAL_ENCODING, "a percent-encoded name is not UTF-8") from None
    check_printable(decoded)
    return decoded


def check_printable(text: str) -> None:
    """Refuses what OpenBao refuses by Go's `unicode.IsPrint`: controls, format characters (zero width, BOM, soft
    hyphen), surrogates, private use, unassigned code points, and every space but U+0020.

    `str.isprintable` draws the same line: categories L, M, N, P, S and U+0020. Where Python's Unicode tables are newer
    than Go's, OpenBao refuses in its turn.
    """
    if not text.isprintable():
        raise Refused(Code.ILLEGAL_ENCODING, "a control character, or one that cannot be printed")
