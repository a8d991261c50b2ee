"""The forms in which a secret may come back: as it is, and as JSON, URLs, HTML, base64 and hexadecimal digits show it.

| form | for example |
| --- | --- |
| as it is | `a"b/c` |
| escaped in JSON, up to three times | `a\\"b\\/c`, `a\\u0022b/c`, `a\\\\\\"b/c` |
| escaped in URLs, in part or whole, up to three times | `a%22b/c`, `a%22b%2Fc`, `a%2522b%252fc`; a space as `+` |
| escaped in HTML | `a&quot;b/c` |
| base64 in one line, in both alphabets, also as a part of a longer text | that of `user:a"b/c` |
| hexadecimal digits | `612262` and so on, in either case |
"""

import base64
import html
import re

_BASE64 = "[A-Za-z0-9+/_-]"
_WORD = re.compile(r"[A-Za-z0-9]+")
_RUN = re.compile(r"\\+|[\s\S]")
_SHORTEST_NEEDLE = 3
_SHORTEST_CUT = 6


class Forms:
    """One value in all its forms, and what to put in their place.

    What a text was cut off in is found too, once half of the value is there.
    """

    def __init__(self, value: str, mask: str) -> None:
        self.value = value
        self._mask = mask
        data = value.encode(errors="surrogatepass")
        parts = _base64_parts(data)
        digits = (data.hex(), data.hex().upper())
        # Letters and digits look the same in most forms; where there are too few of them every text is searched.
        word = max(_WORD.findall(value), key=len, default="")
        self._needle = word if len(word) >= _SHORTEST_NEEDLE else ""
        self._cut = value[: max(_SHORTEST_CUT, -(-len(value) // 2))]
        self._exact = (*dict.fromkeys(core for core, _ in parts), *digits)
        escaped = "".join(_any_form(run) for run in _RUN.findall(value))
        self._escaped = re.compile(escaped)
        self._whole = re.compile("|".join([escaped, *(part for _, part in parts), *digits]))

    def found(self, text: str) -> bool:
        """Whether it may be in the text, in one of its forms or cut off."""
        if self._needle in text and (self._escaped.search(text) or self._cut in text):
            return True
        return any(form in text for form in self._exact) or self._cut in text

    def masked(self, text: str) -> str:
        return self._whole.sub(lambda _: self._mask, text)

    def masked_end(self, text: str) -> str:
        """The same without a beginning of the value at its end."""
        end = text.removesuffix("…")
        at = end.rfind(self._cut)
        if at >= 0 and self.value.startswith(end[at:]):
            return end[:at] + self._mask + text[len(end) :]
        return text


def _any_form(run: str) -> str:
    """A pattern for one character, or for backslashes in a row, as they are or escaped: at most three times over, so
    that no text takes long to search."""
    char = run[0]
    if char == "\\":
        return rf"(?:\\{{{len(run)},{8 * len(run)}}}|(?:{_percent(char)}){{{len(run)}}})"
    if char.isascii() and char.isalnum():
        return char
    forms = {rf"\\{{0,7}}{re.escape(char)}", _percent(char), *_json_escapes(char)}
    forms |= {re.escape(escaped) for escaped in _html_escapes(char)}
    if char == " ":
        forms.add(r"\+")
    return f"(?:{'|'.join(sorted(forms, key=len, reverse=True))})"


def _percent(char: str) -> str:
    bytes_of = char.encode(errors="surrogatepass")
    return "".join(f"%(?:25){{0,3}}{_either_case(f'{byte:02x}')}" for byte in bytes_of)


def _json_escapes(char: str) -> set[str]:
    units = char.encode("utf-16-be", errors="surrogatepass").hex()
    pairs = [units[at : at + 4] for at in range(0, len(units), 4)]
    named = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"}.get(char)
    escapes = {"".join(rf"\\{{1,8}}u{_either_case(pair)}" for pair in pairs)}
    return escapes | ({rf"\\{{1,8}}{named}"} if named else set())


def _html_escapes(char: str) -> set[str]:
    named = html.escape(char)
    return {named, f"&#{ord(char)};", f"&#x{ord(char):x};", f"&#x{ord(char):X};"} - {char}


def _either_case(digits: str) -> str:
    return "".join(f"[{digit}{digit.upper()}]" if digit.isalpha() else digit for digit in digits)


def _base64_parts(data: bytes) -> list[tuple[str, str]]:
    """For each place that it may have in a longer text, in both alphabets: what is surely there, and a pattern that
    takes in the characters at its borders, which it shares with its neighbours."""
    found = []
    for offset in range(3):
        bits = (offset + len(data)) * 8
        first, end = -(-offset * 8 // 6), bits // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            core = encode(bytes(offset) + data).decode()[first:end]
            before = f"{_BASE64}?" if offset else ""
            after = f"{_BASE64}?=*" if bits % 6 else "=*"
            found.append((core, before + re.escape(core) + after))
    return found
