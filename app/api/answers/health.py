"""Answer of `GET /healthz`."""

from app.api.answers.answer import Answer, described


class Health(Answer):
    """The state of the service."""

    status: str = described("Always ok: the service answers.", "ok")
    version: str = described("The version of Headroom.", "0.4.0")
