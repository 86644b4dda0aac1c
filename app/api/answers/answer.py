"""The base class of every response model, and fields with a description and an example."""

from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from calculator.common.budget import check_budget


class Answer(BaseModel):
    """A response model that Pydantic fills from the attributes of a calculator value."""

    model_config = ConfigDict(from_attributes=True)

    #: Whether the calculator's value caches its JSON in `json`, because many answers contain it.
    keeps_json: ClassVar[bool] = False

    #: The members that differ between values that share all others. `form` caches the JSON of the shared members, and
    #: `json` that of the value.
    varying: ClassVar[tuple[str, ...]] = ()

    #: The member that differs between the values of a list: a whole number. The list has these numbers under the same
    #: name, and its form caches the JSON of all other members.
    column: ClassVar[str] = ""

    @classmethod
    def model_validate(cls, *args: Any, **kwargs: Any) -> Self:
        """Return the model of a calculator value.

        Raises:
            OverBudgetError: if a value that is computed on first access takes too long. Pydantic hides that error.
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
