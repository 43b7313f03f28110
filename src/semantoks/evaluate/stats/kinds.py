"""Kinds of prediction targets."""

from __future__ import annotations

from typing import Literal

Kind = Literal["classification", "ordinal", "regression"]
