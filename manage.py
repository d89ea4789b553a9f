#!/usr/bin/env python
"""Django's command line for the control plane."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run a command; a configuration that can't be used ends in one line that names the fix."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    from django.core.management import execute_from_command_line

    from controlplane.env import ConfigurationError
    from controlplane.origin import Channel, Origin, originating

    try:
        with originating(Origin(Channel.CLI)):
            execute_from_command_line(sys.argv)
    except ConfigurationError as error:
        sys.exit(f"narrowgate: {error}")


if __name__ == "__main__":
    main()
