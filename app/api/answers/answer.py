"""The base class of every response model, and the field that documents itself."""

from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from calculator.common.budget import check_budget


class Answer(BaseModel):
    """A response model that Pydantic fills from the attributes of a calculator value."""

    model_config = ConfigDict(from_attributes=True)

    #: Whether the calculator's value keeps its JSON, in `json`, since it is in many answers.
    keeps_json: ClassVar[bool] = False

    #: The members that a value has of its own, where it shares all others with further values: `form` keeps their JSON,
    #: and the value its own in `json`.
    varying: ClassVar[tuple[str, ...]] = ()

    #: The whole number of each value in a list whose form keeps the JSON of all other members. The list has these
    #: numbers under the same name.
    column: ClassVar[str] = ""

    @classmethod
    def model_validate(cls, *args: Any, **kwargs: Any) -> Self:
        """Return the model of a calculator value.

        Raises:
            OverBudgetError: if what is computed when it is first read takes too long: Pydantic hides that error.
        """
        try:
            return super().model_validate(*args, **kwargs)
        except ValidationError:
            check_budget()
            raise


def described(description: str, example: Any) -> Any:
    """Return a field with a description and an example, both shown in the OpenAPI document."""
    return Field(description=description, examples=[example])


def described_as(answer: type[Answer], name: str) -> Any:
    """Return a field with the description and the example of another answer's."""
    field = answer.model_fields[name]
    return Field(description=field.description, examples=field.examples)
