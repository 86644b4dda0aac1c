"""`/validation`."""

from fastapi import APIRouter
from fastapi.responses import Response

from app.api.accuracy.residuals import STATISTICS
from app.api.answers.validation import validation
from app.pages.validation import view
from app.presentation.templates import page
from calculator.allocator.reserved_assumptions import RULE_ACCURACY

router = APIRouter(include_in_schema=False)


@router.get("/validation")
def get_validation() -> Response:
    """Show how far estimates were from measurements."""
    answer = validation()
    return page(
        "validation/page.html",
        rule_accuracy=RULE_ACCURACY,
        **view.context(answer.published),
        measured=[{"answer": device, "steps": view.steps(device)} for device in answer.measured],
        remark=answer.remark,
        speeds=answer.speeds,
        statistics=STATISTICS,
        title="Estimates compared with measurements",
    )
