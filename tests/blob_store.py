"""A blob store in memory that stands in for gs:// and az:// behind blobfile's functions."""

import io

import blobfile as bf


class BlobStore:
    """Objects by path, whole ones only: an object is there once its file is closed without an error, as in real ones.

    log   the paths written and removed, in order, ("write" or "remove", path)
    read  the paths read, in order
    """

    def __init__(self, monkeypatch):
        self.objects, self.log, self.read = {}, [], []
        for name in ("BlobFile", "exists", "isdir", "listdir", "remove"):
            monkeypatch.setattr(bf, name, self._instead(getattr(bf, name), getattr(self, f"_{name}")))

    def _instead(self, real, own):
        return lambda path, *rest: own(str(path), *rest) if "://" in str(path) else real(path, *rest)

    def _BlobFile(self, path, mode):
        if mode == "rb":
            self.read.append(path)
            return io.BytesIO(self.objects[path])
        assert mode == "wb"
        return _Writing(self, path)

    def _exists(self, path):
        return path in self.objects

    def _isdir(self, path):
        return any(name.startswith(path.rstrip("/") + "/") for name in self.objects)

    def _listdir(self, path):
        start = path.rstrip("/") + "/"
        return iter({name[len(start) :].split("/")[0] for name in self.objects if name.startswith(start)})

    def _remove(self, path):
        del self.objects[path]
        self.log.append(("remove", path))


class _Writing(io.BytesIO):
    def __init__(self, store, path):
        super().__init__()
        self.store, self.path = store, path

    def __exit__(self, kind, *exception):
        if kind is None:
            self.store.objects[self.path] = self.getvalue()
            self.store.log.append(("write", self.path))
        super().__exit__(kind, *exception)
