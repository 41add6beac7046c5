"""What is a bucket to studies? Objects in S3-compatible storage, each put whole, and one that commits the others.

A published study NAME is there as `NAME.MANIFEST.json`, put last and once, and its objects in `NAME/CONTENT/`, where
CONTENT begins the manifest hash: what is put there is the same whoever puts it, and two studies of a name do not mix.
"""

import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from store import files, pictures
from store.errors import DamagedError, StoreError
from store.manifest import Manifest
from store.objects import damaged, fault
from store.paths import STUDY_NAME

ADDRESS = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([A-Za-z0-9._/-]*))?")
MANIFEST = ".MANIFEST.json"
MOST_MANIFEST = 100_000_000  # bytes; that of 50,000 images has 6 million
# Bytes that cross the network in one request; S3 takes parts of 5 MB to 5 GB.
PART = 8_000_000
# A request that gets no answer, or a busy one, is sent again: so often, and not after so many seconds.
MOST_RETRIES = 6
RETRY_SECONDS = 180.0
# Seconds for one request. A line of 0.5 Mbit/s brings a part in that time.
REQUEST_SECONDS = 120.0
CONNECT_SECONDS = 5.0
_COMMITS = 3  # times that the manifest is put when nobody says what became of it

# What the storage answers, by its own word for it, and what to do.
_REFUSED = {
    "InvalidAccessKeyId": "does not know the key; check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "refused the key; check that AWS_SECRET_ACCESS_KEY belongs to AWS_ACCESS_KEY_ID",
    "ExpiredToken": "says that the key has expired; get a new one, with its AWS_SESSION_TOKEN",
    "InvalidToken": "does not take the AWS_SESSION_TOKEN; get a new one, or unset it where the key has none",
    "RequestTimeTooSkewed": "finds the clock of this machine wrong; set it",
    "AccessDenied": "does not let this key in; it needs s3:ListBucket, s3:GetObject and, to push, s3:PutObject",
    "AuthorizationHeaderMalformed": "is in another region; set AWS_REGION",
    "PermanentRedirect": "is in another region; set AWS_REGION",
    "NotImplemented": "does not take If-None-Match, by which a study is pushed only once; it needs a newer version",
}


class BucketError(StoreError, OSError):
    """The bucket cannot be used as it was asked to; the message says what to do."""


class BucketConflictError(BucketError):
    """The bucket has another study of that name."""


class BucketBusyError(BucketError):
    """The bucket is not reached, or does not answer: later it may."""


class Bucket:
    """A place in S3-compatible storage. Safe to share between threads.

    Endpoint and keys come from the environment: AWS_ENDPOINT_URL (without it, Amazon's), AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION. No error has a key in it.

    Attributes:
        url: As `s3://lab/headscope`.
    """

    def __init__(self, url: str | None) -> None:
        """Nothing is asked of the storage yet.

        Raises:
            BucketError: There is no such place, or the environment or an installed package lacks something.
        """
        if not url:
            raise BucketError("no bucket is named; set HEADSCOPE_BUCKET, as s3://lab/headscope")
        found = ADDRESS.fullmatch(url)
        if found is None:
            raise BucketError(
                "HEADSCOPE_BUCKET is no bucket's address; give s3://BUCKET or s3://BUCKET/FOLDER. "
                "Keys have variables of their own, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        try:
            import obstore
            from obstore.store import S3Store
        except ImportError:
            raise BucketError("a bucket needs obstore, not installed here; pip install 'headscope[s3]'") from None
        self._name = found[1]
        prefix = "/".join(part for part in (found[2] or "").split("/") if part not in ("", ".", ".."))
        self.url = f"s3://{self._name}/{prefix}".rstrip("/")
        self._endpoint, known_keys = _endpoint(), bool(os.environ.get("AWS_ACCESS_KEY_ID"))
        if known_keys != bool(os.environ.get("AWS_SECRET_ACCESS_KEY")) or (self._endpoint and not known_keys):
            missing = "AWS_SECRET_ACCESS_KEY" if known_keys else "AWS_ACCESS_KEY_ID"
            raise BucketError(f"{missing} is not set; {self.url} needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        self._obstore = obstore
        self._store = S3Store(
            self._name,
            prefix=prefix or None,
            config={
                "region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
                **({"endpoint": self._endpoint} if self._endpoint else {}),
            },
            client_options={
                "allow_http": self._endpoint.startswith("http://"),
                "timeout": timedelta(seconds=REQUEST_SECONDS),
                "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            },
            retry_config={
                "max_retries": MOST_RETRIES,
                "retry_timeout": timedelta(seconds=RETRY_SECONDS),
                "backoff": {
                    "init_backoff": timedelta(seconds=0.1),
                    "max_backoff": timedelta(seconds=15),
                    "base": 2,
                },
            },
        )

    def address(self, key: str) -> str:
        """Of an object, for people."""
        return f"{self.url}/{key}"

    def group(self, study: str, manifest: Manifest) -> str:
        """Address of a study's Zarr group."""
        return self.address(_folder(study, manifest))

    def studies(self) -> dict[str, str]:
        """The studies that are committed, by name, each with what changes when its manifest does.

        What is called otherwise than a study is none, and neither is a private one.
        """
        with self._told():
            found = self._store.list_with_delimiter()["objects"]
        named = {each["path"].removesuffix(MANIFEST): each for each in found if each["path"].endswith(MANIFEST)}
        return {
            name: f"{each['size']} {each['e_tag']}"
            for name, each in sorted(named.items())
            if STUDY_NAME.fullmatch(name) and not pictures.is_name(name)
        }

    def manifest(self, study: str) -> bytes | None:
        """The manifest of a study, as it was put; None if there is none.

        Raises:
            DamagedError: It is too large to be one.
        """
        with self._told():
            try:
                found = self._store.get(f"{study}{MANIFEST}")
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                return None
            if (size := found.meta["size"]) > MOST_MANIFEST:
                raise DamagedError(f"{self.address(study + MANIFEST)} is {size} bytes long, which no manifest is", [])
            return bytes(found.bytes())

    def sizes(self, study: str, manifest: Manifest) -> dict[str, int]:
        """What is there of a study's objects, by name, in bytes."""
        folder = _folder(study, manifest)
        with self._told():
            listed = [each for batch in self._store.list(folder) for each in batch]
        return {each["path"].removeprefix(f"{folder}/"): each["size"] for each in listed}

    def put(self, study: str, manifest: Manifest, key: str, path: Path) -> None:
        """Put the object `key` of a study, which is the file at `path`.

        Raises:
            DamagedError: The file is not as the manifest says.
        """
        expected = manifest.objects[key]
        if problem := fault(path, expected):
            raise damaged(key, problem)
        with self._told():
            self._store.put(
                f"{_folder(study, manifest)}/{key}", path, use_multipart=expected[0] > PART, chunk_size=PART
            )

    def commit(self, study: str, text: bytes) -> None:
        """Put the manifest of a study, all objects of which are there. It is put once: never in place of another.

        Raises:
            BucketConflictError: Another one is there.
        """
        for left in reversed(range(_COMMITS)):
            try:
                with self._told():
                    self._store.put(f"{study}{MANIFEST}", text, mode="create", use_multipart=False)
            except self._obstore.exceptions.AlreadyExistsError:
                pass  # maybe ours, by a request whose answer was lost
            except BucketBusyError:  # nobody knows whether it is there
                if left and self.manifest(study) is None:
                    continue
            else:
                return
            there = self.manifest(study)
            if there == text:
                return
            if there is not None:
                raise self.conflict(study, text, there)
        raise BucketBusyError(f"{self.address(study + MANIFEST)} does not come to be; push {study} again")

    def conflict(self, study: str, ours: bytes, theirs: bytes) -> BucketConflictError:
        """The error for two manifests of one name."""
        here, there = (_content(study, text) for text in (ours, theirs))
        return BucketConflictError(
            f"{self.url} has another study {study} already ({there}, and here {here}), and what is there never "
            f"changes: compute this one under another name, or remove {self.address(study + MANIFEST)} first"
        )

    def fetch(self, study: str, manifest: Manifest, key: str, path: Path) -> None:
        """Have the object `key` of a study be the file at `path`, flushed to the disk; or not at all.

        Raises:
            DamagedError: It is missing, or not as the manifest says.
        """
        size, sha256 = manifest.objects[key]
        files.make_folder(path.parent)
        partial = path.with_name(f"{uuid.uuid4().hex}{files.PARTIAL}")
        read = hashlib.sha256()
        try:
            with partial.open("wb") as file:
                for piece in self._pieces(f"{_folder(study, manifest)}/{key}", key, size):
                    read.update(piece)
                    file.write(piece)
                if read.hexdigest() != sha256:
                    raise damaged(key, "changed")
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _pieces(self, at: str, key: str, size: int) -> Iterator[memoryview]:
        """An object of that size, part by part."""
        for start in range(0, max(size, 1), PART):
            with self._told():
                try:
                    if size:
                        found = self._store.get(at, options={"range": (start, min(size, start + PART))})
                        length, piece = found.meta["size"], memoryview(found.bytes())
                    else:
                        length, piece = self._store.head(at)["size"], memoryview(b"")
                except FileNotFoundError as error:
                    if "NoSuchBucket" in str(error):
                        raise
                    raise damaged(key, "missing") from None
            if length != size or len(piece) != min(size - start, PART):
                raise damaged(key, f"{length} bytes long instead of {size}")
            yield piece

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what the storage, or the way to it, says into one line without what is secret."""
        exceptions = self._obstore.exceptions
        try:
            yield
        except (StoreError, exceptions.AlreadyExistsError):
            raise
        except exceptions.InvalidPathError as error:
            name = ascii(str(error).partition("\n")[0][:200])
            raise BucketError(f"{self.url} has an object whose name cannot be: {name}; remove it there") from None
        except (exceptions.BaseError, FileNotFoundError) as error:
            raise self._error(str(error)) from None

    def _error(self, said: str) -> BucketError:
        at = f"{self.url} at {self._endpoint}" if self._endpoint else self.url
        code = found[1] if (found := re.search(r"<Code>(\w{1,60})</Code>", said)) else ""
        status = found[1] if (found := re.search(r"status code: (\d{3})", said)) else ""
        if code == "NoSuchBucket" or (not code and status == "404"):
            return BucketError(f"there is no bucket {self._name} ({at}); make it, or mend HEADSCOPE_BUCKET")
        if "indicates an incorrectly configured region" in said:
            code = "PermanentRedirect"
        if status in ("401", "403") and code not in _REFUSED and "169.254.169.254" not in said:
            code = "AccessDenied"
        if code in _REFUSED:
            return BucketError(f"{at} {_REFUSED[code]}")
        if "169.254.169.254" in said:
            return BucketError(f"no key for {at}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        if status:
            answer = f"{at} answers {status} {code}".rstrip()
            if status in ("408", "429") or status >= "500":
                return BucketBusyError(f"{answer}, again and again; try again later, it goes on from there")
            return BucketError(f"{answer}; check HEADSCOPE_BUCKET and AWS_ENDPOINT_URL")
        if "kind: Connect" in said:
            return BucketBusyError(f"{at} is not reached; check AWS_ENDPOINT_URL and the way there")
        return BucketBusyError(f"{at} does not answer; try again later, it goes on from there")


def _folder(study: str, manifest: Manifest) -> str:
    return f"{study}/{manifest.content[:12]}"


def _content(study: str, text: bytes) -> str:
    try:
        return f"manifest {Manifest.parse(text, Path(study) / 'MANIFEST.json').content[:12]}"
    except StoreError:
        return "a manifest that cannot be read"


def _endpoint() -> str:
    """Where the storage is, without a slash behind it; "" for Amazon's.

    Raises:
        BucketError: It is no address, or has a password in it.
    """
    given = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    try:
        at = urlsplit(given)
        good = not given or (at.scheme in ("http", "https") and at.hostname and "@" not in at.netloc and at.port != 0)
    except ValueError:
        good = False
    if not good or not re.fullmatch(r"[!-~]*", given) or at.query or at.fragment:
        raise BucketError("AWS_ENDPOINT_URL is no address; give one without user and password, as https://s3.lab.org")
    return given.rstrip("/")
