"""Properties that are computed once."""

from calculator.common.cached import cached_property


class Square:
    def __init__(self, side: int) -> None:
        self.side = side
        self.runs = 0

    @cached_property
    def area(self) -> int:
        """The area."""
        self.runs += 1
        return self.side**2


def test_the_first_value_becomes_an_attribute_of_each_object() -> None:
    two, three = Square(2), Square(3)
    assert (two.area, two.area, three.area) == (4, 4, 9)
    assert (two.runs, vars(two)["area"]) == (1, 4)


def test_the_value_can_be_dropped() -> None:
    square = Square(2)
    assert square.area == 4
    square.side = 5
    del vars(square)["area"]
    assert square.area == 25


def test_the_class_has_the_property_itself() -> None:
    assert isinstance(Square.area, cached_property)
