"""Bytes of protocols beside what they mean. One list drives the tests of readers and of writers."""
