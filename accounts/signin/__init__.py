"""The sessions of people in the browser (`SignIn`), and break-glass: a local account with password and TOTP.

Django's session says who; the `SignIn` that it names says how, where, until when, and whether it has been ended.
"""
