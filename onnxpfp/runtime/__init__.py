"""onnxruntime: execution providers and sessions."""

from onnxpfp.runtime.providers import ProviderRequest, resolve_providers
from onnxpfp.runtime.session import Session, open_session

__all__ = ["ProviderRequest", "Session", "open_session", "resolve_providers"]
