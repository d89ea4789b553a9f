"""Tests of `policies.engine`."""
