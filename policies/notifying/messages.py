"""What is said, in each channel's form. Pure: from a notification's payload to the peer's JSON, or to a mail.

A payload is `{"event", "tenant", "title", "url", "facts": [[name, text], …], "text", "request": id or "", "is_open"}`:
`text` is the statement, empty where the channel doesn't show it; `is_open`: somebody may still decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

#: Slack's bounds (docs.slack.dev, Block Kit): a header has 150 characters, a field 2,000, a text 3,000.
SLACK_HEADER_CHARACTERS: Final = 150
SLACK_FIELD_CHARACTERS: Final = 500
SLACK_FIELDS: Final = 10
SLACK_TEXT_CHARACTERS: Final = 2_800
#: A card has 28 KB in all.
TEAMS_TEXT_CHARACTERS: Final = 5_000
MAIL_TEXT_CHARACTERS: Final = 20_000

APPROVE: Final = "approve"
REJECT: Final = "reject"


def slack_message(payload: Mapping[str, Any]) -> dict[str, Any]:
    """`text` and `blocks` for chat.postMessage and chat.update."""
    fields = [_plain(_cut(f"{name}\n{text}", SLACK_FIELD_CHARACTERS)) for name, text in payload["facts"][:SLACK_FIELDS]]
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": _cut(payload["title"], SLACK_HEADER_CHARACTERS)}}
    ]
    if fields:
        blocks.append({"type": "section", "fields": fields})
    if payload["text"]:
        # Preformatted: what the agent wrote can neither link nor mention.
        said = {"type": "text", "text": _cut(payload["text"], SLACK_TEXT_CHARACTERS)}
        blocks.append({"type": "rich_text", "elements": [{"type": "rich_text_preformatted", "elements": [said]}]})
    elements: list[dict[str, Any]] = []
    if payload["is_open"]:
        elements += [
            _slack_button(APPROVE, "Approve…", payload["request"], style="primary"),
            _slack_button(REJECT, "Reject…", payload["request"], style="danger"),
        ]
    elements.append({"type": "button", "action_id": "open", "text": _plain("Open"), "url": payload["url"]})
    blocks.append({"type": "actions", "elements": elements})
    return {"text": _cut(_escaped(payload["title"]), SLACK_TEXT_CHARACTERS), "blocks": blocks}


def slack_vote_view(choice: str, request_id: str, title: str, metadata: str) -> dict[str, Any]:
    """The dialog that asks for a comment before a vote. `metadata` comes back with it."""
    verb = "Approve" if choice == APPROVE else "Reject"
    return {
        "type": "modal",
        "callback_id": "vote",
        "private_metadata": metadata,
        "title": _plain("Narrowgate"),
        "submit": _plain(verb),
        "close": _plain("Back"),
        "blocks": [
            {"type": "section", "text": {"type": "plain_text", "text": _cut(f"{verb}: {title}", 2_000)}},
            {"type": "context", "elements": [{"type": "plain_text", "text": f"Request {request_id}"}]},
            {
                "type": "input",
                "block_id": "comment",
                "optional": choice == APPROVE,
                "label": _plain("Comment"),
                "element": {"type": "plain_text_input", "action_id": "comment", "multiline": True, "max_length": 500},
            },
        ],
    }


def slack_notice_view(text: str) -> dict[str, Any]:
    """A dialog that only says something."""
    return {
        "type": "modal",
        "title": _plain("Narrowgate"),
        "close": _plain("Close"),
        "blocks": [{"type": "section", "text": {"type": "plain_text", "text": _cut(text, 2_900)}}],
    }


def teams_message(payload: Mapping[str, Any]) -> dict[str, Any]:
    """What a workflow "When a Teams webhook request is received" takes: a message with an Adaptive Card."""
    body: list[dict[str, Any]] = [
        {"type": "TextBlock", "text": _teams(payload["title"]), "weight": "Bolder", "size": "Medium", "wrap": True},
        {
            "type": "FactSet",
            "facts": [{"title": _teams(name), "value": _teams(text)} for name, text in payload["facts"]],
        },
    ]
    if payload["text"]:
        text = _cut(payload["text"], TEAMS_TEXT_CHARACTERS)
        body.append({"type": "TextBlock", "text": _teams(text), "fontType": "Monospace", "wrap": True})
    if payload["is_open"]:
        hint = f"Or say: @Narrowgate approve {payload['request']} and a comment"
        body.append({"type": "TextBlock", "text": hint, "isSubtle": True, "size": "Small", "wrap": True})
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
        "actions": [{"type": "Action.OpenUrl", "title": "Open", "url": payload["url"]}],
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def mail(payload: Mapping[str, Any]) -> tuple[str, str]:
    """Subject and text."""
    lines = [payload["title"], ""]
    lines += [f"{name}: {text}" for name, text in payload["facts"]]
    if payload["text"]:
        lines += ["", _cut(payload["text"], MAIL_TEXT_CHARACTERS)]
    lines += ["", f"Look at it{', and decide,' if payload['is_open'] else ''} after signing in:", payload["url"]]
    subject = " ".join(f"Narrowgate: {payload['title']}".split())
    return _cut(subject, 200), "\n".join(lines)


def _escaped(text: str) -> str:
    """For Slack's `text`, in which `<…>` would link or mention."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _teams(text: str) -> str:
    """Adaptive Cards know a little Markdown: links and emphasis are defused."""
    return "".join(f"\\{character}" if character in "[]()*_`#<>" else character for character in text)


def _slack_button(action: str, label: str, value: str, *, style: str) -> dict[str, Any]:
    return {"type": "button", "action_id": action, "text": _plain(label), "value": value, "style": style}


def _plain(text: str) -> dict[str, str]:
    return {"type": "plain_text", "text": text}


def _cut(text: str, most_characters: int) -> str:
    return text if len(text) <= most_characters else f"{text[: most_characters - 1]}…"
