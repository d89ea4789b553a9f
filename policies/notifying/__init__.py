"""Tells people what waits for them, where they are: e-mail, Slack, Microsoft Teams, signed webhooks; and hears answers.

    announce (in the transaction of what happened) ─► Notification rows, one for each channel and event
    deliver  (a task)                              ─► senders, with a DeliveryAttempt for each try
    views    (signed callbacks)                    ─► votes, links of chat accounts, commands

A channel never says more than its tenant's people may know: a statement's text goes only where the channel asks for it.
"""
