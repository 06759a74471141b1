"""One reading of a head, or none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.door.head import MAX_FIELDS, SINGULAR, Head, parse_head
from sidecar.door.head_reader import HeadReader
from sidecar.errors import Code, Refused
from tests.support.wire import request

MAX_HEADER = 8192
MAX_URI = 1024


def parse(raw: bytes) -> Head:
    return parse_head(raw, max_header_bytes=MAX_HEADER, max_uri_bytes=MAX_URI)


def code(raw: bytes) -> Code:
    with pytest.raises(Refused) as caught:
        parse(raw)
    return caught.value.code


# -- what is taken -----------------------------------------------------------------------------------------------------
def test_a_head_is_taken_apart() -> None:
    raw = (
        b"GET /v1/secret/data/a?version=3 HTTP/1.1\r\nHost: localhost:8200\r\nX-Vault-Token:  t \r\nAccept:*/*\r\n\r\n"
    )
    assert parse(raw) == Head(
        "GET",
        "/v1/secret/data/a",
        "version=3",
        {"host": "localhost:8200", "x-vault-token": "t", "accept": "*/*"},
    )


@pytest.mark.parametrize("method", ["GET", "LIST", "SCAN", "PATCH", "DELETE", "HEAD", "FOO", "TRACE"])
def test_a_method_in_capitals_is_let_through_for_the_surface_to_judge(method: str) -> None:
    assert parse(request(method=method)).method == method


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", None),
        ("/v1/a?", "/v1/a", ""),
        ("/v1/a?b?c", "/v1/a", "b?c"),
        ("/v1/%41//..;x", "/v1/%41//..;x", None),
        ("/v1/\xc3\xa9?\xff", "/v1/\xc3\xa9", "\xff"),
        ("//host/path", "//host/path", None),
    ],
)
def test_the_target_is_split_at_the_first_question_mark_and_left_alone(
    target: str, path: str, query: str | None
) -> None:
    head = parse(request(target=target))
    assert (head.path, head.query) == (path, query)


def test_names_are_lower_case_and_values_lose_the_spaces_around_them() -> None:
    head = parse(request("X-Thing:   a b   ", "x-OTHER:", "X-Third:    "))
    assert head.headers == {"host": "localhost", "x-thing": "a b", "x-other": "", "x-third": ""}


def test_a_list_that_was_repeated_is_joined_in_order() -> None:
    assert parse(request("Accept: a", "X-Unknown: 1", "ACCEPT: b", "accept: c")).headers["accept"] == "a, b, c"


@pytest.mark.parametrize(
    ("lines", "length", "chunked", "has_body"),
    [
        ((), None, False, False),
        (("Content-Length: 0",), 0, False, False),
        (("Content-Length: 12",), 12, False, True),
        (("Transfer-Encoding: chunked",), None, True, True),
    ],
)
def test_a_body_has_a_length_or_is_chunked(
    lines: tuple[str, ...], length: int | None, chunked: bool, has_body: bool
) -> None:
    head = parse(request(*lines, method="POST"))
    assert (head.content_length, head.chunked, head.has_body) == (length, chunked, has_body)


@pytest.mark.parametrize(
    ("connection", "keep_alive"),
    [
        ((), True),
        (("Connection: keep-alive",), True),
        (("Connection: close",), False),
        (("Connection: Close",), False),
        (("Connection: Keep-Alive, CLOSE",), False),
        (("Connection: keep-alive", "Connection: close"), False),
        (("Connection: closed",), True),
        (("Connection: upgrade, http2-settings",), True),
    ],
)
def test_connection_says_close_or_nothing(connection: tuple[str, ...], keep_alive: bool) -> None:
    assert parse(request(*connection)).keep_alive is keep_alive


def test_an_expectation_of_100_is_taken_in_any_case() -> None:
    assert parse(request("Expect: 100-Continue")).headers["expect"] == "100-Continue"


# -- what is refused ---------------------------------------------------------------------------------------------------
MALFORMED = {
    "bare LF in a header": b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "bare LF after the request line": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "bare CR in a header": b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
    "CR CR LF": b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
    "bare CR in the target": b"GET /a\rb HTTP/1.1\r\nHost: a\r\n\r\n",
    "NUL in a value": request("X: a\0b"),
    "NUL in a name": request("X\0: a"),
    "vertical tab": request("X: a\x0bb"),
    "a tab for a space": request("X:\ta"),
    "a tab in a value": request("X: a\tb"),
    "DEL": request("X: a\x7f"),
    "a byte beyond ASCII in a value": request("X: \xff"),
    "a no-break space around a value": request("X-Vault-Token: t\xa0"),
    "a byte beyond ASCII in a name": request("X\xe9: a"),
    "obs-fold by space": request("X: a", " b"),
    "obs-fold by tab": request("X: a", "\tb"),
    "obs-fold of the first header": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "space before the colon": request("X : a"),
    "tab before the colon": request("X\t: a"),
    "space in a name": request("X Y: a"),
    "empty name": request(": a"),
    "no colon": request("X"),
    "bracket in a name": request("X[]: a"),
    "no Host": b"GET / HTTP/1.1\r\nX: a\r\n\r\n",
    "no header at all": b"GET / HTTP/1.1\r\n\r\n",
    "HTTP/1.0": b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "lower-case version": b"GET / http/1.1\r\nHost: a\r\n\r\n",
    "space after the version": b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    "two spaces before the version": b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
    "two spaces after the method": b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "tab after the method": b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "space in the target": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "space before the method": b" GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "empty line before the request": b"\r\n" + request(),
    "nothing but an empty line": b"\r\n\r\n",
    "lower-case method": request(method="get"),
    "mixed-case method": request(method="Get"),
    "method with a digit": request(method="GET2"),
    "method with a separator": request(method="G@T"),
    "endless method": request(method="G" * 100),
    "no method": b"/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute-form": request(target="http://localhost/v1/a"),
    "absolute-form without a path": request(target="http://localhost"),
    "authority-form": request(method="CONNECT", target="localhost:8200"),
    "CONNECT with a path": request(method="CONNECT", target="/v1/a"),
    "asterisk-form": request(method="OPTIONS", target="*"),
    "relative target": request(target="v1/a"),
    "empty target": b"GET  HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\n",
    "TLS on a plain port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "a second head": request() + request(),
    "CL and TE": request("Content-Length: 5", "Transfer-Encoding: chunked", method="POST"),
    "TE and CL": request("Transfer-Encoding: chunked", "Content-Length: 5", method="POST"),
    "Expect of something else": request("Expect: 200-ok"),
    "Expect of two things": request("Expect: 100-continue, x"),
    "empty Expect": request("Expect:"),
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_not_exactly_http_1_1_is_refused(raw: bytes) -> None:
    assert code(raw) is Code.MALFORMED_REQUEST


@pytest.mark.parametrize(
    "value",
    [
        "",
        "+5",
        "-5",
        "05",
        "00",
        "5 5",
        "5,5",
        "5, 5",
        "0x5",
        "5.0",
        "5;x",
        "5e0",
        "five",
        "٥",
        "²",
        "9" * 16,
        "9" * 5000,
    ],
)
def test_a_content_length_that_is_no_plain_number_is_refused(value: str) -> None:
    raw = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + value.encode() + b"\r\n\r\n"
    assert code(raw) is Code.MALFORMED_REQUEST


@pytest.mark.parametrize(
    "value",
    ["", "xchunked", "chunkedx", "Chunked", "CHUNKED", "identity", "gzip", "chunked, chunked", "gzip, chunked",
     "chunked;q=1", '"chunked"', "chunked,", ", chunked"],
)  # fmt: skip
def test_a_transfer_encoding_that_is_not_exactly_chunked_is_refused(value: str) -> None:
    assert code(request(f"Transfer-Encoding: {value}", method="POST")) is Code.MALFORMED_REQUEST


@pytest.mark.parametrize(
    "name", [*sorted(SINGULAR - {"host", "authorization"}), "x-vault-namespace", "X-Vault-Anything"]
)
@pytest.mark.parametrize("second", ["100-continue", "other"])
def test_a_header_that_must_stand_once_is_refused_when_repeated(name: str, second: str) -> None:
    raw = request(f"{name}: 100-continue", f"{name.upper()}: {second}")
    assert code(raw) is Code.MALFORMED_REQUEST


@pytest.mark.parametrize("second", ["localhost", "other"])
def test_a_second_host_is_refused(second: str) -> None:
    assert code(request(f"host: {second}")) is Code.MALFORMED_REQUEST


@pytest.mark.parametrize("name", ["Authorization", "X-Vault-Token"])
def test_two_credentials_of_one_kind_are_ambiguous(name: str) -> None:
    assert code(request(f"{name}: a", f"{name.lower()}: b")) is Code.AMBIGUOUS_CREDENTIALS
    assert code(request(f"{name}: a", f"{name.lower()}: a")) is Code.MALFORMED_REQUEST


@pytest.mark.parametrize("target", ["/a\x01", "/a\x1f", "/\x7f", "/a\0b", "/a\tb", "/a?b=\x0b"])
def test_a_control_character_in_the_target_is_an_illegal_encoding(target: str) -> None:
    assert code(request(target=target)) is Code.ILLEGAL_ENCODING


@pytest.mark.parametrize("target", ["/a#b", "/a?b#c", "/#", "/" + "a" * MAX_URI, "/?" + "a" * MAX_URI])
def test_a_fragment_or_a_target_beyond_the_limit_is_an_invalid_uri(target: str) -> None:
    assert code(request(target=target)) is Code.INVALID_URI


def test_the_longest_target_is_taken() -> None:
    assert len(parse(request(target="/" + "a" * (MAX_URI - 1))).path) == MAX_URI


def test_the_largest_head_is_taken_and_one_byte_more_is_not() -> None:
    room = MAX_HEADER - len(request("X: "))
    assert parse(request("X: " + "a" * room))
    assert code(request("X: " + "a" * (room + 1))) is Code.HEADERS_TOO_LARGE


def test_too_many_header_lines_are_refused_even_where_they_are_one_header() -> None:
    assert len(parse(request(*(f"X{i}: v" for i in range(MAX_FIELDS - 1)))).headers) == MAX_FIELDS
    assert code(request(*(f"X{i}: v" for i in range(MAX_FIELDS)))) is Code.HEADERS_TOO_LARGE
    assert code(request(*("X: v" for _ in range(MAX_FIELDS)))) is Code.HEADERS_TOO_LARGE


@pytest.mark.parametrize(
    "raw",
    [
        request("X: canary\0"),
        request("canary name: x"),
        request("Content-Length: canary"),
        request("Transfer-Encoding: canary"),
        request("X-Vault-Token: canary", "X-Vault-Token: canary2"),
        request("Expect: canary"),
        request(target="/canary\x01"),
        request(target="/canary#"),
        request(target="canary"),
        request(method="canary"),
        b"GET / canary\r\n\r\n",
    ],
)
def test_a_refusal_repeats_nothing_of_the_request(raw: bytes) -> None:
    with pytest.raises(Refused) as caught:
        parse(raw)
    assert "canary" not in f"{caught.value} {caught.value.detail} {caught.value.headers}"


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /" + b"/" * 1_000_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a" * 1_000_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX:" + b" " * 1_000_000 + b"\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a:\r\n" * 250_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection:" + b" ," * 500_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"\r" * 1_000_000 + b"\r\n\r\n",
        b"GET " + b" " * 1_000_000 + b"/ HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_a_megabyte_made_to_be_slow_is_judged_in_linear_time(raw: bytes) -> None:
    """Quadratic work over a megabyte would take hours, and run into the test's time limit."""
    try:
        parse_head(raw, max_header_bytes=2**21, max_uri_bytes=2**21)
    except Refused:
        pass  # most are; what counts is that it ends


# -- whole, byte by byte, with bytes trailing --------------------------------------------------------------------------
def outcome(pieces: list[bytes]) -> tuple[object, ...]:
    """What a reader makes of these pieces: the first head and what follows it, or the refusal, or nothing yet."""
    reader = HeadReader(max_header_bytes=MAX_HEADER, max_uri_bytes=MAX_URI)
    for index, piece in enumerate(pieces):
        try:
            read = reader.feed(piece)
        except Refused as refused:
            return (refused.code, refused.message, reader.refused_target().rstrip("\0"))
        if read is not None:
            head, rest = read
            return (head, rest + b"".join(pieces[index + 1 :]))
    return ("waiting", reader.has_begun)


def one_reading(raw: bytes) -> tuple[object, ...]:
    """The outcome of these bytes, the same however they are cut."""
    whole = outcome([raw])
    pieces = outcome([raw[i : i + 1] for i in range(len(raw))])
    assert whole[:2] == pieces[:2]
    return whole


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_refused_head_is_refused_alike_however_it_is_cut(raw: bytes) -> None:
    one_reading(raw)


@pytest.mark.parametrize("trailing", [b"", b"x", b"\r\n", request(), b"\n\0"])
def test_a_good_head_is_read_alike_however_it_is_cut_and_whatever_follows(trailing: bytes) -> None:
    raw = request("X-Vault-Token: t", "Content-Length: 3", method="POST")
    assert one_reading(raw + trailing) == (parse(raw), trailing)


@pytest.mark.parametrize("at", range(1, len(request("A: b"))))
def test_a_head_in_two_pieces_is_the_same_head(at: int) -> None:
    raw = request("A: b")
    assert outcome([raw[:at], raw[at:]]) == (parse(raw), b"")


@pytest.mark.parametrize(
    ("raw", "refused"),
    [
        (b"get / HTTP/1.1\r\n", Code.MALFORMED_REQUEST),
        (b"\r\n", Code.MALFORMED_REQUEST),
        (b"\x16\x03\x01", Code.MALFORMED_REQUEST),
        (b"GET / HTTP/1.1\n", Code.MALFORMED_REQUEST),
        (b"GET / HTTP/1.1\rH", Code.MALFORMED_REQUEST),
        (b"GET /" + b"a" * MAX_HEADER, Code.INVALID_URI),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * MAX_HEADER, Code.HEADERS_TOO_LARGE),
    ],
)
def test_what_can_become_no_head_is_refused_without_waiting_for_its_end(raw: bytes, refused: Code) -> None:
    assert one_reading(raw)[0] is refused


def test_the_beginning_of_a_head_waits() -> None:
    assert one_reading(b"GET / HTTP/1.1\r\nHost: a\r\n\r") == ("waiting", True)
    assert outcome([b""]) == ("waiting", False)


@pytest.mark.parametrize(
    ("raw", "target"),
    [
        (b"GET /api/secrets HTTP/1.0\r\nHost: a\r\n\r\n", "/api/secrets"),
        (b"get /v1/x HTTP/1.1\r\n", "/v1/x"),
        (b"GET /api/x\nHost: a", "/api/x"),
        (b"GET http://localhost/api/x HTTP/1.1\r\n\r\n", ""),
        (b"garbage", ""),
        (b"\r\n\r\n", ""),
        (b"GET  /x", ""),
        (b"GET /" + b"a" * 5 * MAX_HEADER, "/" + "a" * (MAX_URI - 1)),
    ],
)
def test_the_target_of_a_refused_head_is_told_as_far_as_it_can_be_read(raw: bytes, target: str) -> None:
    reader = HeadReader(max_header_bytes=MAX_HEADER, max_uri_bytes=MAX_URI)
    try:
        reader.feed(raw)
    except Refused:
        pass  # `garbage` merely waits
    assert reader.refused_target() == target


VALID = request(
    "User-Agent: hvac/2.4",
    "X-Vault-Token: abc.def",
    "DPoP: ghi",
    "Accept: a, b",
    "Connection: keep-alive",
    "Content-Length: 12",
    method="POST",
    target="/v1/secret/data/app/db?version=1",
)
BITS = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b"\xff", b"\x7f", b"/", b"#", b"?", b"%", b",", b"\r\n\r\n",
     b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: b\r\n", b"X-Vault-Token: z\r\n", b"\x85"]
)  # fmt: skip
MUTATION = st.tuples(st.integers(0, len(VALID)), st.integers(0, 5), BITS)


@given(st.lists(MUTATION, min_size=1, max_size=4))
def test_a_mutated_head_has_one_reading_or_is_refused(mutations: list[tuple[int, int, bytes]]) -> None:
    raw = VALID
    for position, removed, inserted in mutations:
        raw = raw[:position] + inserted + raw[position + removed :]
    read = one_reading(raw)
    if isinstance(read[0], Head):
        assert_is_clean(read[0])


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_but_refusals(raw: bytes) -> None:
    read = one_reading(raw)
    if isinstance(read[0], Head):
        assert_is_clean(read[0])


def assert_is_clean(head: Head) -> None:
    """What every stage may rely on."""
    assert head.method.isascii()
    assert head.method.isupper()
    assert head.path.startswith("/")
    assert all(0x21 <= ord(letter) != 0x7F for letter in head.path + (head.query or ""))
    assert "#" not in head.path + (head.query or "")
    for name, value in head.headers.items():
        assert name == name.lower() != ""
        assert value == value.strip()
        assert value.isascii()
        assert value == "" or value.isprintable()
    assert not (head.chunked and head.content_length is not None)
    assert "host" in head.headers
