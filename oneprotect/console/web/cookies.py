"""Cookies of requests.

Starlette's `request.cookies` unquotes values with the standard library, which takes quadratic time before Python
3.11.10: a `Cookie` header of 32 KiB occupied the process for seconds. The console's own values need no quotes.
"""

from starlette.requests import Request


def read_cookie(http: Request, name: str) -> str:
    """Return the value of the first cookie of this name as it was sent, or an empty string."""
    for header in http.headers.getlist("cookie"):
        for pair in header.split(";"):
            found, _, value = pair.partition("=")
            if found.strip() == name:
                return value.strip()
    return ""
