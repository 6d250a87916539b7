"""This server's own pictures as inputs of further requests, named by the URLs in its answers."""

import asyncio
from dataclasses import dataclass

from inpaint.errors import RequestError
from server.errors import NotFoundError
from server.service.order import Stored
from server.service.stored_pictures import StoredPictures
from server.storage.requests import Store


@dataclass(frozen=True, slots=True)
class OwnPictures:
    """The pictures of the picture store, for callers that know their URLs."""

    store: Store
    pictures: StoredPictures

    async def read(self, name: str, picture: Stored) -> bytes:
        """Return the file of a picture; ``name`` is the field that names it.

        Raises:
            RequestError: there is no such picture, or it has expired.
            BusyError: the database or the picture store does not answer.
        """
        try:
            record = await asyncio.to_thread(self.store.get_by_token, picture.request_id, picture.token)
            return await self.pictures.whole(record, picture.number)
        except (NotFoundError, IndexError):
            problem = "is the URL of a picture that this server does not have, or no longer"
            raise RequestError(name, problem) from None
