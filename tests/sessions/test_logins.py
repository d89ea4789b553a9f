"""A gate asks for the verifier of a database login: it gets one in any case, but not as often as it likes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.core.cache import cache
from django.utils import timezone
from django_scopes import scope
from redis.exceptions import ConnectionError as RedisConnectionError

from accounts.models import AgentToken, TokenKind
from accounts.oauth import limits
from accounts.oauth.actions import issue_database_login
from accounts.oauth.exchange import Entitlement
from proxyworker.contract import LoginVerifier, RefusalCode, Refused, RequestVerifier
from proxyworker.wire.postgres.scram import parse_verifier
from sessions.ingest import LinkedWorker
from sessions.logins import offer_verifier
from tests.sessions.conftest import Site
from tests.sessions.linking import question, signed_on

pytestmark = pytest.mark.django_db(transaction=True)

UNKNOWN = "f" * 16


@pytest.fixture(autouse=True)
def _nobody_has_asked_yet() -> Iterator[None]:
    cache.clear()
    yield
    cache.clear()


def login_of(site: Site) -> tuple[AgentToken, str]:
    """A new login of the site's agent, and its password."""
    now = timezone.now()
    entitled = Entitlement(agent=site.agent, expires_at=now + timedelta(minutes=5), targets=None, carried={})
    with scope(tenant=site.tenant):
        token, user, password = issue_database_login(entitled, now=now)
    assert user == f"ng_{token.token_id}"
    return token, password


def ask(site: Site, login: str, *, address: str = "10.0.0.1:5") -> LoginVerifier | Refused:
    worker = LinkedWorker(id=site.worker.pk, tenant_id=site.tenant.pk, name=site.worker.name)
    return offer_verifier(worker, RequestVerifier(request_id=7, login=login, client_address=address))


def verifier(site: Site, login: str) -> str:
    answer = ask(site, login)
    assert isinstance(answer, LoginVerifier)
    assert answer.request_id == 7
    return answer.verifier.value


def test_a_logins_verifier_is_the_one_that_is_kept(acme: Site) -> None:
    token, _ = login_of(acme)
    assert verifier(acme, token.token_id) == token.scram_verifier


@pytest.mark.parametrize("login", [UNKNOWN, "", "no hex", "\x00", "x" * 100_000])
def test_of_a_login_that_is_not_there_it_is_a_lasting_one_that_is_nobodys(acme: Site, login: str) -> None:
    first = parse_verifier(verifier(acme, login))
    assert first == parse_verifier(verifier(acme, login))
    assert first.stored_key != first.server_key != bytes(32)


def test_whether_there_is_a_login_does_not_show_in_what_anybody_is_asked(acme: Site, globex: Site) -> None:
    """Salt and iterations are all that a client sees: they are the same before, while and after a login is there."""
    token, _ = login_of(acme)
    kept = parse_verifier(token.scram_verifier)
    elsewhere = parse_verifier(verifier(globex, token.token_id))
    assert (elsewhere.salt, elsewhere.iterations) == (kept.salt, kept.iterations)
    assert elsewhere.stored_key != kept.stored_key
    with scope(tenant=acme.tenant):
        token.delete()
    gone = parse_verifier(verifier(acme, token.token_id))
    assert (gone.salt, gone.iterations) == (kept.salt, kept.iterations)
    assert gone.stored_key != kept.stored_key


def test_another_kind_of_token_is_no_login(acme: Site) -> None:
    token, _ = login_of(acme)
    with scope(tenant=acme.tenant):
        AgentToken.objects.filter(pk=token.pk).update(kind=TokenKind.EXCHANGED)
    assert verifier(acme, token.token_id) != token.scram_verifier


def test_an_address_that_asks_too_often_has_to_wait_and_others_do_not(
    acme: Site, globex: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REQUESTS_PER_MINUTE", 3)
    answers = [ask(acme, UNKNOWN, address=f"10.0.0.1:{port}") for port in range(4)]
    assert [type(answer) for answer in answers] == [LoginVerifier] * 3 + [Refused]
    last = answers[-1]
    assert isinstance(last, Refused)
    assert (last.request_id, last.code) == (7, RefusalCode.BUSY)
    assert isinstance(ask(acme, UNKNOWN, address="10.0.0.2:1"), LoginVerifier)
    assert isinstance(ask(globex, UNKNOWN, address="10.0.0.1:1"), LoginVerifier)


async def test_a_worker_asks_over_its_link(acme: Site) -> None:
    async with signed_on(acme) as worker:
        await worker.send(RequestVerifier(request_id=9, login=UNKNOWN, client_address="10.0.0.1:5"))
        answer = await worker.receive(LoginVerifier)
        assert answer.request_id == 9
        assert parse_verifier(answer.verifier.value).iterations == 4096


def test_when_nobody_can_count_nobody_is_answered(acme: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The link then says that the control plane could not answer."""

    def down(*_: object, **__: object) -> bool:
        raise RedisConnectionError

    monkeypatch.setattr(cache, "add", down)
    with pytest.raises(RedisConnectionError):
        ask(acme, UNKNOWN)


async def test_a_client_key_that_is_wrong_is_refused_on_record(acme: Site) -> None:
    async with signed_on(acme) as worker:
        await worker.send(question(f"ngd_{UNKNOWN}_{'0' * 64}"))
        assert (await worker.receive(Refused)).code is RefusalCode.BAD_CREDENTIAL
