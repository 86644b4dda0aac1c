"""The least and the most of a figure, in several answers."""

from app.api.answers.answer import Answer, described


class IntervalAnswer(Answer):
    """The least and the most of a figure."""

    low: float = described("The least.", 3076.8)
    high: float = described("The most.", 3353.8)
