"""`manage.py apply`: objects as YAML documents, brought about idempotently.

A document is a mapping with `kind` and that kind's fields. Each app has its kinds in `<app>/manifest.py`, as `KINDS`.
`documents` reads a file strictly, `kinds` says what a kind is and finds them, `run` applies a file in one transaction.
"""
