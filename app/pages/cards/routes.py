"""`/cards` and `/cards/{id}`."""

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from starlette.requests import Request

from app.api.answers.cards import card_list
from app.api.cards import LONGEST, card_of
from app.forms.card_query import CARD_QUERY, read
from app.pages.cards import view
from app.presentation import card_text
from app.presentation.templates import page
from calculator.cards.settings import CARD_METHODS, LENGTHS
from calculator.methods import METHODS

router = APIRouter(include_in_schema=False)

LABELS = {name: METHODS[name].facts.label for name in CARD_METHODS}


@router.get("/cards")
def get_cards(q: str = "") -> Response:
    """Show every GPU with what it can train, or those that a search finds."""
    query = q[:LONGEST]
    return page(
        "cards/list.html",
        answer=card_list(query),
        labels=LABELS,
        longest=LONGEST,
        query=query,
        title="What can I do with my GPU?",
    )


@router.get("/cards/{id}")
def get_card(id: str, request: Request) -> Response:  # noqa: A002  the catalogue's word
    """Show what one GPU can train. Another name of the GPU redirects to its id."""
    card, form = card_of(id), read(request.query_params.multi_items())
    if id != card.id:
        return RedirectResponse(f"/cards/{card.id}{form.address()}", 307)
    answer, errors = view.answered(card, form)
    return page(
        "cards/card.html",
        422 if errors else 200,
        answer=answer,
        card=card,
        card_text=card_text,
        columns=view.columns(form),
        errors=errors,
        fields=[field for field in CARD_QUERY.values() if field.declared.setting.form],
        form=form,
        labels=LABELS,
        links=view.links,
        pages=view.pages(form, answer) if answer else {},
        shortest=LENGTHS[0],
        without_rows=view.without_rows(answer) if answer else (),
        title=f"What can I do with {card.name}?",
    )
