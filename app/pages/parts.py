"""Pages whose answer is in parts, and may take seconds to compute.

A page whose answer is ready soon is sent whole. Of other pages, the form and what else precedes the answer is sent at
once, and then each part when it is ready. Browsers show a document while it arrives, without scripts.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field, replace
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from fastapi.responses import HTMLResponse, Response
from markupsafe import Markup

from app.http.disconnection import client_left
from app.http.over_budget import over_budget_problems
from app.http.problems import INTERNAL_ERROR, HTTPProblem
from app.presentation.templates import rendered
from calculator.common.budget import OverBudgetError, current_budget
from calculator.common.errors import PlanError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from starlette.types import Message, Receive, Scope, Send

log = logging.getLogger("headroom")

#: The placeholder for `answer_parts` in a rendered page, where its parts are inserted. No input of a user contains it.
_HOLE = Markup(f"<!-- {token_hex(16)} -->")  # noqa: S704  it has no input of a user


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of an answer: its template, and the names that it, all later parts and the rest of the page use."""

    template: str
    context: Mapping[str, Any] = field(default_factory=dict)
    #: Whether it states why there is no answer.
    refuses: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PageInParts:
    """A page without its answer.

    Attributes:
        template: The page; it shows its parts as `answer_parts`.
        context: The names that the page uses before its answer is known.
        refusal: Makes the part that states problems.
        late: The template of what a streamed page states of its answer outside the answer, for scripts.
    """

    template: str
    context: Mapping[str, Any]
    refusal: Callable[[Sequence[Problem]], Part]
    late: str = "late.html"

    def answered(self, parts: Iterator[Part], body: Any = None) -> Response:
        """Return the page with an answer. The parts are computed while the response is sent.

        `body` is the same request as the API reads it: an answer that takes too long names what of it does.
        """
        return PartsResponse(self, parts, body)

    def refused(self, problems: Sequence[Problem]) -> Response:
        """Return the page that states the problems of a request."""
        return _Rendering(self).refused(problems)


class _Rendering:
    """The parts of a page that are rendered so far."""

    def __init__(self, page: PageInParts) -> None:
        self.page = page
        self.context = dict(page.context)
        self.parts: list[str] = []
        self.status = 200

    def add(self, part: Part) -> str:
        """Add a part, and return its text."""
        self.context |= part.context
        self.parts.append(rendered(part.template, self.context))
        if part.refuses:
            self.status = 422
        return self.parts[-1]

    def before_and_after(self) -> tuple[str, str]:
        """Return the text before the parts and the text after them."""
        before, _, after = rendered(self.page.template, {**self.context, "answer_parts": _HOLE}).partition(_HOLE)
        return before, after

    def whole(self) -> Response:
        """Return the page with the parts so far."""
        before, after = self.before_and_after()
        return HTMLResponse("".join((before, *self.parts, after)), self.status)

    def refused(self, problems: Sequence[Problem]) -> Response:
        """Return the page that states problems instead of its parts."""
        self.parts.clear()
        self.add(self.page.refusal(problems))
        return self.whole()

    def ended_by(self, problems: Sequence[Problem]) -> str:
        """Add the part that states problems after others, and return its text. The title is that of the others."""
        part = self.page.refusal(problems)
        kept = {"title": self.context["title"]} if self.parts else {}
        return self.add(replace(part, context={**part.context, **kept}))

    def end(self) -> str:
        """Return the end of a page that has been streamed."""
        return rendered(self.page.late, self.context) + self.before_and_after()[1]


class PartsResponse(Response):
    """A page. It is sent whole if its answer is ready within the application's `whole_page_seconds`, else part by part.

    The status of a streamed page is 200. Problems that are found later are a part of it, after the others.
    """

    def __init__(self, page: PageInParts, parts: Iterator[Part], body: Any) -> None:
        super().__init__()
        self.page, self.parts, self.request_body = page, parts, body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Compute and send the page; the computation ends soon after the client has left."""
        answering = _Answering(self.page, self.parts, self.request_body)
        computing = asyncio.ensure_future(to_thread.run_sync(answering.compute))
        leaving = asyncio.ensure_future(client_left(receive))
        try:
            patience = scope["app"].state.whole_page_seconds
            await asyncio.wait((computing, leaving), timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if computing.done():
                response = await to_thread.run_sync(_whole, answering, computing)
                await response(scope, receive, send)
            elif not leaving.done():
                await _stream(answering, computing, leaving, send)
        finally:
            answering.stop()
            leaving.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await computing


class _Answering:
    """The computation of a page's parts, in a thread."""

    def __init__(self, page: PageInParts, parts: Iterator[Part], body: Any) -> None:
        self.body = body
        self.rendering = _Rendering(page)
        self.texts: asyncio.Queue[str | None] = asyncio.Queue()
        self._parts = parts
        self._loop = asyncio.get_running_loop()
        self._budget = current_budget()
        self._is_stopped = False

    def compute(self) -> None:
        """Compute and render the parts."""
        for part in self._parts:
            self._loop.call_soon_threadsafe(self.texts.put_nowait, self.rendering.add(part))
            if self._is_stopped:
                return

    def problems(self, error: BaseException) -> Sequence[Problem] | None:
        """Return the problems of the request that an error states; None if it is of another kind."""
        if isinstance(error, PlanError):
            return error.problems
        return over_budget_problems(error, self.body) if isinstance(error, OverBudgetError) else None

    def stop(self) -> None:
        """End the computation at its next check of the budget, or after a part."""
        self._is_stopped = True
        if self._budget is not None:
            self._budget.stop()


def _whole(answering: _Answering, computing: asyncio.Future[None]) -> Response:
    error = computing.exception()
    if error is None:
        return answering.rendering.whole()
    problems = answering.problems(error)
    if problems is None:
        raise error
    return answering.rendering.refused(problems)


async def _stream(
    answering: _Answering, computing: asyncio.Future[None], leaving: asyncio.Future[None], send: Send
) -> None:
    for task in (computing, leaving):
        task.add_done_callback(lambda _: answering.texts.put_nowait(None))
    rendering = answering.rendering
    waits = rendered("pending.html", {})
    headers = [(b"content-type", b"text/html; charset=utf-8"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    before, _ = await to_thread.run_sync(_Rendering(rendering.page).before_and_after)
    await send(_body(before + waits))
    while (text := await answering.texts.get()) is not None:
        await send(_body(text + waits))
    if not computing.done():
        return
    error = computing.exception()
    text = "" if error is None else await to_thread.run_sync(rendering.ended_by, _late_problems(answering, error))
    await send(_body(text + await to_thread.run_sync(rendering.end), more=False))


def _late_problems(answering: _Answering, error: BaseException) -> Sequence[Problem]:
    """Return the message for an error that ended a page's computation after its status was sent."""
    problems = answering.problems(error)
    if problems is not None:
        return problems
    if isinstance(error, HTTPProblem):
        return (Problem(loc="", msg=error.detail),)
    log.error("unhandled exception in a page in parts", exc_info=error)
    return (Problem(loc="", msg=INTERNAL_ERROR),)


def _body(text: str, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": text.encode(), "more_body": more}
