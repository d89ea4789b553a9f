"""What a provider has said of a person, in the one form that both protocols lead to, and the role that follows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from accounts.errors import SignInRefused
from accounts.signin.models import SignInMethod
from controlplane.authority import Role

#: Entra ID sends at most 200 groups; more are a directory, not roles.
MAX_GROUPS: Final = 500
MAX_TEXT: Final = 500
#: The most powerful first.
BY_POWER: Final = tuple(Role)


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody for whom a provider has vouched, with a signature that holds. `name_id`, `session_index`: SAML's."""

    subject: str
    email: str
    name: str
    groups: tuple[str, ...]
    method: SignInMethod
    name_id: str = ""
    session_index: str = ""


def make_person(
    *,
    subject: object,
    email: object,
    name: object,
    groups: Iterable[object],
    method: SignInMethod,
    name_id: str = "",
    session_index: str = "",
) -> Person:
    """Out of claims or attributes, of which nothing but the signature is known. Raises `SignInRefused`."""
    if not _is_plain(subject):
        raise SignInRefused("no subject")
    if not _is_plain(email):
        raise SignInRefused("no e-mail address", fix="The identity provider sent no e-mail address.")
    try:
        validate_email(str(email))
    except ValidationError:
        raise SignInRefused("no e-mail address", fix="The identity provider sent no e-mail address.") from None
    plain = [group for group in groups if _is_plain(group) and len(str(group)) <= 250]
    if len(plain) > MAX_GROUPS:
        raise SignInRefused("too many groups", fix=f"You are in more than {MAX_GROUPS} groups; send fewer.")
    return Person(
        subject=str(subject),
        email=str(email).lower(),
        name=str(name)[:200] if _is_plain(name) else "",
        groups=tuple(dict.fromkeys(map(str, plain))),
        method=method,
        name_id=name_id,
        session_index=session_index,
    )


def role_for(groups: Iterable[str], mappings: Mapping[str, str]) -> Role | None:
    """The most powerful role that one of the groups gives."""
    given = {mappings[group] for group in groups if group in mappings}
    return next((role for role in BY_POWER if role.value in given), None)


def values_of(claim: object) -> list[object]:
    """A claim as a list, whether it is one or not."""
    return list(claim) if isinstance(claim, list | tuple) else [claim]


def _is_plain(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable() and value == value.strip()
