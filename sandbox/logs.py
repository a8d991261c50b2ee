"""The log of a process that is ours, such as the command's. In a process of yours logging is yours: see `CallIds`.

Everything here logs through the standard library, to the loggers `sandbox`, `runtimes` and `gateway`: that is what
programs that embed it collect already. They have a handler that does nothing, so that nothing appears anywhere until
the host says so, and the root logger is never touched. structlog, an extra, writes the lines of `configure_logs`.
"""

import logging
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from gateway.errors import InvalidRequest, MissingExtra
from gateway.ids import current_ids
from gateway.masking import mask_fields
from gateway.tracing import trace_ids

FORMS = ("json", "text")

LOGGERS = ("sandbox", "runtimes", "gateway")


def be_silent() -> None:
    """Without a handler the standard library would write warnings to standard error, which belongs to the host."""
    for name in LOGGERS:
        logging.getLogger(name).addHandler(logging.NullHandler())


class CallIds(logging.Filter):
    """Gives every record that a handler of yours takes the ids of what was at work: add it to the handler.

    They are `execution_id`, `tenant_id`, `tool_id`, `call_index`, and `trace_id` and `span_id` while there is a span;
    those of a record's own are left as they are.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in {**current_ids(), **trace_ids()}.items():
            record.__dict__.setdefault(name, value)
        return True


def configure_logs(form: str, level: int = logging.INFO, stream: TextIO | None = None) -> logging.Handler:
    """Write what our loggers say to `stream` (standard error) as one JSON object or one line of text each.

    Fields whose names say that they are private are masked, and control characters of text are escaped. Replaces what
    an earlier call began. Raises InvalidRequest, MissingExtra.
    """
    if form not in FORMS:
        raise InvalidRequest(f"the form of a log must be {' or '.join(FORMS)}, not {form!r}")
    handler = _Ours(sys.stderr if stream is None else stream)
    handler.setFormatter(_formatter(form))
    handler.addFilter(CallIds())
    for name in LOGGERS:
        logger = logging.getLogger(name)
        for old in [one for one in logger.handlers if isinstance(one, _Ours)]:
            logger.removeHandler(old)
        logger.addHandler(handler)
        logger.setLevel(level)
    return handler


class _Ours(logging.StreamHandler[TextIO]):
    """Told from the handlers of others by its class."""


def _formatter(form: str) -> logging.Formatter:
    try:
        import structlog  # noqa: PLC0415 - an extra, and only needed here
    except ModuleNotFoundError as exc:
        raise MissingExtra("logs in this form", "logs") from exc
    renderer: Any = structlog.processors.JSONRenderer(ensure_ascii=False, default=repr)
    if form == "text":
        renderer = structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "logger", "event"])
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            _masked,
            *([_visible] if form == "text" else []),
            renderer,
        ],
    )


def _masked(_logger: Any, _method: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    masked = mask_fields(dict(fields))
    assert isinstance(masked, dict)
    return masked


def _visible(_logger: Any, _method: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Printed, no value starts a line or moves a cursor."""
    return {name: _escaped(value) for name, value in fields.items()}


def _escaped(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(value))
