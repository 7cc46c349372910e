"""What a program shows on a pseudo-terminal."""

from __future__ import annotations

import os


def drain(leader: int) -> str:
    chunks: list[bytes] = []
    try:
        while chunk := os.read(leader, 65536):
            chunks.append(chunk)
    except OSError:
        # Linux ends a pseudo-terminal with an error.
        pass
    finally:
        os.close(leader)
    return b"".join(chunks).decode()
