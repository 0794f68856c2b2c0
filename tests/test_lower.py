"""Programs in integers come near the float networks that they are lowered from, and keep to their memory."""

from __future__ import annotations
