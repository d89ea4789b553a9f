"""The demo's rows: believable, the same every time, and nobody's."""

from __future__ import annotations

import re

import pytest

from controlplane.supervisor.demo_data import TEST_CARDS, Table, demo_tables


@pytest.fixture(scope="module")
def tables() -> dict[str, Table]:
    return {table.name: table for table in demo_tables()}


def test_the_rows_are_the_same_every_time(tables: dict[str, Table]) -> None:
    assert {table.name: table for table in demo_tables()} == tables


@pytest.mark.parametrize("card", TEST_CARDS)
def test_every_card_number_passes_luhn(card: str) -> None:
    digits = [int(digit) for digit in reversed(card)]
    doubled = sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    assert (sum(digits[::2]) + doubled) % 10 == 0


def test_no_customer_can_be_reached(tables: dict[str, Table]) -> None:
    for _, _, email, phone, _, ssn, _ in tables["customers"].rows:
        assert re.fullmatch(r"[a-z.]+\d+@example\.(com|org)", email)
        assert re.fullmatch(r"\+1 \d{3} 555 01\d\d", phone)
        assert re.fullmatch(r"9\d\d-[0-4]\d-\d{4}", ssn)


def test_every_payment_is_of_an_order_and_every_order_of_a_customer(tables: dict[str, Table]) -> None:
    customers = {row[0] for row in tables["customers"].rows}
    orders = {row[0]: row for row in tables["orders"].rows}
    assert {row[1] for row in orders.values()} <= customers
    for _, order, _, _, amount, paid_at in tables["payments"].rows:
        assert amount == orders[order][4]
        assert paid_at > orders[order][6]
