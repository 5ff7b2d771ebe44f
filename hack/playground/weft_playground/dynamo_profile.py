"""The measured profile as NVIDIA Dynamo's engine simulator reads it: numpy's file format, written by hand."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

from weft_playground.profile import Profile, SpeedError, read_profile

CONTEXT_TOKENS = (500.0, 1000.0, 2000.0, 4000.0)


def write_profile(folder: Path, error: SpeedError) -> Path:
    """A file of a replica that is as fast as `error` says; made once."""
    path = folder / f"profile-{error.prefill:g}-{error.decode:g}.npz"
    if path.exists():
        return path
    profile = read_profile()
    prompts = profile.prefill.xs
    batches = profile.decode.xs
    active = sorted({batch * context for batch in batches for context in CONTEXT_TOKENS})
    arrays: dict[str, tuple[tuple[int, ...], list[float]]] = {
        "prefill_isl": ((len(prompts),), list(prompts)),
        "prefill_ttft_ms": (
            (len(prompts),),
            [profile.prefill(tokens) * 1000 * error.prefill for tokens in prompts],
        ),
        "decode_active_kv_tokens": ((len(active),), active),
        "decode_context_length": ((len(CONTEXT_TOKENS),), list(CONTEXT_TOKENS)),
        "decode_itl": (
            (len(active), len(CONTEXT_TOKENS)),
            [
                decode_ms(profile, tokens / context) * error.decode
                for tokens in active
                for context in CONTEXT_TOKENS
            ],
        ),
    }
    draft = path.with_suffix(".part")
    with zipfile.ZipFile(draft, "w") as archive:
        for name, (shape, values) in arrays.items():
            archive.writestr(f"{name}.npy", _npy(shape, values))
    draft.replace(path)
    return path


def decode_ms(profile: Profile, batch: float) -> float:
    return profile.decode(min(float(profile.max_batch), max(1.0, batch))) * 1000


def _npy(shape: tuple[int, ...], values: Sequence[float]) -> bytes:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape!r}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    out = io.BytesIO()
    out.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
    out.write(struct.pack(f"<{len(values)}d", *values))
    return out.getvalue()
