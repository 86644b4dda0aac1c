"""List prices of some clouds with the date on which they were read, and the cost of a run at a price."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from calculator import catalogue
from calculator.common.errors import refusal
from calculator.devices.verdict import card_of

if TYPE_CHECKING:
    from calculator.inputs.device import Device
    from calculator.speed.prediction import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPrice:
    """The price of one GPU for an hour at a cloud, without a commitment."""

    cloud: str
    card: str
    per_hour: float
    currency: str
    #: The day on which the price was read.
    date: str
    source: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListCost:
    """The cost of a run at a list price."""

    price: ListPrice
    cost: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class HourPrice:
    """The price of one GPU for an hour, its currency if it is known, and its origin."""

    per_hour: float
    currency: str
    origin: str


def hour_price(device: Device, loc: str = "device") -> HourPrice:
    """Return the price of a device: that of the request, or the lowest list price of the GPU.

    Raises:
        PlanError: if neither is known.
    """
    if device.price_per_hour is not None:
        return HourPrice(per_hour=device.price_per_hour, currency="", origin="price_per_hour of the request")
    card = card_of(device)
    listed = list_prices(card.id) if card else ()
    if not listed:
        message = "a cost needs a price, and the table of list prices does not have this GPU: give one"
        raise refusal(f"{loc}.price_per_hour", message, None)
    first = listed[0]
    origin = f"the list price of {first.cloud} on {first.date}, {first.source} ({first.address})"
    return HourPrice(per_hour=first.per_hour, currency=first.currency, origin=origin)


@cache
def list_prices(card: str) -> tuple[ListPrice, ...]:
    """Return the list prices of a GPU of the catalogue, the lowest first."""
    file = catalogue.read("prices.json")
    sources = file["sources"]
    prices = [
        ListPrice(
            cloud=row["cloud"],
            card=card,
            per_hour=row["per_hour"],
            currency=file["currency"],
            date=sources[row["source"]]["date"],
            source=sources[row["source"]]["text"],
            address=sources[row["source"]]["address"],
        )
        for row in file["prices"]
        if row["gpu"] == card
    ]
    return tuple(sorted(prices, key=lambda price: price.per_hour))
