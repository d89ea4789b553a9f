"""A worker's frames and records: a value that decodes to itself when it is encoded, or `ContractError`."""

from __future__ import annotations

from proxyworker.contract import ContractError, decode_from_worker, decode_record, encode
from tests.fuzz.run import fuzz


def one_input(data: bytes) -> None:
    """`data` is a frame of the link."""
    for decode in (decode_from_worker, decode_record):
        try:
            value = decode(data)
        except ContractError:
            continue
        encoded = encode(value)
        assert encode(decode(encoded)) == encoded


if __name__ == "__main__":
    fuzz(one_input)
