"""Answers that receivers, proxies and attackers give, and what each comes to. Whatever a fuzz run finds is added here.

After the bytes the receiver closes its connection.
"""

from msgspec import Struct

from schemas.codes import Code

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Case(Struct, frozen=True):
    """Bytes, the status that they are or the code of why they are none, and whether aiohttp sees it differently."""

    name: str
    answer: bytes
    means: int | Code
    elsewhere: str = ""
    """Why aiohttp's verdict is another one, if it is."""


CASES = (
    Case("plain", OK + b"content-length: 2\r\n\r\nok", 200),
    Case("no reason", b"HTTP/1.1 202\r\ncontent-length: 0\r\n\r\n", 202),
    Case("empty reason", b"HTTP/1.1 202 \r\ncontent-length: 0\r\n\r\n", 202),
    Case("no content", b"HTTP/1.1 204 No Content\r\n\r\n", 204),
    Case("no content, yet some", b"HTTP/1.1 204 No Content\r\n\r\nabc", 204, "it drops a head with junk behind it"),
    Case("not modified with a length", b"HTTP/1.1 304 x\r\ncontent-length: 9\r\n\r\n", 304),
    Case("until it closes", OK + b"\r\nsome text", 200),
    Case("HTTP/1.0", b"HTTP/1.0 200 OK\r\n\r\nsome text", 200),
    Case("HTTP/1.0, kept", b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\nx", 200),
    Case("to be closed", OK + b"connection: close\r\ncontent-length: 2\r\n\r\nok", 200),
    Case("continue", CONTINUE + OK + b"content-length: 0\r\n\r\n", 200),
    Case("early hints", b"HTTP/1.1 103 x\r\nlink: </a>\r\n\r\n" + OK + b"content-length: 0\r\n\r\n", 200),
    Case("many informational", CONTINUE * 20 + OK + b"content-length: 0\r\n\r\n", 200),
    Case("informational alone", CONTINUE, Code.NET_RESET),
    Case("informational with a length", b"HTTP/1.1 100 x\r\ncontent-length: 3\r\n\r\n" + OK + b"\r\n", 200),
    Case(
        "switching protocols", b"HTTP/1.1 101 x\r\nupgrade: y\r\nconnection: upgrade\r\n\r\nraw", Code.NET_RESET, "101"
    ),
    Case("switching to nothing", b"HTTP/1.1 101 x\r\n\r\n", Code.NET_RESET, "101"),
    Case("chunked", CHUNKED + b"3\r\nabc\r\n0\r\n\r\n", 200),
    Case("chunk extension", CHUNKED + b'3;a="b"\r\nabc\r\n0\r\n\r\n', 200),
    Case("trailers", CHUNKED + b"3\r\nabc\r\n0\r\nretry-after: 9\r\nx: y\r\n\r\n", 200),
    Case("chunked, cut", CHUNKED + b"3\r\nab", 200),
    Case("chunked, no chunk", CHUNKED + b"no chunk\r\n", 200, "it drops a head with junk behind it"),
    Case("chunked, negative", CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n", 200, "it drops a head with junk behind it"),
    Case("chunked, huge", CHUNKED + b"ffffffffffffffffff\r\nabc", 200, "it drops a head with junk behind it"),
    Case("chunked and a length", OK + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\nabc", Code.NET_RESET),
    Case("a length and chunked", OK + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\nabc", Code.NET_RESET),
    Case("gzip and chunked", OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 200),
    Case("two lengths", OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab", Code.NET_RESET),
    Case("length in words", OK + b"content-length: ten\r\n\r\n", Code.NET_RESET),
    Case("negative length", OK + b"content-length: -1\r\n\r\n", Code.NET_RESET),
    Case("huge length", OK + b"content-length: 99999999999999999999999\r\n\r\n", Code.NET_RESET),
    Case("too little", OK + b"content-length: 9\r\n\r\nabc", 200),
    Case("too much", OK + b"content-length: 2\r\n\r\nokokok", 200, "it drops a head with junk behind it"),
    Case("twice", OK + b"content-length: 0\r\n\r\nHTTP/1.1 500 x\r\ncontent-length: 0\r\n\r\n", 200),
    Case("failing", b"HTTP/1.1 500 x\r\ncontent-length: 0\r\n\r\n", 500),
    Case("strange status", b"HTTP/1.1 999 x\r\ncontent-length: 0\r\n\r\n", 999),
    Case("status of two digits", b"HTTP/1.1 20 OK\r\n\r\n", Code.NET_RESET),
    Case("status of four digits", b"HTTP/1.1 2000 OK\r\n\r\n", Code.NET_RESET),
    Case("status below 100", b"HTTP/1.1 099 x\r\ncontent-length: 0\r\n\r\n", Code.NET_RESET, "99"),
    Case("status in words", b"HTTP/1.1 two OK\r\n\r\n", Code.NET_RESET),
    Case("nothing", b"", Code.NET_RESET),
    Case("blank lines", b"\r\n\r\n", Code.NET_RESET),
    Case("a status line alone", OK, Code.NET_RESET),
    Case("half a head", OK + b"content-le", Code.NET_RESET),
    Case("a head without its end", OK + b"content-length: 0\r\n", Code.NET_RESET),
    Case("no colon", OK + b"header\r\ncontent-length: 0\r\n\r\n", Code.NET_RESET),
    Case("blank before a colon", OK + b"content-length : 0\r\n\r\n", 200),
    Case("no name", OK + b": x\r\ncontent-length: 0\r\n\r\n", Code.NET_RESET),
    Case("NUL in a value", OK + b"x: \x00\r\ncontent-length: 0\r\n\r\n", Code.NET_RESET),
    Case("NUL in a name", OK + b"x\x00: y\r\ncontent-length: 0\r\n\r\n", Code.NET_RESET),
    Case("8 bits in a value", OK + b"x: \xe4\xff\r\ncontent-length: 0\r\n\r\n", 200),
    Case("line feeds alone", b"HTTP/1.1 200 OK\ncontent-length: 0\n\n", 200),
    Case("a folded value", OK + b"x: a\r\n b\r\ncontent-length: 0\r\n\r\n", 200),
    Case("a blank after a chunk's size", CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n", 200),
    Case("returns alone", b"HTTP/1.1 200 OK\rcontent-length: 0\r\r", Code.NET_RESET),
    Case("SSH", b"SSH-2.0-OpenSSH_9.6\r\n", Code.NET_RESET),
    Case("SMTP", b"220 mx.example.com ESMTP\r\n", Code.NET_RESET),
    Case("a TLS alert", b"\x15\x03\x03\x00\x02\x02\x28", Code.NET_RESET),
    Case("HTTP/2 settings", b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64", Code.NET_RESET),
    Case("HTTP/2 in words", b"HTTP/2 200 OK\r\ncontent-length: 0\r\n\r\n", Code.NET_RESET),
    Case("HTTP/0.9", b"<html>hello</html>", Code.NET_RESET),
    Case("a request", b"POST / HTTP/1.1\r\nhost: x\r\n\r\n", Code.NET_RESET),
    Case("lower case", b"http/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Code.NET_RESET),
    Case("a long value", OK + b"x: " + b"x" * 9000 + b"\r\n\r\n", Code.NET_RESPONSE_TOO_LARGE),
    Case("a long name", OK + b"x" * 9000 + b": x\r\n\r\n", Code.NET_RESPONSE_TOO_LARGE),
    Case("a long reason", b"HTTP/1.1 200 " + b"x" * 9000 + b"\r\n\r\n", Code.NET_RESPONSE_TOO_LARGE),
    Case("many headers", OK + b"x: y\r\n" * 129 + b"\r\n", Code.NET_RESPONSE_TOO_LARGE),
    Case("just enough headers", OK + b"x: y\r\n" * 127 + b"content-length: 0\r\n\r\n", 200),
    Case("a large head", OK + (b"x: " + b"y" * 8000 + b"\r\n") * 9 + b"\r\n", Code.NET_RESPONSE_TOO_LARGE, "200"),
)
