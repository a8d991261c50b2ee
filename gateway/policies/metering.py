"""What a call costs: its tokens, and its price in US dollars. Counting never fails a call."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import anyio.to_thread

from gateway.errors import InvalidRequest, MissingExtra
from gateway.payload import Encoded, encode, printable
from gateway.policies.base import Call, Emit, Policy, Proceed, Services

if TYPE_CHECKING:
    from gateway.tools.registry import RegisteredTool

NO_TOKENS = "none"
BY_CHARS = "chars"
CHARS_PER_TOKEN = 4

_PRICES = ("per_call_usd", "per_token_in_usd", "per_token_out_usd", "per_byte_usd", "per_second_usd")
_THREAD_BYTES = 64 << 10  # counting more takes milliseconds, and is done in a thread
_SAMPLE_TOKENS = 1000  # few enough for a model's first tier
_MOST = 10**15  # of tokens or dollars: what is more was not counted, and could not be added up

Count = Callable[[str], int]
"""The tokens of a text. It may be called in a worker thread."""


@dataclass(frozen=True, slots=True)
class Metered:
    """What a price may depend on. `attempts` reached the tool, and took `seconds` together.

    Each attempt sent `tokens_in` and `bytes_in`; the result that came of it all has `tokens_out` and `bytes_out`.
    """

    attempts: int
    seconds: float
    tokens_in: int | None
    tokens_out: int | None
    bytes_in: int
    bytes_out: int


class Price(Protocol):
    """What calls cost. One of your own may ask whatever it likes."""

    def usd(self, metered: Metered) -> Decimal | None:
        """The cost of a call that reached its tool; None when it cannot be told."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """A sum of fixed prices. What is sent is paid at every attempt, what comes back once."""

    per_call: Decimal = Decimal(0)
    per_token_in: Decimal = Decimal(0)
    per_token_out: Decimal = Decimal(0)
    per_byte: Decimal = Decimal(0)
    per_second: Decimal = Decimal(0)

    def usd(self, metered: Metered) -> Decimal | None:
        """None when tokens have a price and could not be counted."""
        total = metered.attempts * self.per_call
        if self.per_second:
            total += Decimal(str(metered.seconds)) * self.per_second
        if self.per_byte:
            total += (metered.attempts * metered.bytes_in + metered.bytes_out) * self.per_byte
        for price, tokens in (
            (self.per_token_in, metered.tokens_in and metered.tokens_in * metered.attempts),
            (self.per_token_out, metered.tokens_out),
        ):
            if price and tokens is None:
                return None
            if price:
                total += price * (tokens or 0)
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """Counts the tokens and the cost of calls, into `usage` of their records.

    tokens       `none` (default), `chars` (a quarter of the characters), or an encoding such as `o200k_base`, for which
                 the extra `tokens` is needed
    model        a model's name, such as `gpt-4o`: its tokens have the prices that the extra `prices` knows for it,
                 those for short prompts
    per_call_usd, per_token_in_usd, per_token_out_usd, per_byte_usd, per_second_usd
                 prices as text or Decimal, added up; a call is one attempt at the tool, its seconds are those of all
                 attempts, and its bytes those of arguments and result as UTF-8 JSON

    Tokens are those of the arguments and of the result as JSON. What is replayed, and what never reached its tool,
    costs nothing. Raises InvalidRequest, and MissingExtra at once rather than in a call.
    """

    kind: ClassVar[str] = "meter"
    tokens: str = NO_TOKENS
    model: str = ""
    per_call_usd: str | Decimal = "0"
    per_token_in_usd: str | Decimal = "0"  # noqa: S105 - a token of another kind
    per_token_out_usd: str | Decimal = "0"  # noqa: S105
    per_byte_usd: str | Decimal = "0"
    per_second_usd: str | Decimal = "0"

    def __post_init__(self) -> None:
        for name in _PRICES:
            object.__setattr__(self, name, str(_price(name, getattr(self, name))))
        by_token = Decimal(self.per_token_in_usd) or Decimal(self.per_token_out_usd)
        if self.model and by_token:
            raise InvalidRequest("tokens have the model's price or one of yours; give model or per_token_…_usd")
        if (self.model or by_token) and self.tokens == NO_TOKENS:
            raise InvalidRequest("a price for tokens needs them counted; give tokens, such as 'chars' or 'o200k_base'")
        counter(self.tokens)
        self.price()

    def price(self) -> Price:
        given = {name.removesuffix("_usd"): Decimal(getattr(self, name)) for name in _PRICES}
        if self.model:
            given["per_token_in"], given["per_token_out"] = _model_prices(self.model)
        return Rates(**given)

    def build(self, tool: "RegisteredTool", services: Services) -> Policy | None:
        del tool, services
        priced = self.model or any(Decimal(getattr(self, name)) for name in _PRICES)
        return UsageMeter(counter(self.tokens), self.price() if priced else None)


class UsageMeter:
    """Counts with a counter and a price of your own; None leaves that out.

    Whatever they raise is only noted, and so is what is no number of tokens or dollars.
    """

    def __init__(self, count: Count | None = None, price: Price | None = None) -> None:
        self._count = count
        self._price = price

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        sent = encode(call.arguments) if self._count is not None else b""
        tokens_in = await self._counted(call, sent)
        came = _Came()
        call.usage.tokens_in = tokens_in
        try:
            if call.emit is None:
                result = await proceed(call)
                await self._take(call, came, result)
            else:
                result = await proceed(replace(call, emit=self._taking(call, came, call.emit)))
            return result
        finally:
            call.usage.tokens_out = came.tokens if self._count is not None else None
            self._charge(call, came)

    def _taking(self, call: Call, came: "_Came", emit: Emit) -> Emit:
        async def take(chunk: Encoded) -> None:
            await self._take(call, came, chunk)
            await emit(chunk)

        return take

    async def _take(self, call: Call, came: "_Came", data: Encoded) -> None:
        came.size_bytes += len(data.data)
        tokens = await self._counted(call, data.data)
        came.tokens = None if tokens is None or came.tokens is None else came.tokens + tokens

    async def _counted(self, call: Call, data: bytes) -> int | None:
        if self._count is None:
            return None
        try:
            text = data.decode()
            if len(data) > _THREAD_BYTES:
                return _checked_tokens(await anyio.to_thread.run_sync(self._count, text))
            return _checked_tokens(self._count(text))
        except Exception as exc:  # noqa: BLE001 - a counter must not fail the call that it counts
            call.usage.decisions.append(f"tokens not counted: {_text(exc)}")
            return None

    def _charge(self, call: Call, came: "_Came") -> None:
        if self._price is None:
            return
        usage = call.usage
        if usage.cached_hit or usage.idempotency_reused or not usage.attempts:
            usage.cost_usd = Decimal(0)
            return
        metered = Metered(
            attempts=usage.attempts,
            seconds=usage.tool_seconds,
            tokens_in=usage.tokens_in,
            tokens_out=usage.tokens_out,
            bytes_in=usage.input_bytes,
            bytes_out=came.size_bytes,
        )
        try:
            usage.cost_usd = _checked_cost(self._price.usd(metered))
        except Exception as exc:  # noqa: BLE001 - nor must a price
            usage.decisions.append(f"cost not counted: {_text(exc)}")


@dataclass(slots=True)
class _Came:
    """What came back so far, whole or in chunks; `tokens` None when they could not be counted."""

    size_bytes: int = 0
    tokens: int | None = 0


@cache
def counter(name: str) -> Count | None:
    """What counts tokens in this way; None for `none`. Raises InvalidRequest, MissingExtra."""
    if name == NO_TOKENS:
        return None
    if name == BY_CHARS:
        return lambda text: -(-len(text) // CHARS_PER_TOKEN)
    with warnings.catch_warnings():  # it reads its vocabularies in a way that Python 3.11 and 3.12 deprecate
        warnings.simplefilter("ignore", DeprecationWarning)
        encoding = _encoding(name)
    return lambda text: len(encoding.encode_ordinary(text))


def _encoding(name: str) -> Any:
    try:
        import bpe_openai  # noqa: PLC0415 - of an extra
    except ImportError as exc:
        raise MissingExtra("counting tokens", "tokens") from exc
    try:
        return bpe_openai.get_encoding(name)
    except LookupError as exc:
        known = ", ".join((NO_TOKENS, BY_CHARS, *bpe_openai.list_encoding_names()))
        raise InvalidRequest(f"tokens cannot be counted by {name!r}; there are {known}") from exc


@cache
def _model_prices(model: str) -> tuple[Decimal, Decimal]:
    """Of a token in and a token out. Looking a model up takes milliseconds, so it is done once."""
    try:
        import genai_prices  # noqa: PLC0415 - of an extra
    except ImportError as exc:
        raise MissingExtra("prices of models", "prices") from exc

    def price(**tokens: int) -> Decimal:
        return genai_prices.calc_price(genai_prices.Usage(**tokens), model).total_price / _SAMPLE_TOKENS

    try:
        return (
            price(input_tokens=_SAMPLE_TOKENS, output_tokens=0),
            price(input_tokens=0, output_tokens=_SAMPLE_TOKENS),
        )
    except LookupError as exc:
        raise InvalidRequest(f"no price is known for the model {model!r}; give per_token_in_usd and so on") from exc


def _price(name: str, given: str | Decimal) -> Decimal:
    if not isinstance(given, str | Decimal):
        raise InvalidRequest(f"{name} must be text such as '0.0001': {given!r} would not be exact")
    try:
        price = Decimal(given)
    except InvalidOperation:
        raise InvalidRequest(f"{name} must be a decimal number as text, not {given!r}") from None
    if not price.is_finite() or price < 0:
        raise InvalidRequest(f"{name} must be at least 0, not {given}")
    return price


def _checked_tokens(count: object) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= _MOST:
        raise ValueError(f"a number of tokens is a whole one of at least 0, not {count!r}")
    return int(count)


def _checked_cost(cost: object) -> Decimal | None:
    if cost is None:
        return None
    exact = Decimal(str(cost)) if isinstance(cost, float) else cost
    if isinstance(exact, bool) or not isinstance(exact, Decimal | int) or not 0 <= exact <= _MOST:
        raise ValueError(f"a cost is a finite number of at least 0, not {cost!r}")
    return Decimal(exact)


def _text(exc: Exception) -> str:
    try:
        said = str(exc)
    except Exception:  # noqa: BLE001 - it is somebody else's
        said = "(it cannot say what)"
    return printable(f"{type(exc).__name__}: {said}", 200)
