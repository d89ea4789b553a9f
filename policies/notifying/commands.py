"""What people say to Narrowgate in a chat, and what it answers: `link`, `approve`, `reject`, and what others add.

    link <code>                        who the speaker is, by a code of Narrowgate's page
    approve <request> <comment>        a vote; `reject` likewise

A command is done as the person whose account is linked, with that person's rights in the channel's tenant, and no more.
Other apps add commands by `register_command`: the sessions' kill switch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from accounts.models import User
from controlplane.errors import Refusal
from policies.approvals import actions as approvals
from policies.approvals.models import ApprovalRequest
from policies.notifying.actions import link_chat_account, who_is
from policies.notifying.models import NotificationChannel

MAX_COMMAND_CHARACTERS: Final = 1_000
NOT_LINKED: Final = (
    "I don't know who you are here. Sign in to Narrowgate, open “Chat accounts” to get a code, and say: link <code>"
)


@dataclass(frozen=True, slots=True)
class Speaker:
    """Somebody in a chat. `user` None: not linked."""

    channel: NotificationChannel
    external_id: str
    user: User | None


#: Does what was asked, given who asks and the words behind the command; returns what to answer. Raises `Refusal`.
Command = Callable[[Speaker, User, str, datetime], str]
_commands: dict[str, tuple[Command, str]] = {}


def register_command(name: str, command: Command, *, usage: str) -> None:
    """Add a command for people whose account is linked."""
    _commands[name] = (command, usage)


def speaker_of(channel: NotificationChannel, external_id: str) -> Speaker:
    """Who speaks, in the channel's scope."""
    return Speaker(channel=channel, external_id=external_id, user=who_is(channel, external_id))


def run_command(speaker: Speaker, text: str, *, now: datetime) -> str:
    """Do what is said and return the answer. Never raises for what somebody says."""
    name, _, rest = text.strip()[:MAX_COMMAND_CHARACTERS].partition(" ")
    try:
        if name == "link":
            user = link_chat_account(speaker.channel, external_id=speaker.external_id, code=rest, now=now)
            return f"This account is now linked to {user}."
        known = _commands.get(name.lower())
        if known is None:
            usages = ["link <code>", *(usage for _, usage in _commands.values())]
            return "I understand:\n" + "\n".join(usages)
        if speaker.user is None:
            return NOT_LINKED
        return known[0](speaker, speaker.user, rest.strip(), now)
    except Refusal as refusal:
        return f"Not done: {refusal.problem}. {refusal.fix}"


def vote_by_chat(speaker: Speaker, user: User, *, request_id: str, approves: bool, comment: str) -> str:
    """A vote on a request of the channel's tenant. Raises `Refusal`."""
    request = ApprovalRequest.objects.filter(pk=_uuid(request_id), tenant=speaker.channel.tenant).first()
    if request is None:
        raise Refusal(problem="there is no such request", fix="Copy its number from the message.", field="request")
    decide = approvals.approve if approves else approvals.reject
    decide(request, acting_user=user, comment=comment, via=speaker.channel.kind)
    return f"Your {'approval' if approves else 'rejection'} of request {request.pk} is on record."


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Refusal(problem="that is no request's number", fix="Copy it from the message.", field="request") from None


def _vote(*, approves: bool) -> Command:
    def command(speaker: Speaker, user: User, rest: str, now: datetime) -> str:  # noqa: ARG001  # a Command's
        request_id, _, comment = rest.partition(" ")
        return vote_by_chat(speaker, user, request_id=request_id, approves=approves, comment=comment.strip())

    return command


register_command("approve", _vote(approves=True), usage="approve <request> <comment>")
register_command("reject", _vote(approves=False), usage="reject <request> <comment>")
