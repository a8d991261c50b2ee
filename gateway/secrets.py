"""Secrets of the host: tools name them, the host lends them for a call, and nothing that leaves a call shows them.

exec = AsyncExec(secrets={"CRM_TOKEN": lambda: vault.read("crm")})
api = HttpApi(base_url="https://crm.example.com", auth=Bearer(SecretRef("CRM_TOKEN")))
"""

import re
import traceback
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from gateway.artifacts import Artifact
from gateway.base import JsonValue
from gateway.context import Progress
from gateway.errors import InvalidRequest, ToolError
from gateway.payload import Encoded, encode
from gateway.providers.secret import Secret, revealed
from gateway.secret_forms import Forms

MIN_SECRET_CHARS = 6
"""A shorter secret is refused: masking it would spoil what merely looks like it."""

MAX_VALUES = 100
"""Values of one secret that are looked for; of one that changes more often the oldest are forgotten."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")
_ROUNDS = 4  # what is put in a value's place may, with its neighbours, look like another value

_lent: "ContextVar[Secrets | None]" = ContextVar("lent_secrets", default=None)

_E = TypeVar("_E", bound=ToolError)


@dataclass(frozen=True, slots=True)
class SecretRef:
    """A secret by its name, wherever a provider takes a secret. It is revealed when it is used, and not before."""

    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidRequest(f"a secret's name is a letter and letters, digits and _ . -, not {self.name!r}")

    def __call__(self) -> str:
        """The value, within a call. Raises InvalidRequest when the host has no such secret."""
        secrets = _lent.get()
        if secrets is None or self.name not in secrets:
            raise InvalidRequest(f"there is no secret {self.name!r}; pass it in secrets=")
        return secrets.reveal(self.name)


class Secrets:
    """The secrets of one host, by name: the text itself, or a function that gives it each time that it is needed.

    A text is looked for from the beginning, what a function gives from when it was first asked. Raises InvalidRequest
    for names and values that cannot be secrets.
    """

    def __init__(self, given: Mapping[str, Secret]) -> None:
        self._given = {SecretRef(name).name: secret for name, secret in given.items()}
        self._known: OrderedDict[tuple[str, str], Forms] = OrderedDict()
        self._longest_first: tuple[Forms, ...] = ()
        for name, secret in self._given.items():
            if isinstance(secret, str):
                self._remember(name, secret)

    def __contains__(self, name: str) -> bool:
        return name in self._given

    def __repr__(self) -> str:
        return f"Secrets({', '.join(self._given)})"

    def reveal(self, name: str) -> str:
        """The value, which is masked from here on. Raises InvalidRequest for one that cannot be a secret."""
        value = revealed(self._given[name])
        if (name, value) in self._known:
            self._known.move_to_end((name, value))
        else:
            self._remember(name, value)
        return value

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Within it, and in tasks that are started within it, references lead to these secrets."""
        token = _lent.set(self)
        try:
            yield
        finally:
            _lent.reset(token)

    def text(self, text: str) -> str:
        """The same without secrets."""
        if not self._found(text):
            return text
        for _ in range(_ROUNDS):
            before = text
            for forms in self._longest_first:
                text = forms.masked(text)
            for forms in self._longest_first:  # last: what is cut off of one may be all of another
                text = forms.masked_end(text)
            if text == before:
                return text
        return "[secret]"

    def value(self, value: JsonValue) -> JsonValue:
        """A copy of JSON without secrets, whether they are texts, parts of texts, keys or numbers."""
        match value:
            case str():
                return self.text(value)
            case dict():
                return {self.text(name): self.value(inner) for name, inner in value.items()}
            case list() | tuple():
                return [self.value(inner) for inner in value]
            case int() | float() if not isinstance(value, bool):
                shown = encode(value).decode()
                return value if (masked := self.text(shown)) == shown else masked
        return value

    def encoded(self, encoded: Encoded) -> Encoded:
        """The same JSON without secrets; itself when there are none in it."""
        if not self._found(encoded.data.decode()):
            return encoded
        value = self.value(encoded.value)
        return encoded if value == encoded.value else Encoded(value, encode(value))

    def data(self, data: bytes) -> bytes:
        """The same without secrets if it is text; of other data there is no telling."""
        try:
            return self.text(data.decode()).encode()
        except UnicodeDecodeError:
            return data

    def artifact(self, artifact: Artifact) -> Artifact:
        return Artifact(self.text(artifact.path), self.data(artifact.data))

    def progress(self, progress: Progress) -> Progress:
        return replace(progress, message=self.text(progress.message))

    def error(self, error: _E) -> _E:
        """The same error without secrets, and without the causes that have them."""
        message = str(error.message)
        masked = self.text(message)
        if masked != message:
            error.message, error.args = masked, (masked,)
        error.details = self.details(error.details)
        if any(self._found(_words(cause)) for cause in _causes(error)):
            error.__cause__ = None
            error.__context__ = None
            error.__suppress_context__ = True
        return error

    def details(self, details: Mapping[str, Any]) -> dict[str, Any]:
        try:
            if not self._found(encode(dict(details)).decode()):
                return dict(details)
        except ValueError:  # no JSON, which is for whoever encodes it to say
            return {name: self.text(str(value)) for name, value in details.items()}
        masked = self.value(dict(details))
        assert isinstance(masked, dict)
        return masked

    def _found(self, text: str) -> bool:
        return any(forms.found(text) for forms in self._longest_first)

    def _remember(self, name: str, value: str) -> None:
        if not isinstance(value, str):
            raise InvalidRequest(f"the secret {name} must be text, not {type(value).__name__}")
        if len(value) < MIN_SECRET_CHARS:
            raise InvalidRequest(
                f"the secret {name} has under {MIN_SECRET_CHARS} characters: masking it would spoil ordinary text"
            )
        if any(value in mask_of(other) for other in self._given):
            raise InvalidRequest(f"the value of the secret {name} is among the words that stand for secrets")
        self._known[name, value] = Forms(value, mask_of(name))
        mine = [known for known in self._known if known[0] == name]
        for known in mine[:-MAX_VALUES]:
            del self._known[known]
        self._longest_first = tuple(sorted(self._known.values(), key=lambda forms: -len(forms.value)))


def mask_of(name: str) -> str:
    """What stands for a secret."""
    return f"[secret {name}]"


def masked(text: str) -> str:
    """Text for a log or a report, without the secrets that are lent here and now."""
    secrets = _lent.get()
    return text if secrets is None else secrets.text(text)


def trace(error: BaseException) -> str:
    """How it came about, for a log, without the secrets that are lent here and now."""
    return masked("".join(traceback.format_exception(error)).rstrip())


def _words(error: BaseException) -> str:
    try:
        return f"{error!r} {error}"
    except Exception:  # noqa: BLE001 - a tool's exception may raise anything when it is formatted
        return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen = {id(error)}
    waiting = [error.__cause__, error.__context__]
    while waiting:
        cause = waiting.pop()
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        waiting += [cause.__cause__, cause.__context__]
        if isinstance(cause, BaseExceptionGroup):
            waiting += cause.exceptions
