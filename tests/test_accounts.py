"""Users, their passwords and their failed sign-ins, in SQLite and in PostgreSQL."""

import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import select, text, update

from dashboard import accounts as accounts_module
from dashboard.accounts import (
    LONGEST,
    MOST_FAILURES,
    SHORTEST,
    WITHIN,
    AccountError,
    Accounts,
    TooManyFailuresError,
    User,
    obstacles,
)
from jobs import tables
from jobs.database import LedgerUnavailableError
from jobs.ledger import Ledger
from jobs.work import Step
from store.settings import Settings, is_loopback

pytestmark = pytest.mark.usefixtures("cheap_passwords")
ROOT = Path(__file__).parents[1]
PASSWORD, OTHER = "correct horse battery", "staple of another kind"
SECRET = "8f3a61c0d92be47715f08c6a2d94e3b1"
HERE = "192.0.2.7"


# Argon2 as the server has it, before the tests make it cheap.
COSTLY = accounts_module._HASHER, accounts_module._NOBODYS


@pytest.fixture
def accounts(ledger_url: str) -> Accounts:
    return Accounts(ledger_url)


def pass_time(accounts: Accounts, seconds: float) -> None:
    """What is kept of failures, so many seconds later."""
    with accounts._database.write() as (conn, _):
        conn.execute(update(tables.failures).values(at=tables.failures.c.at - seconds))


def failures(accounts: Accounts) -> int:
    with accounts._database.read() as (conn, _):
        return int(conn.scalar(select(sa.func.count()).select_from(tables.failures)))


# Users


def test_a_user_signs_in_with_the_password_and_with_no_other(accounts):
    added = accounts.add("ann", "analyst", PASSWORD)
    assert (added.name, added.role, added.has_password) == ("ann", "analyst", True)
    assert accounts.check("ann", PASSWORD) == accounts.find("ann") == added
    assert accounts.users() == [added]
    for name, password in (("ann", OTHER), ("ann", ""), ("ann", PASSWORD + " "), ("bob", PASSWORD), ("", "")):
        assert accounts.check(name, password) is None


def test_no_password_is_kept_and_equal_ones_are_kept_differently(accounts):
    accounts.add("ann", "viewer", PASSWORD)
    accounts.add("bob", "viewer", PASSWORD)
    with accounts._database.read() as (conn, _):
        kept = list(conn.scalars(select(tables.users.c.password)))
    assert len(set(kept)) == 2
    for each in kept:
        assert each.startswith("$argon2id$")
        assert PASSWORD not in each


def test_capitals_in_a_name_make_no_difference(accounts):
    accounts.add("Ann@Lab.org", "viewer", PASSWORD)
    assert accounts.check("aNN@lab.ORG", PASSWORD).name == "ann@lab.org"
    with pytest.raises(AccountError, match=r"there is a user ann@lab\.org already"):
        accounts.add("ANN@LAB.ORG", "viewer", PASSWORD)


def test_an_accent_is_the_same_however_it_is_typed(accounts):
    accounts.add("ann", "viewer", "caf\u00e9 caf\u00e9 caf\u00e9")
    assert accounts.check("ann", "cafe\u0301 cafe\u0301 cafe\u0301")


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a/b", "../a", "a\0", "a\n", "é", "<b>", "a" * 65, "a;b", "a,b", "\ud800"]
)
def test_what_cannot_be_a_name_is_refused_and_known_to_nobody(accounts, name):
    with pytest.raises(AccountError, match="letters, digits"):
        accounts.add(name, "viewer", PASSWORD)
    with pytest.raises(AccountError, match="letters, digits"):
        accounts.known(name)
    assert accounts.find(name) is None
    assert accounts.check(name, PASSWORD) is None
    assert accounts.sign_in(name, PASSWORD, HERE) is None
    assert accounts.users() == []


@pytest.mark.parametrize("password", ["", "a" * (SHORTEST - 1), "a" * (LONGEST + 1)])
def test_a_password_that_is_too_short_or_too_long_is_refused(accounts, password):
    with pytest.raises(AccountError, match=rf"{len(password):,} characters; give {SHORTEST} to"):
        accounts.add("ann", "viewer", password)
    accounts.add("ann", "viewer", "a" * SHORTEST)
    with pytest.raises(AccountError, match="characters; give"):
        accounts.set_password("ann", password)
    assert accounts.check("ann", "a" * SHORTEST)


def test_a_role_that_there_is_not_is_refused(accounts):
    with pytest.raises(AccountError, match="'root' is not a role; give viewer, analyst or admin"):
        accounts.add("ann", "root", PASSWORD)
    accounts.add("ann", "viewer", PASSWORD)
    with pytest.raises(AccountError, match="is not a role"):
        accounts.set_role("ann", "")
    assert accounts.find("ann").role == "viewer"


def test_each_role_may_what_those_before_it_may():
    may = {role: [User("x", role).may(asked) for asked in accounts_module.ROLES] for role in accounts_module.ROLES}
    assert may == {
        "viewer": [True, False, False],
        "analyst": [True, True, False],
        "admin": [True, True, True],
    }


def test_the_stamp_changes_with_the_password_the_role_and_the_end(accounts):
    stamps = [accounts.add("ann", "viewer", PASSWORD).stamp]
    stamps.append(accounts.set_role("ann", "analyst").stamp)
    stamps.append(accounts.set_password("ann", OTHER).stamp)
    accounts.end("ann")
    stamps.append(accounts.find("ann").stamp)
    accounts.remove("ann")
    stamps.append(accounts.add("ann", "analyst", OTHER).stamp)
    assert len(set(stamps)) == len(stamps)
    assert accounts.check("ann", PASSWORD) is None
    assert accounts.check("ann", OTHER).role == "analyst"


def test_who_is_not_there_cannot_be_changed(accounts):
    for change in (
        lambda: accounts.set_role("ann", "viewer"),
        lambda: accounts.set_password("ann", PASSWORD),
        lambda: accounts.remove("ann"),
        lambda: accounts.end("ann"),
    ):
        with pytest.raises(AccountError, match="there is no user ann; `headscope user list` lists them"):
            change()


def test_whom_the_proxy_lets_in_is_a_viewer_at_first_and_has_no_password(accounts):
    start = threading.Barrier(8)

    def seen(_: int) -> User:
        start.wait()
        return accounts.known("Ann@lab.org")

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(seen, range(8)))
    assert found == {accounts.find("ann@lab.org")}
    assert (found.pop().role, accounts.users()[0].has_password) == ("viewer", False)
    accounts.set_role("ann@lab.org", "admin")
    assert accounts.known("ann@lab.org").role == "admin"
    for password in ("", "None", PASSWORD):
        assert accounts.check("ann@lab.org", password) is None


# Failed sign-ins


def test_after_ten_failures_a_name_waits_wherever_it_is_tried_from(accounts):
    accounts.add("ann", "viewer", PASSWORD)
    accounts.add("bob", "viewer", PASSWORD)
    for number in range(MOST_FAILURES):
        assert accounts.sign_in("Ann" if number % 2 else "ann", OTHER, f"192.0.2.{number}") is None
    for password in (OTHER, PASSWORD):
        with pytest.raises(TooManyFailuresError, match="Too many sign-ins failed; try again in 5 min") as refused:
            accounts.sign_in("ann", password, HERE)
        assert WITHIN - 30 < refused.value.seconds <= WITHIN
    assert accounts.sign_in("bob", PASSWORD, HERE)
    pass_time(accounts, WITHIN - 60)
    with pytest.raises(TooManyFailuresError, match="in 1 min"):
        accounts.sign_in("ann", PASSWORD, HERE)
    pass_time(accounts, 61)
    assert accounts.sign_in("ann", PASSWORD, HERE)
    assert failures(accounts) == 0


def test_after_ten_failures_an_address_waits_whatever_name_it_tries(accounts):
    accounts.add("ann", "viewer", PASSWORD)
    for number in range(MOST_FAILURES):
        accounts.sign_in(f"nobody{number}", OTHER, HERE)
    with pytest.raises(TooManyFailuresError):
        accounts.sign_in("ann", PASSWORD, HERE)
    assert accounts.sign_in("ann", PASSWORD, "192.0.2.8")


def test_signing_in_is_no_failure_and_forgives_none(accounts):
    accounts.add("ann", "viewer", PASSWORD)
    for _ in range(3 * MOST_FAILURES):
        assert accounts.sign_in("ann", PASSWORD, HERE)
    assert failures(accounts) == 0
    for _ in range(MOST_FAILURES - 1):
        accounts.sign_in("bob", OTHER, HERE)
    assert accounts.sign_in("ann", PASSWORD, HERE)
    accounts.sign_in("bob", OTHER, HERE)
    with pytest.raises(TooManyFailuresError):
        accounts.sign_in("ann", PASSWORD, HERE)


def test_many_at_once_are_not_more_than_one_after_another(ledger_url):
    accounts = [Accounts(ledger_url) for _ in range(4)]  # as in four processes
    accounts[0].add("ann", "viewer", PASSWORD)
    start = threading.Barrier(20)

    def guess(number: int) -> bool:
        start.wait()
        try:
            return accounts[number % 4].sign_in("ann", f"guess number {number}", f"192.0.2.{number}") is None
        except TooManyFailuresError:
            return False

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(guess, range(20))) == MOST_FAILURES


def test_a_name_that_there_is_not_takes_as_long_as_a_wrong_password(accounts, monkeypatch):
    for name, value in zip(("_HASHER", "_NOBODYS"), COSTLY, strict=True):
        monkeypatch.setattr(accounts_module, name, value)
    accounts.add("ann", "viewer", PASSWORD)
    accounts.known("proxied")
    names = ["ann", "nobody", "proxied", "\0"]
    took = {name: [] for name in names}
    for _ in range(8):
        for name in names:
            since = time.process_time()
            assert accounts.check(name, OTHER) is None
            took[name].append(time.process_time() - since)
    fastest = {name: min(times) for name, times in took.items()}
    assert max(fastest.values()) < 2 * min(fastest.values()), fastest
    assert statistics.median(took["nobody"]) > 0.005  # a hash was computed


# The table


def test_a_ledger_of_version_1_gets_its_users_and_keeps_its_jobs(request, tmp_path, ledger_url):
    kind = "postgresql" if ledger_url.startswith("postgresql") else "sqlite"
    old = ledger_url if kind == "postgresql" else f"sqlite:///{tmp_path}/old.db"
    config = Config()
    config.set_main_option("script_location", str(ROOT / "jobs" / "migrations"))
    engine = sa.create_engine(old)
    with engine.begin() as conn:
        config.attributes["connection"] = conn
        command.upgrade(config, "1")
        assert not sa.inspect(conn).has_table("users")
        conn.execute(
            text(
                "INSERT INTO jobs (id, kind, queue, key, request, title, who, state, submitted, phase, units_done, "
                "units_total, images_done, images_total, cleaning, facts) VALUES ('abc', 'price', 'bulk', 'k', '{}', "
                "'t', 'ann', 'queued', 1.0, 0, 0, 1, 0, 0, :no, '{}')"
            ),
            {"no": False},
        )
    engine.dispose()
    accounts = Accounts(old)
    assert accounts.add("ann", "admin", PASSWORD)
    ledger = Ledger(old)
    assert [job.id for job in ledger.jobs()] == ["abc"]
    assert ledger.submit("price", "bulk", {}, "other", "t", "ann", [Step(0, 0, "plan")], answered_once=False)[1]
    with ledger._database.read() as (conn, _):
        assert conn.scalar(text("SELECT version_num FROM alembic_version")) == tables.VERSION


def test_a_ledger_that_does_not_answer_lets_nobody_in(tmp_path):
    accounts = Accounts(f"sqlite:///{tmp_path}/ledger.db")
    accounts.add("ann", "viewer", PASSWORD)
    with accounts._database.write() as (conn, _):
        conn.execute(text("ALTER TABLE users RENAME TO gone"))
    for ask in (lambda: accounts.find("ann"), lambda: accounts.check("ann", PASSWORD)):
        with pytest.raises(LedgerUnavailableError):
            ask()


# What the page must not be served with


def test_a_page_for_this_machine_alone_needs_nothing(tmp_path):
    for host in ("127.0.0.1", "::1", "localhost", "127.8.9.10"):
        assert obstacles(Settings(data=tmp_path, host=host)) == []
        assert Settings(data=tmp_path, host=host).is_open
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a user, which tests only read."""
    folder = tmp_path_factory.mktemp("data")
    Accounts(Settings(data=folder).ledger_url).add("ann", "admin", PASSWORD)
    return folder


@pytest.mark.parametrize("asked", [{"host": "0.0.0.0"}, {"host": "::"}, {"host": "lab.org"}, {"sign_in": True}])
def test_wherever_people_sign_in_there_is_a_secret(data, asked):
    (found,) = obstacles(Settings(data=data, **asked))
    assert found.startswith("HEADSCOPE_SECRET is not set; run `headscope init`")
    assert obstacles(Settings(data=data, secret=SECRET, **asked)) == []


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ("a short one", "has 11 characters"),
        (SECRET[:31], "has 31 characters"),
        ("x" * 40, "has only 1 different"),
        ("abcabcabc" * 5, "has only 3 different"),
        ("please-changeme-to-something-else-1", "has the word 'change'"),
        ("my-Secret-9f8a7b6c5d4e3f2a1b0c9d8e", "has the word 'secret'"),
        ("0123456789abcdef0123456789abcdef", "has the word '0123456789'"),
    ],
)
def test_a_secret_that_somebody_could_guess_is_an_obstacle_and_said_nowhere(data, secret, said):
    settings = Settings(data=data, host="0.0.0.0", secret=secret)
    (found,) = obstacles(settings)
    assert found.startswith(f"HEADSCOPE_SECRET {said}")
    assert "`headscope init`" in found
    assert secret not in found + repr(settings) + str(settings.model_dump())


def test_without_a_user_who_can_sign_in_the_page_is_not_served(tmp_path):
    settings = Settings(data=tmp_path, host="0.0.0.0", secret=SECRET)
    assert [line for line in obstacles(settings) if "`headscope user add NAME" in line] == obstacles(settings) != []
    accounts = Accounts(settings.ledger_url)
    accounts.known("proxied")
    assert obstacles(settings)
    assert obstacles(settings.model_copy(update={"trusted_header": "X-Remote-User"})) == []
    accounts.add("ann", "viewer", PASSWORD)
    assert obstacles(settings) == []


def test_other_machines_are_never_served_without_signing_in(tmp_path):
    settings = Settings(data=tmp_path, host="0.0.0.0", secret=SECRET, sign_in=False)
    Accounts(settings.ledger_url).add("ann", "viewer", PASSWORD)
    assert not settings.is_open
    (found,) = obstacles(settings)
    assert found.startswith("HEADSCOPE_SIGN_IN=false is for this machine alone, and 0.0.0.0 is reached from others")


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "::1", "localhost", "LOCALHOST", "127.255.0.1"])
def test_a_machine_calls_itself_so(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "lab.org", "localhost.lab.org", "127.0.0.1.nip.io", "127.1", "2130706433", "1.2.3.4"]
)
def test_a_machine_does_not_call_itself_so(host):
    assert not is_loopback(host)
