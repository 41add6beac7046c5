"""Who may do what? The users in the ledger's database: their roles, passwords and failed sign-ins."""

import re
import secrets
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal, get_args

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Connection

from jobs.database import Database
from jobs.tables import failures, users
from store.errors import StoreError
from store.settings import Settings, is_loopback

Role = Literal["viewer", "analyst", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)  # each may do what those before it may

SHORTEST, LONGEST = 12, 1000  # characters of a password
# So many failed sign-ins of one name, or from one address, within so many seconds; then it must wait.
MOST_FAILURES, WITHIN = 10, 300.0

SHORTEST_SECRET = 32  # characters
# A secret with one of these in it is an example that somebody left as it was; random ones have none.
_EXAMPLES = ("change", "secret", "password", "headscope", "example", "default", "0123456789")
_FEWEST_DIFFERENT = 8  # characters; 32 random hexadecimal digits have fewer once in ten million times

_NAME = re.compile(r"[a-z0-9._@-]{1,64}")
# OWASP's first choice for argon2id: 19 MiB and some 20 ms a sign-in, so that a server's threads fit into its memory.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)


class AccountError(StoreError, ValueError):
    """That cannot be done with the users; nothing was changed."""


class TooManyFailuresError(StoreError, PermissionError):
    """There were too many failed sign-ins.

    Attributes:
        seconds: After which another is heard.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"Too many sign-ins failed; try again in {max(1, round(seconds / 60))} min.")
        self.seconds = seconds


@dataclass(frozen=True)
class User:
    """Somebody who may do something.

    Attributes:
        role: Of ROLES.
        stamp: Changes with the password and the role; a sign-in holds for one stamp.
        added: Seconds since 1970.
        has_password: Whether the user can sign in with one.
    """

    name: str
    role: Role
    stamp: str = ""
    added: float = 0.0
    has_password: bool = False

    def may(self, role: Role) -> bool:
        """Whether this role or a lower one is asked for."""
        return ROLES.index(self.role) >= ROLES.index(role)


class Accounts:
    """The users of the ledger at `url`. Threads share it, and processes.

    Raises:
        NewerLedgerError: The ledger was made by a newer Headscope.
        LedgerUnavailableError: It does not answer, as any method may say.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url)

    # What an operator does

    def add(self, name: str, role: str, password: str | None) -> User:
        """A new user; without a password, one that only the lab's own proxy lets in.

        Raises:
            AccountError: The name, the role or the password will not do, or there is such a user.
        """
        name = checked_name(name)
        hashed = None if password is None else _hashed(password)
        row = {"name": name, "role": _checked_role(role), "password": hashed, "stamp": _stamp()}
        with self._database.write() as (conn, now):
            if _row(conn, name) is not None:
                raise _is_there(name)
            conn.execute(insert(users), row | {"added": now})
            return _user(_row(conn, name))

    def check_new(self, name: str, role: str) -> None:
        """Nothing, if such a user can be added: to be asked before a person types a password.

        Raises:
            AccountError: As `add`.
        """
        _checked_role(role)
        if self.find(checked_name(name)) is not None:
            raise _is_there(name)

    def check_known(self, name: str) -> None:
        """Nothing, if there is such a user.

        Raises:
            AccountError: There is none.
        """
        if self.find(name) is None:
            raise _no_user(name)

    def users(self) -> list[User]:
        """All of them, by name."""
        with self._database.read() as (conn, _):
            return [_user(row) for row in conn.execute(select(users).order_by(users.c.name))]

    def set_role(self, name: str, role: str) -> User:
        """Give a user another role; they sign in anew.

        Raises:
            AccountError: There is no such user, or no such role.
        """
        return self._change(name, {"role": _checked_role(role)})

    def set_password(self, name: str, password: str) -> User:
        """Give a user another password; they sign in anew.

        Raises:
            AccountError: There is no such user, or the password will not do.
        """
        return self._change(name, {"password": _hashed(password)})

    def end(self, name: str) -> None:
        """End every sign-in of a user, wherever it is."""
        self._change(name, {})

    def remove(self, name: str) -> None:
        """Remove a user; their jobs stay.

        Raises:
            AccountError: There is no such user.
        """
        with self._database.write() as (conn, _):
            if not conn.execute(delete(users).where(users.c.name == _looked_up(name))).rowcount:
                raise _no_user(name)

    def _change(self, name: str, values: dict[str, Any]) -> User:
        with self._database.write() as (conn, _):
            change = update(users).where(users.c.name == _looked_up(name))
            if not conn.execute(change.values(stamp=_stamp(), **values)).rowcount:
                raise _no_user(name)
            return _user(_row(conn, _looked_up(name)))

    # What the page asks

    def find(self, name: str) -> User | None:
        """The user of that name; None if there is none."""
        with self._database.read() as (conn, _):
            row = _row(conn, _looked_up(name))
            return None if row is None else _user(row)

    def known(self, name: str) -> User:
        """The user that the lab's own proxy let in: a viewer, when it is one that was not here before.

        Raises:
            AccountError: It cannot be the name of a user.
        """
        name = checked_name(name)
        if (user := self.find(name)) is not None:
            return user
        with self._database.write() as (conn, now):
            if _row(conn, name) is None:
                conn.execute(insert(users), {"name": name, "role": ROLES[0], "stamp": _stamp(), "added": now})
            return _user(_row(conn, name))

    def check(self, name: str, password: str) -> User | None:
        """The user, if that is the password; the effort is the same where there is no such user."""
        with self._database.read() as (conn, _):
            row = _row(conn, _looked_up(name))
        kept = _NOBODYS if row is None or row.password is None else row.password
        try:
            _HASHER.verify(kept, _normal(password))
        except (VerificationError, InvalidHashError):
            return None
        return None if row is None or kept is _NOBODYS else _user(row)

    def sign_in(self, name: str, password: str, address: str) -> User | None:
        """As `check`, for somebody at an address, who may fail MOST_FAILURES times.

        Raises:
            TooManyFailuresError: That name or address has failed too often.
        """
        # It is counted before the password is looked at, so that many at once are not more than one after another.
        mine = self._count(f"name {_looked_up(name)}", f"address {address}")
        user = self.check(name, password)
        if user is not None:
            with self._database.write() as (conn, _):
                conn.execute(delete(failures).where(failures.c.number.in_(mine)))
        return user

    def _count(self, *counted: str) -> list[int]:
        with self._database.write() as (conn, now):
            conn.execute(delete(failures).where(failures.c.at < now - WITHIN))
            for each in counted:
                mine = select(failures.c.at).where(failures.c.counted == each).order_by(failures.c.at.desc())
                if (oldest := conn.scalar(mine.offset(MOST_FAILURES - 1).limit(1))) is not None:
                    raise TooManyFailuresError(oldest + WITHIN - now)
            one = insert(failures).returning(failures.c.number)
            return [conn.execute(one, {"counted": each, "at": now}).scalar_one() for each in counted]


def obstacles(settings: Settings) -> list[str]:
    """Why the page must not be served as it is set, one line each with what to do; none if it may be."""
    if settings.is_open:
        return []
    found = []
    if settings.sign_in is False and not is_loopback(settings.host):
        found.append(
            f"HEADSCOPE_SIGN_IN=false is for this machine alone, and {settings.host} is reached from others; "
            "unset it, or serve with --host 127.0.0.1"
        )
    if weakness := _weakness(settings.secret.get_secret_value() if settings.secret else ""):
        found.append(
            f"HEADSCOPE_SECRET {weakness}; run `headscope init`, which makes one, or set it to "
            f"{SHORTEST_SECRET} or more random characters"
        )
    if not settings.trusted_header and not any(user.has_password for user in Accounts(settings.ledger_url).users()):
        found.append("nobody could sign in, as there is no user; run `headscope user add NAME --role admin`")
    return found


def _weakness(secret: str) -> str:
    """Why somebody could guess it; empty if nobody can."""
    if not secret:
        return "is not set"
    if len(secret) < SHORTEST_SECRET:
        return f"has {len(secret)} characters"
    if len(set(secret)) < _FEWEST_DIFFERENT:
        return f"has only {len(set(secret))} different characters"
    if example := next((word for word in _EXAMPLES if word in secret.lower()), None):
        return f"has the word {example!r} in it, as examples do"
    return ""


def checked_name(name: str) -> str:
    """The name as it is kept, in small letters.

    Raises:
        AccountError: It cannot be the name of a user.
    """
    if _NAME.fullmatch(name.lower()) is None:
        raise AccountError(f"{name[:80]!r} cannot be a user's name: use 1 to 64 letters, digits, '.', '_', '@' and '-'")
    return name.lower()


def _looked_up(name: str) -> str:
    """The name as it is kept; nobody's, if it cannot be a user's: not every text may go into a database."""
    return name.lower() if _NAME.fullmatch(name.lower()) else ""


def _checked_role(role: str) -> str:
    if role not in ROLES:
        raise AccountError(f"{role[:80]!r} is not a role; give {', '.join(ROLES[:-1])} or {ROLES[-1]}")
    return role


def _hashed(password: str) -> str:
    if not SHORTEST <= len(password) <= LONGEST:
        raise AccountError(
            f"the password has {len(password):,} characters; give {SHORTEST} to {LONGEST:,}, as a few words in a row"
        )
    return _HASHER.hash(_normal(password))


def _normal(password: str) -> str:
    """Equal for equal characters, however a system writes them; some write é as e and an accent."""
    return unicodedata.normalize("NFC", password)


def _stamp() -> str:
    return secrets.token_hex(16)


def _row(conn: Connection, name: str) -> Any:
    return conn.execute(select(users).where(users.c.name == name)).first()


def _user(row: Any) -> User:
    return User(row.name, row.role, row.stamp, row.added, row.password is not None)


def _is_there(name: str) -> AccountError:
    return AccountError(
        f"there is a user {name} already; `headscope user role` and `headscope user password` change it"
    )


def _no_user(name: str) -> AccountError:
    return AccountError(f"there is no user {name[:80]}; `headscope user list` lists them")


_NOBODYS = _HASHER.hash(secrets.token_hex(16))  # what a password is compared with where there is no user
