"""The processes of a worker: which there are, and which of their links is the one that counts.

    take_up → note_sign_of_life … → let_go

A worker is one row and one key, however many processes it runs; each process has its number, its link and its journal.
"""
