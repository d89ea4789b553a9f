"""Sans-IO codecs: bytes to messages and back. No sockets, no clocks, no policy."""
