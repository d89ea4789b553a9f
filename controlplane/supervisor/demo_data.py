"""The made-up shop of the demo target: customers, orders, payments, support notes. The same rows every time.

Nothing in it belongs to anybody: addresses at example.com and example.org, telephone numbers 555-01xx, the card
numbers that payment companies publish for tests, social security numbers of ranges that are never issued (9xx-00 to
9xx-49).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

CUSTOMERS: Final = 2_000
ORDERS: Final = 5_000
PAYMENTS: Final = 4_600
NOTES: Final = 600

_SEED: Final = 20_260
_NEWEST: Final = datetime(2026, 6, 30, 12, tzinfo=UTC)
_TWO_YEARS_MINUTES: Final = 2 * 365 * 24 * 60

SCHEMA: Final = """
CREATE TABLE customers (
    id integer PRIMARY KEY,
    name text NOT NULL,
    email text NOT NULL UNIQUE,
    phone text NOT NULL,
    city text NOT NULL,
    ssn text NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE TABLE orders (
    id integer PRIMARY KEY,
    customer_id integer NOT NULL REFERENCES customers,
    product text NOT NULL,
    quantity integer NOT NULL CHECK (quantity > 0),
    amount numeric(10, 2) NOT NULL,
    status text NOT NULL CHECK (status IN ('open', 'paid', 'shipped', 'returned')),
    ordered_at timestamptz NOT NULL
);
CREATE INDEX ON orders (customer_id);
CREATE TABLE payments (
    id integer PRIMARY KEY,
    order_id integer NOT NULL REFERENCES orders,
    card_number text NOT NULL,
    card_holder text NOT NULL,
    amount numeric(10, 2) NOT NULL,
    paid_at timestamptz NOT NULL
);
CREATE INDEX ON payments (order_id);
CREATE TABLE notes (
    id integer PRIMARY KEY,
    customer_id integer NOT NULL REFERENCES customers,
    body text NOT NULL,
    written_at timestamptz NOT NULL
);
"""

_FIRST: Final = (
    "Ada", "Amir", "Anneke", "Bao", "Beatriz", "Chidi", "Chloe", "Dalia", "Dmitri", "Elif", "Emeka", "Farah", "Finn",
    "Greta", "Hana", "Hugo", "Ines", "Ivan", "Jonas", "Kaito", "Katya", "Lars", "Leila", "Lucia", "Maeve", "Mateo",
    "Mei", "Nadia", "Niamh", "Noor", "Omar", "Oskar", "Paolo", "Priya", "Quinn", "Rana", "Rohan", "Saoirse", "Tariq",
    "Tess", "Uma", "Viktor", "Wren", "Xenia", "Yara", "Yusuf", "Zoe", "Zuri",
)  # fmt: skip
_LAST: Final = (
    "Abara", "Achterberg", "Almeida", "Bergstrom", "Castellan", "Chandra", "Delacroix", "Dubinski", "Eriksen",
    "Farrow", "Fontaine", "Galloway", "Haddad", "Hollis", "Ibarra", "Ivarsson", "Jankovic", "Kaminski", "Kestrel",
    "Lindqvist", "Marchetti", "Mwangi", "Nakagawa", "Novotny", "Okonjo", "Okafor", "Pereira", "Petrov", "Quiroga",
    "Rasmussen", "Rosenthal", "Sandoval", "Sorensen", "Tanaka", "Thackeray", "Ueda", "Valdez", "Vasquez", "Whitlock",
    "Yamada", "Zeller", "Zielinski",
)  # fmt: skip
_CITIES: Final = (
    "Aarhus", "Bilbao", "Bristol", "Coimbra", "Cork", "Duluth", "Eugene", "Freiburg", "Ghent", "Graz", "Halifax",
    "Linz", "Lodz", "Malmo", "Nantes", "Odense", "Porto", "Tampere", "Toledo", "Trieste", "Utrecht", "Varna",
)  # fmt: skip
_PRODUCTS: Final = (
    ("Desk lamp", "39.90"), ("Espresso cups, set of 6", "24.50"), ("Hiking boots", "129.00"), ("Linen shirt", "54.00"),
    ("Notebook, dotted", "8.90"), ("Office chair", "249.00"), ("Rain jacket", "99.00"), ("Road bicycle tyre", "42.00"),
    ("Teapot", "31.00"), ("Travel adapter", "18.75"), ("Wool blanket", "72.00"), ("Wireless keyboard", "64.90"),
)  # fmt: skip
_STATUSES: Final = ("open", "paid", "paid", "shipped", "shipped", "shipped", "returned")

#: What payment companies publish for tests: no bank has issued any of them. All pass Luhn's check.
TEST_CARDS: Final = (
    "4242424242424242", "4000056655665556", "4012888888881881", "4111111111111111", "5555555555554444",
    "2223003122003222", "5200828282828210", "5105105105105100", "378282246310005", "371449635398431",
    "6011111111111117", "6011000990139424", "30569309025904", "3566002020360505",
)  # fmt: skip

_NOTES: Final = (
    "Called about a late parcel; asked to be reached at {email} or {phone}.",
    "Wants the invoice sent to {email} as well.",
    "Paid with card {card}; the bank refused it once, then it went through.",
    "Confirmed identity by the last digits of {ssn}.",
    "Parcel came back from {city}; new address is on file.",
    "Happy with the exchange, nothing to do.",
)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows for COPY, in the order of the columns."""

    name: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def demo_tables() -> Iterator[Table]:
    """The tables in an order in which they can be loaded."""
    dice = random.Random(_SEED)  # noqa: S311  # made-up rows, the same every time
    customers = [_customer(dice, number) for number in range(1, CUSTOMERS + 1)]
    orders = [_order(dice, number) for number in range(1, ORDERS + 1)]
    paid = sorted(dice.sample(orders, PAYMENTS))
    names = {number: name for number, name, *_ in customers}
    payments = [_payment(dice, number, order, names[order[1]]) for number, order in enumerate(paid, start=1)]
    notes = [_note(dice, number, dice.choice(customers)) for number in range(1, NOTES + 1)]
    yield Table("customers", ("id", "name", "email", "phone", "city", "ssn", "created_at"), customers)
    yield Table("orders", ("id", "customer_id", "product", "quantity", "amount", "status", "ordered_at"), orders)
    yield Table("payments", ("id", "order_id", "card_number", "card_holder", "amount", "paid_at"), payments)
    yield Table("notes", ("id", "customer_id", "body", "written_at"), notes)


def _customer(dice: random.Random, number: int) -> tuple[Any, ...]:
    first, last = dice.choice(_FIRST), dice.choice(_LAST)
    email = f"{first}.{last}{number}@{dice.choice(('example.com', 'example.org'))}".lower()
    phone = f"+1 {dice.randint(201, 989)} 555 01{dice.randint(0, 99):02}"
    ssn = f"9{dice.randint(0, 99):02}-{dice.randint(1, 49):02}-{dice.randint(1, 9999):04}"
    return number, f"{first} {last}", email, phone, dice.choice(_CITIES), ssn, _moment(dice)


def _order(dice: random.Random, number: int) -> tuple[Any, ...]:
    product, price = dice.choice(_PRODUCTS)
    quantity = dice.choice((1, 1, 1, 2, 2, 3, 4))
    amount = Decimal(price) * quantity
    return number, dice.randint(1, CUSTOMERS), product, quantity, amount, dice.choice(_STATUSES), _moment(dice)


def _payment(dice: random.Random, number: int, order: tuple[Any, ...], holder: str) -> tuple[Any, ...]:
    paid_at = order[6] + timedelta(minutes=dice.randint(1, 3 * 24 * 60))
    return number, order[0], dice.choice(TEST_CARDS), holder.upper(), order[4], paid_at


def _note(dice: random.Random, number: int, customer: tuple[Any, ...]) -> tuple[Any, ...]:
    number_of_customer, _, email, phone, city, ssn, _ = customer
    body = dice.choice(_NOTES).format(email=email, phone=phone, city=city, ssn=ssn, card=dice.choice(TEST_CARDS))
    return number, number_of_customer, body, _moment(dice)


def _moment(dice: random.Random) -> datetime:
    return _NEWEST - timedelta(minutes=dice.randint(0, _TWO_YEARS_MINUTES))
