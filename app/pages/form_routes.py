"""The routes of a page with a form: the page, a submitted form, and the page as JSON."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel
from starlette.requests import Request

from app.api.responses import json_response
from app.forms.plan_form import LONGEST_ADDRESS
from app.http.body_params import FormFields
from calculator.common.errors import refusal


class AddressForm(Protocol):
    """A form whose fields are in the address."""

    @property
    def unknown(self) -> tuple[str, ...]:
        """The parameters of the address that the page has no input for."""

    def address(self) -> str:
        """Return the query string of the form."""

    def body(self) -> dict[str, Any]:
        """Return the body of the same request to the API."""


class Endpoint(Protocol):
    """The module of an endpoint of the API."""

    def answer(self, body: Any, /) -> BaseModel:
        """Return the endpoint's answer to a body."""


Form = TypeVar("Form", bound=AddressForm)


def form_routes(
    path: str,
    read: Callable[[Iterable[tuple[str, str]]], Form],
    page: Callable[[Form], Response],
    endpoint: Endpoint,
) -> APIRouter:
    """Return the routes of a page: `path` and `path.json`.

    `read` parses the fields of an address or of a submitted form, `page` shows a form's answer, and `endpoint` answers
    its body as JSON. A submitted form redirects to its address unless that is too long.
    """
    router = APIRouter(include_in_schema=False)

    @router.get(path)
    def get_page(request: Request) -> Response:
        return page(read(request.query_params.multi_items()))

    @router.post(path)
    def post_page(fields: FormFields) -> Response:
        form = read(fields)
        address = f"{path}{form.address()}"
        return RedirectResponse(address, 303) if len(address) <= LONGEST_ADDRESS else page(form)

    @router.get(f"{path}.json")
    def get_json(request: Request) -> Response:
        form = read(request.query_params.multi_items())
        if form.unknown:
            raise refusal(form.unknown[0], "unknown parameter: only the fields of the page are accepted", None)
        return json_response(endpoint.answer(form.body()))

    return router
