"""The base class of every response model, and the field that documents itself."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """A response model that Pydantic fills from the attributes of a calculator value."""

    model_config = ConfigDict(from_attributes=True)

    #: Whether the calculator's value keeps its JSON, in `json`, since it is in many answers.
    keeps_json: ClassVar[bool] = False


def described(description: str, example: Any) -> Any:
    """Return a field with a description and an example, both shown in the OpenAPI document."""
    return Field(description=description, examples=[example])
